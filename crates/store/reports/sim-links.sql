-- report: sim-links
-- team: operations
-- question: Which SIM was seen in which modem of which device, from when to when, and is that what the registry says?
-- unknown: SIMs and modems of devices that tell none. A device that is silent may have another SIM by now. The view is brought up to date by the writer every few minutes.
-- parameter: id String = | an ICCID, IMEI, IMSI or device id; empty: all
-- parameter: newest Bool = false | only what each device told last
SELECT
    l.iccid AS iccid, l.imsi AS imsi, l.imei AS imei, l.device_id AS device_id, l.first_seen AS first_seen, l.last_seen AS last_seen, l.nth = 1 AS is_newest,
    if(s.iccid = '', 'not in the registry', s.state) AS sim_state, s.plan_id AS plan_id,
    d.iccid_expected AS expected_iccid, d.imei AS expected_imei,
    multiIf(d.device_id = '', 'device not in the registry', d.iccid_expected = '' AND d.imei = '', 'nothing expected',
        d.iccid_expected NOT IN ('', l.iccid) AND d.imei NOT IN ('', l.imei), 'other SIM and modem', d.iccid_expected NOT IN ('', l.iccid), 'other SIM', d.imei NOT IN ('', l.imei), 'other modem', 'as expected') AS verdict
FROM
(
    SELECT *, row_number() OVER (PARTITION BY device_id ORDER BY last_seen DESC, iccid, imei) AS nth
    FROM
    (
        SELECT iccid, imei, device_id, anyLast(g.imsi) AS imsi, min(g.first_seen) AS first_seen, max(g.last_seen) AS last_seen
        FROM sim_sightings AS g
        GROUP BY iccid, imei, device_id
    )
) AS l
LEFT JOIN sims AS s ON s.iccid = l.iccid
LEFT JOIN devices AS d ON d.device_id = l.device_id
WHERE ({id:String} = '' OR {id:String} IN (l.iccid, l.imei, l.imsi, l.device_id)) AND (NOT {newest:Bool} OR l.nth = 1)
ORDER BY last_seen DESC, iccid, imei, device_id

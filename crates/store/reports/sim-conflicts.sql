-- report: sim-conflicts
-- team: operations
-- question: Which SIMs are not where, or do not do what, the registry says: moved, swapped, unexpected, used while in store or paused, cloned?
-- unknown: What devices do not tell. A SIM that was moved on purpose looks like one that was moved by somebody else. Usage while paused and clones are looked up in raw heartbeats, 90 days back.
-- parameter: days UInt16 = 90 | seen within so many days
-- parameter: finding OneOf(all,unregistered,moved,swapped,unexpected_sim,unexpected_modem,used_while_inventory,used_while_paused,used_while_retired,cloned) = all | this kind alone
SELECT f.finding AS finding, f.iccid AS iccid, f.device_id AS device_id, o.customer_id AS customer_id, f.imei AS imei, f.was AS was, f.is AS is, f.first_seen AS first_seen, f.last_seen AS last_seen, f.detail AS detail
FROM sim_findings AS f
LEFT JOIN device_owners AS o ON o.device_id = f.device_id
WHERE f.last_seen >= now64(3) - toIntervalDay({days:UInt16}) AND ({finding:String} = 'all' OR f.finding = {finding:String})
ORDER BY last_seen DESC, finding, iccid, device_id

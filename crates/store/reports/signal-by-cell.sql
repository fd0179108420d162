-- report: signal-by-cell
-- team: engineering
-- question: How good is the radio in each cell of each network?
-- unknown: Cells are those that the modem told; what a cell covers, and devices that could not send from where it is bad, do not show.
-- parameter: days UInt16 = 7 | how far back
-- parameter: heartbeats_min UInt32 = 20 | leave out what has less evidence
SELECT
    toString(h.plmn) AS plmn, h.cell_id AS cell_id,
    toString(h.rat) AS rat,
    count() AS heartbeats,
    uniqExact(h.device_id) AS devices,
    round(quantileExact(0.1)(h.rsrp_dbm), 1) AS rsrp_p10_dbm,
    round(quantileExact(0.5)(h.rsrp_dbm), 1) AS rsrp_p50_dbm,
    round(quantileExact(0.9)(h.rsrp_dbm), 1) AS rsrp_p90_dbm,
    round(quantileExact(0.1)(h.rsrq_db), 1) AS rsrq_p10_db,
    round(quantileExact(0.5)(h.rsrq_db), 1) AS rsrq_p50_db,
    round(quantileExact(0.5)(h.sinr_db), 1) AS sinr_p50_db,
    round(quantileExact(0.5)(h.rssi_dbm), 1) AS rssi_p50_dbm
FROM (SELECT device_id, plmn, cell_id, firmware, rat, rsrp_dbm, rsrq_db, sinr_db, rssi_dbm FROM heartbeats FINAL
    WHERE received_at >= now64(3) - toIntervalDay({days:UInt16}) AND rat != '') AS h
GROUP BY plmn, cell_id, rat
HAVING heartbeats >= {heartbeats_min:UInt32}
ORDER BY rsrp_p10_dbm, plmn, cell_id, rat

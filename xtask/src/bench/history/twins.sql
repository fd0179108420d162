-- The heartbeats of the span once more under other names: as large as new ones, and half as dear.
INSERT INTO heartbeats ({columns})
SELECT {values}
FROM heartbeats AS h
WHERE h.device_id >= concat('scooter-', leftPad(toString({first}), 6, '0')) AND h.device_id < concat('scooter-', leftPad(toString({first} + {devices}), 6, '0'))
    AND h.device_time >= {start} + toIntervalMinute({from}) AND h.device_time < {start} + toIntervalMinute({from} + {minutes} + 2)
    AND h.identity >= intDiv({from}, {step}) AND h.identity < intDiv({from} + {minutes}, {step})
SETTINGS max_threads = 2, max_insert_threads = 1, min_insert_block_size_rows = 1000000, min_insert_block_size_bytes = 0

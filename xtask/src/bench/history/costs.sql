-- Costs of a month, as settling writes them.
INSERT INTO sim_months_settled SELECT toDate('{month}'), toUInt64({run}), * FROM sim_months_now(month = toDate('{month}'));
INSERT INTO sim_month_runs (month, run, inputs, took_ms) VALUES ('{month}', {run}, 0, 0)

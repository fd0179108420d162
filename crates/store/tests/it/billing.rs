//! What is billed is what the hours add up to, wherever a customer's month begins and whenever a plan changes: `billing_usage`, compared with a
//! slow and obvious sum over random fleets. A plan that changes within an hour counts from the next one on.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::database::Database;
use crate::report::roll_up;
use crate::usage::History;

/// Hundreds of them: `FLEETPULSE_ORACLE_CASES=500`.
const CASES: u64 = 4;
/// On both sides of the date line, with and without summer time; the registry takes whole hours from UTC alone.
const ZONES: [&str; 10] = [
    "UTC",
    // Summer time begins, or ends, at midnight.
    "Africa/Cairo",
    "America/Santiago",
    "Europe/Berlin",
    "America/New_York",
    "America/Los_Angeles",
    "Asia/Tokyo",
    "Pacific/Auckland",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
];
const CUSTOMERS: usize = 5;
const DEVICES: usize = 10;
const SIMS: usize = 6;
const HOURS_OF_A_DEVICE: usize = 80;
const HOUR: i64 = 3_600;

struct Customer {
    zone: &'static str,
    day: i8,
}

/// Conditions of a plan, and from when (included) to when (excluded) they are valid.
struct Terms {
    plan: &'static str,
    from: Date,
    until: Option<Date>,
}

struct Hour {
    device: usize,
    sim: usize,
    at: i64,
    plmn: &'static str,
    state: &'static str,
    source: &'static str,
    heartbeats: u32,
    bytes: u64,
}

struct Fleet {
    month: Date,
    /// The first is nobody's: devices that are in no fleet.
    customers: Vec<Customer>,
    terms: Vec<Terms>,
    /// SIM, since, plan.
    changes: Vec<(usize, i64, &'static str)>,
    hours: Vec<Hour>,
}

/// Device, SIM, network, state, plan and since when its conditions are valid.
type Key = (String, String, &'static str, &'static str, &'static str, Date);

#[test]
fn what_is_billed_is_what_the_hours_add_up_to() {
    let database = Database::of("billing");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(database.store().migrate()).expect("migrated");
    let cases =
        std::env::var("FLEETPULSE_ORACLE_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    for seed in 0..cases {
        let fleet = Fleet::random(seed);
        fleet.tell(&database);
        let billed = database.ask(&format!(
            "SELECT device_id, iccid, plmn, state, plan_id, valid_from, heartbeats, modem_bytes, gateway_bytes \
             FROM billing_usage(month = '{}') ORDER BY ALL",
            fleet.month
        ));
        let expected = fleet.billed();
        assert!(!expected.is_empty(), "seed {seed} bills nothing");
        assert_eq!(billed.lines().collect::<Vec<_>>(), expected, "seed {seed}");
    }
}

fn at(date: Date, zone: &str) -> i64 {
    let zone = TimeZone::get(zone).expect("a time zone");
    date.to_zoned_datetime(zone).expect("a midnight").timestamp().as_second()
}

fn name(kind: &str, number: usize) -> String {
    format!("{kind}-{number}")
}

impl Customer {
    /// From when (included) to when (excluded) the billing month lasts that begins in this month.
    fn span(&self, month: Date) -> (i64, i64) {
        let begin = month.checked_add(i32::from(self.day - 1).days()).expect("a day of the month");
        let next = month.checked_add(1.month()).expect("a month");
        let end = next.checked_add(i32::from(self.day - 1).days()).expect("a day of the month");
        (at(begin, self.zone), at(end, self.zone))
    }
}

impl Fleet {
    fn random(seed: u64) -> Self {
        let mut stream = History::stream(seed);
        let mut below = |bound: usize| usize::try_from(stream() % bound as u64).expect("below a usize");
        let month = Date::constant(2026, 1, 1)
            .checked_add(i64::try_from(below(12)).expect("months").months())
            .expect("a month");
        let mut customers = vec![Customer { zone: "UTC", day: 1 }];
        for _ in 0..CUSTOMERS {
            let day = i8::try_from(1 + below(28)).expect("a day");
            customers.push(Customer { zone: ZONES[below(ZONES.len())], day });
        }
        // One plan changes its price within what is billed, one ends, and one begins.
        let turn = month.checked_add(i64::try_from(below(40)).expect("days").days()).expect("a day");
        let terms = vec![
            Terms { plan: "a", from: Date::constant(2020, 1, 1), until: Some(turn) },
            Terms { plan: "a", from: turn, until: None },
            Terms { plan: "b", from: Date::constant(2020, 1, 1), until: Some(turn) },
            Terms { plan: "c", from: turn, until: None },
        ];
        let first = at(month, "UTC");
        let mut changes = Vec::new();
        for sim in 0..SIMS {
            for change in 0..below(4) {
                let day = first + i64::try_from(below(50)).expect("days") * 86_400;
                // At midnight, at an hour, within one.
                let within = [0, below(24) * 3_600, below(86_400)][below(3)];
                let since = if change == 0 && below(2) == 0 {
                    0
                } else {
                    day + i64::try_from(within).expect("seconds")
                };
                changes.push((sim, since, ["a", "b", "c"][below(3)]));
            }
        }
        changes.sort_by_key(|(sim, since, _)| (*sim, *since));
        changes.dedup_by_key(|(sim, since, _)| (*sim, *since));
        let mut hours = BTreeMap::new();
        for device in 0..DEVICES {
            let (begin, end) = customers[device % customers.len()].span(month);
            for _ in 0..HOURS_OF_A_DEVICE {
                let near =
                    |edge: i64, hours: usize| edge + (i64::try_from(hours).expect("hours") - 20) * HOUR;
                let at = match below(3) {
                    0 => near(begin, below(40)),
                    1 => near(end, below(40)),
                    _ => first + i64::try_from(below(24 * 65)).expect("hours") * HOUR - 48 * HOUR,
                };
                let hour = Hour {
                    device,
                    sim: (device + below(2)) % SIMS,
                    at: at.div_euclid(HOUR) * HOUR,
                    plmn: ["26201", "26202"][below(2)],
                    state: ["parked", "riding"][below(2)],
                    source: ["modem", "gateway"][below(2)],
                    heartbeats: u32::try_from(below(5)).expect("a few"),
                    bytes: u64::try_from(below(1_000)).expect("bytes"),
                };
                hours.insert((device, hour.sim, hour.at, hour.plmn, hour.state, hour.source), hour);
            }
        }
        Self { month, customers, terms, changes, hours: hours.into_values().collect() }
    }

    fn tell(&self, database: &Database) {
        for table in
            ["registry_customers", "registry_fleets", "registry_devices", "registry_plans", "sim_plans"]
                .into_iter()
                .chain(["usage_hours", "usage_days", "usage_months", "usage_day_hours"])
        {
            database.ask(&format!("TRUNCATE TABLE {table}"));
        }
        let insert = |into: &str, rows: Vec<String>| {
            if !rows.is_empty() {
                database.ask(&format!("INSERT INTO {into} VALUES {}", rows.join(", ")));
            }
        };
        let customers = self.customers.iter().enumerate().skip(1);
        let rows = customers.map(|(number, Customer { zone, day })| {
            format!("('{}', '{zone}', {day}, 'EUR', 1)", name("customer", number))
        });
        insert(
            "registry_customers (customer_id, billing_time_zone, billing_day, currency, version)",
            rows.collect(),
        );
        let rows = (1..self.customers.len())
            .map(|number| format!("('{}', '{}', 1)", name("fleet", number), name("customer", number)));
        insert("registry_fleets (fleet_id, customer_id, version)", rows.collect());
        let rows = (0..DEVICES).filter(|device| device % self.customers.len() > 0).map(|device| {
            format!("('{}', '{}', 1)", name("device", device), name("fleet", device % self.customers.len()))
        });
        insert("registry_devices (device_id, fleet_id, version)", rows.collect());
        let rows = self.terms.iter().map(|Terms { plan, from, until }| {
            let until = until.map_or("NULL".to_owned(), |until| format!("'{until}'"));
            format!("('{plan}', '{from}', {until}, 'per_mb', 'EUR', 1)")
        });
        insert("registry_plans (plan_id, valid_from, valid_to, kind, currency, version)", rows.collect());
        let rows = self.changes.iter().map(|(sim, since, plan)| {
            format!("('{}', toDateTime64({since}, 3, 'UTC'), '{plan}', 1)", name("sim", *sim))
        });
        insert("sim_plans (iccid, since, plan_id, version)", rows.collect());
        let rows = self.hours.iter().map(|hour| {
            let Hour { at, plmn, state, source, heartbeats, bytes, .. } = hour;
            let (device, sim) = (name("device", hour.device), name("sim", hour.sim));
            let heartbeats = if *source == "modem" { *heartbeats } else { 0 };
            format!(
                "('{device}', '{source}', 'c', {at}, '{sim}', '{plmn}', '{state}', {heartbeats}, {bytes}, 1)"
            )
        });
        insert(
            "usage_hours (device_id, source, counter, hour, iccid, plmn, state, heartbeats, tx_bytes, settled)",
            rows.collect(),
        );
        database.ask(
            "INSERT INTO usage_days (device_id, day, iccid, plmn, state, heartbeats, modem_tx_bytes, gateway_tx_bytes, settled) \
             SELECT device_id, toDate(hour, 'UTC') AS day, iccid, plmn, state, sum(h.heartbeats), sumIf(h.tx_bytes, source = 'modem'), \
             sumIf(h.tx_bytes, source = 'gateway'), 1 FROM usage_hours AS h GROUP BY device_id, day, iccid, plmn, state",
        );
        roll_up(database);
    }

    /// The plan whose conditions a SIM had at that moment, and since when these are valid.
    fn plan(&self, sim: usize, at_s: i64) -> (&'static str, Date) {
        let had = self.changes.iter().rev().find(|(of, since, _)| *of == sim && *since <= at_s);
        let valid = had.and_then(|(_, _, plan)| {
            let starts = |date: Date| at(date, "UTC");
            self.terms.iter().find(|terms| {
                terms.plan == *plan
                    && starts(terms.from) <= at_s
                    && terms.until.is_none_or(|until| at_s < starts(until))
            })
        });
        valid.map_or(("", Date::constant(1970, 1, 1)), |terms| (terms.plan, terms.from))
    }

    fn billed(&self) -> Vec<String> {
        let mut billed: BTreeMap<Key, [u64; 3]> = BTreeMap::new();
        for hour in &self.hours {
            let (begin, end) = self.customers[hour.device % self.customers.len()].span(self.month);
            if hour.at < begin || hour.at >= end {
                continue;
            }
            let (plan, since) = self.plan(hour.sim, hour.at);
            let key =
                (name("device", hour.device), name("sim", hour.sim), hour.plmn, hour.state, plan, since);
            let [heartbeats, modem, gateway] = billed.entry(key).or_default();
            if hour.source == "modem" {
                *heartbeats += u64::from(hour.heartbeats);
                *modem += hour.bytes;
            } else {
                *gateway += hour.bytes;
            }
        }
        let moved = billed.into_iter().filter(|(_, figures)| figures.iter().any(|figure| *figure > 0));
        let lines = moved.map(|((device, sim, plmn, state, plan, since), [heartbeats, modem, gateway])| {
            format!("{device}\t{sim}\t{plmn}\t{state}\t{plan}\t{since}\t{heartbeats}\t{modem}\t{gateway}")
        });
        lines.collect()
    }
}

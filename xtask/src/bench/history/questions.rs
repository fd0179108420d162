//! What is asked, and how long the answers took.

use std::time::{Duration, Instant};

use crate::clickhouse::ClickHouse;
use crate::stop::Stop;

/// What the report `usage` asks.
const COST: &str = include_str!("../../../../crates/store/reports/usage.sql");
/// What it reads.
const COSTS: &str = include_str!("costs.sql");
/// No question is asked anew after this long.
const LONGEST: Duration = Duration::from_secs(12);
/// First answers that are not counted: files are read, statements are compiled.
const WARM_UP: u32 = 2;

/// Something that is asked again and again. In braces: `device`, another scooter each time; `at`, another moment; `end`, the newest heartbeat.
struct Question {
    name: &'static str,
    /// Milliseconds, and of which quantile.
    goal: Option<(f64, Quantile)>,
    sql: String,
}

#[derive(Clone, Copy)]
enum Quantile {
    Median,
    Worst,
}

/// How a question was answered.
pub(super) struct Asked {
    name: &'static str,
    goal: Option<(f64, Quantile)>,
    /// Milliseconds, ascending.
    took: Vec<f64>,
    /// Milliseconds of server CPU (median), rows read, MiB read, MiB of memory at most, rows of the answer: as text, means of all.
    read: String,
    /// What went wrong, where it was not answered.
    trouble: Option<String>,
}

/// What is asked of a fleet.
fn questions() -> Vec<Question> {
    let cost = COST.replace("{by:String}", "'plan_and_network'").replace("{customer:String}", "''");
    let question = |name, goal, sql: &str| Question { name, goal, sql: sql.to_owned() };
    vec![
        question(
            "timeline, 30 days: heartbeats",
            Some((50.0, Quantile::Worst)),
            "SELECT taken_at, state, rsrp_dbm, rssi_dbm, rat, plmn, cell_id, battery_percent, firmware, boot_id \
             FROM heartbeats FINAL \
             WHERE device_id = '{device}' AND received_at >= toDateTime64('{end}', 3, 'UTC') - INTERVAL 30 DAY ORDER BY taken_at",
        ),
        question(
            "timeline, 30 days: by quarter of an hour",
            None,
            "SELECT toStartOfFifteenMinutes(taken_at) AS quarter, anyLast(state), avg(rsrp_dbm), min(battery_percent), anyLast(firmware), count() \
             FROM heartbeats FINAL \
             WHERE device_id = '{device}' AND received_at >= toDateTime64('{end}', 3, 'UTC') - INTERVAL 30 DAY \
             GROUP BY quarter ORDER BY quarter",
        ),
        question(
            "timeline, 30 days: sessions",
            Some((50.0, Quantile::Worst)),
            "SELECT * FROM sessions WHERE device_id = '{device}' AND started_at >= toDateTime64('{end}', 3, 'UTC') - INTERVAL 30 DAY",
        ),
        question(
            "timeline, last 24 hours: heartbeats",
            None,
            "SELECT taken_at, state, rsrp_dbm, rssi_dbm, rat, plmn, cell_id, battery_percent, firmware, boot_id \
             FROM heartbeats FINAL \
             WHERE device_id = '{device}' AND received_at >= toDateTime64('{end}', 3, 'UTC') - INTERVAL 1 DAY ORDER BY taken_at",
        ),
        question("status of all, now", Some((100.0, Quantile::Median)), "SELECT * FROM device_status"),
        question(
            "status of all, now, counted",
            None,
            "SELECT status, fleet, count() FROM device_status GROUP BY status, fleet",
        ),
        question("status of one, now", None, "SELECT * FROM device_status WHERE device_id = '{device}'"),
        Question {
            name: "usage and cost, billing month in Berlin",
            goal: Some((200.0, Quantile::Median)),
            sql: cost.replace("{month:Date}", "toDate('{month}')"),
        },
        question(
            "status of one, at a moment",
            None,
            "SELECT * FROM device_status_at(at = '{at}', device = '{device}')",
        ),
        question(
            "availability of one, 7 days",
            None,
            "SELECT * FROM availability(since = '{day7}', until = '{day0}', device = '{device}', fleet = '')",
        ),
        question(
            "status of all, at a moment",
            None,
            "SELECT * FROM device_status_at(at = '{at}', device = '')",
        ),
        question(
            "availability of a fleet, 7 days",
            None,
            "SELECT * FROM availability(since = '{day7}', until = '{day0}', device = '', fleet = 'fleet-07')",
        ),
    ]
}

/// Asks all. `devices`: how many tell every minute.
pub(super) fn ask(
    database: &ClickHouse,
    devices: u32,
    times: u32,
    stop: &Stop,
) -> anyhow::Result<Vec<Asked>> {
    let end = database.value("SELECT toString(max(received_at)) FROM device_newest")?;
    let night = |days: u32| {
        database.value(&format!(
            "SELECT toString(toStartOfDay(toDateTime64('{end}', 3, 'UTC')) - toIntervalDay({days}))"
        ))
    };
    let [day0, day7] = [night(0)?, night(7)?];
    // The month that most of the history is in.
    let month = database.value(&format!("SELECT toString(toStartOfMonth(toDate('{day0}') - 15))"))?;
    // So that gateways live while their sessions are asked for.
    database.run(
        "INSERT INTO nodes (node_id, epoch, event, at, lost_after_ms) \
         SELECT node_id, max(m.epoch), 'alive', now64(3), 3600000 FROM node_state AS m GROUP BY node_id",
    )?;
    let run = database.value("SELECT toString(toUnixTimestamp64Milli(now64(3)))")?;
    eprintln!("==> costs");
    let began = Instant::now();
    let costs_run = database.value("SELECT toString(generateSnowflakeID())")?;
    super::run_all(database, &COSTS.replace("{month}", &month).replace("{run}", &costs_run))?;
    println!("costs of a month worked out in {:.2} s", began.elapsed().as_secs_f64());
    let mut answers = Vec::new();
    print_head();
    for (place, question) in questions().into_iter().enumerate() {
        eprintln!("==> {}", question.name);
        let comment = format!("bench-{run}-{place}");
        let began = Instant::now();
        let (mut took, mut trouble) = (Vec::new(), None);
        for time in 0..times + WARM_UP {
            stop.check()?;
            if time > WARM_UP && began.elapsed() > LONGEST {
                break;
            }
            // Primes: far from each other, and none twice.
            let device = format!("scooter-{:06}", u64::from(time) * 7_919 % u64::from(devices.max(1)));
            let at = database.value(&format!(
                "SELECT toString(toDateTime64('{end}', 3, 'UTC') - toIntervalSecond({}))",
                (u64::from(time) + 1) * 104_729 % (20 * 86_400)
            ))?;
            let sql = question
                .sql
                .replace("{device}", &device)
                .replace("{at}", &at)
                .replace("{end}", &end)
                .replace("{day0}", &day0)
                .replace("{day7}", &day7)
                .replace("{month}", &month);
            let counted = time >= WARM_UP;
            let comment = if counted { comment.as_str() } else { "bench-warm-up" };
            let asked = Instant::now();
            match database.bytes(&format!("{sql} SETTINGS log_comment = '{comment}' FORMAT TabSeparated")) {
                Ok(_) if counted => took.push(asked.elapsed().as_secs_f64() * 1e3),
                Ok(_) => {}
                Err(error) => {
                    trouble = Some(
                        format!("{error:#}")
                            .chars()
                            .rev()
                            .take(300)
                            .collect::<Vec<_>>()
                            .into_iter()
                            .rev()
                            .collect(),
                    );
                    break;
                }
            }
        }
        took.sort_by(f64::total_cmp);
        database.run("SYSTEM FLUSH LOGS")?;
        let read = database.value(&format!(
            "SELECT concat(leftPad(toString(round(median(ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']) / 1000, 1)), 8), \
             leftPad(toString(round(avg(read_rows))), 12), leftPad(toString(round(avg(read_bytes) / 1048576, 1)), 11), \
             leftPad(toString(round(max(memory_usage) / 1048576)), 9), leftPad(toString(round(avg(result_rows))), 9)) \
             FROM system.query_log WHERE log_comment = '{comment}' AND type = 'QueryFinish'"
        ))?;
        let answer = Asked { name: question.name, goal: question.goal, took, read, trouble };
        answer.print();
        answers.push(answer);
    }
    Ok(answers)
}

impl Asked {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is_met(&self) -> bool {
        let within = |(goal, quantile): (f64, Quantile)| {
            self.quantile(match quantile {
                Quantile::Median => 50,
                Quantile::Worst => 99,
            })
            .is_some_and(|took| took <= goal)
        };
        self.goal.is_none_or(within)
    }

    fn quantile(&self, percent: usize) -> Option<f64> {
        let place = (self.took.len() * percent).div_ceil(100).saturating_sub(1);
        self.took.get(place).copied()
    }
}

fn print_head() {
    println!(
        "\nquestion                                  times  p50 ms  p99 ms   max ms  CPU ms   rows read   MiB read MiB held     rows goal"
    );
}

impl Asked {
    fn print(&self) {
        let ms = |percent| self.quantile(percent).map_or("-".to_owned(), |took| format!("{took:.1}"));
        let goal = self.goal.map_or_else(String::new, |(goal, quantile)| {
            let of = match quantile {
                Quantile::Median => "p50",
                Quantile::Worst => "p99",
            };
            format!("{of} {goal} ms: {}", if self.is_met() { "met" } else { "missed" })
        });
        println!(
            "{:<40} {:>6} {:>7} {:>7} {:>8} {} {goal}",
            self.name,
            self.took.len(),
            ms(50),
            ms(99),
            ms(100),
            self.read
        );
        if let Some(trouble) = &self.trouble {
            println!("    not answered: {trouble}");
        }
    }
}

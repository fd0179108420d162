//! What the views say of a history, beside what the oracle says.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use event::v1::Event;

use crate::database::Database;
use crate::fold::{Copies, Known, Session, Status};
use crate::random::Random;

/// How far from the time of asking a difference must lie to be one: several views are asked, one after the other.
const STEADY: i64 = 4_000;

/// What is asked: the same times for the same seed.
pub(crate) struct Questions {
    times: Vec<i64>,
    spans: Vec<(i64, i64)>,
}

impl Questions {
    pub(crate) fn generate(random: &mut Random, begin: i64, now: i64) -> Self {
        let time = |random: &mut Random| random.between(begin - 3_600_000, now - 1);
        let mut times: Vec<i64> = (0..6).map(|_| time(random)).collect();
        times.push(now - 1);
        let span = |random: &mut Random| {
            let (one, other) = (time(random), time(random));
            (one.min(other), one.max(other))
        };
        let mut spans: Vec<(i64, i64)> = (0..3).map(|_| span(random)).collect();
        spans.push((begin - 3_600_000, now));
        Self { times, spans }
    }

    /// Asks all of them; what differs is told in lines.
    pub(crate) fn differences(&self, database: &Database, events: &[Event]) -> Result<Vec<String>> {
        let now: i64 = database.ask("SELECT toUnixTimestamp64Milli(now64(3))")?.parse()?;
        let known = Known::of(events.iter(), now);
        let later = Known::of(events.iter(), now + STEADY);
        let mut differences = Vec::new();
        let mut differ = |what: &str, expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>| {
            for key in expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key))) {
                let (expected, found) = (expected.get(key), found.get(key));
                if expected != found {
                    differences.push(format!("{what} {key}\n   oracle {expected:?}\n   view   {found:?}"));
                }
            }
        };

        let sessions = |known: &Known| -> BTreeMap<String, String> {
            let all = known.devices().flat_map(|device| known.sessions(device));
            all.map(|session| (session.id.to_string(), session_line(&session))).collect()
        };
        differ("session", &steady(sessions(&known), &sessions(&later)), &database.lines(SESSIONS)?);

        let status = |known: &Known, at: i64, copies: Copies| -> BTreeMap<String, String> {
            let line = |device: &str| status_line(&known.status(device, &known.sessions(device), at, copies));
            known.devices().map(|device| (device.to_owned(), line(device))).collect()
        };
        let expected = steady(status(&known, known.now, Copies::All), &status(&later, later.now, Copies::All));
        let found = database.lines(&STATUS.replace("{view}", "device_status").replace("{reason}", NO_REASON))?;
        let found = found.into_iter().filter(|(device, _)| expected.contains_key(device)).collect();
        differ("status now", &expected, &found);

        for at in &self.times {
            let view = format!("device_status_at(at = fromUnixTimestamp64Milli({at}, 'UTC'), device = '')");
            let found =
                database.lines(&STATUS.replace("{view}", &view).replace("{reason}", "offline_reason"))?;
            let expected = steady(status(&known, *at, Copies::First), &status(&later, *at, Copies::First));
            differ(&format!("status at {at}"), &expected, &found);
        }

        for (since, until) in &self.spans {
            let (from, to) = (
                format!("fromUnixTimestamp64Milli({since}, 'UTC')"),
                format!("fromUnixTimestamp64Milli({until}, 'UTC')"),
            );
            let availability = |known: &Known| -> BTreeMap<String, String> {
                let line = |device: &str| {
                    let spent = known.availability(device, *since, *until);
                    format!(
                        "{}\t{}\t{}\t{}\t{}",
                        spent.online, spent.silent, spent.offline, spent.unknown, spent.never_seen
                    )
                };
                known.devices().map(|device| (device.to_owned(), line(device))).collect()
            };
            let found = database.lines(&format!(
                "SELECT device_id, online_ms, silent_ms, offline_ms, unknown_ms, never_seen_ms \
                 FROM availability(since = {from}, until = {to}, device = '', fleet = '')"
            ))?;
            let expected = steady(availability(&known), &availability(&later));
            differ(&format!("availability of {since} to {until}"), &expected, &found);

            let unknown = database.ask(&format!(
                "SELECT sum(dateDiff('millisecond', began_at, ended_at)) FROM ingest_unknown(since = {from}, until = {to})"
            ))?;
            let expected = known.unknown(*since, *until).to_string();
            differ(
                &format!("unknown of {since} to {until}"),
                &BTreeMap::from([(String::new(), expected)]),
                &BTreeMap::from([(String::new(), unknown)]),
            );
        }
        Ok(differences)
    }
}

/// What does not change while it is asked.
fn steady(now: BTreeMap<String, String>, later: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    now.into_iter().filter(|(key, line)| later.get(key) == Some(line)).collect()
}

const SESSIONS: &str = "
    SELECT session_id, toUnixTimestamp64Milli(started_at), ifNull(toString(toUnixTimestamp64Milli(ended_at)), 'stands'),
        reason, node_id, peer, bytes_in, messages_in, ifNull(toString(gap_ms), 'first'), took_over
    FROM sessions";

/// What stands where `device_status` guesses a reason and the oracle does not.
const NO_REASON: &str = "if(status = 'unknown', '-', offline_reason)";

const STATUS: &str = "
    SELECT device_id, status, if(status = 'unknown', 0, toUnixTimestamp64Milli(since)), {reason},
        if(position_at > 0, concat(toString(round(assumeNotNull(latitude_deg) * 1000000)), ' ', toString(toUnixTimestamp64Milli(position_at))), ''),
        if(battery_at > 0, concat(toString(assumeNotNull(battery_percent)), ' ', toString(toUnixTimestamp64Milli(battery_at))), ''),
        if(firmware_at > 0, concat(firmware, ' ', toString(toUnixTimestamp64Milli(firmware_at))), ''),
        if(radio_at > 0, concat(plmn, ' ', toString(toUnixTimestamp64Milli(radio_at))), ''),
        if(sim_at > 0, concat(iccid, ' ', toString(toUnixTimestamp64Milli(sim_at))), '')
    FROM {view}";

fn session_line(session: &Session) -> String {
    let or = |number: Option<i64>, none: &str| number.map_or_else(|| none.to_owned(), |number| number.to_string());
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
        session.start,
        or(session.end, "stands"),
        session.reason,
        session.node,
        session.peer,
        session.bytes_in,
        session.messages_in,
        or(session.gap, "first"),
        session.took_over
    )
}

fn status_line(status: &Status) -> String {
    let mut line = format!("{}\t{}\t{}", status.status, status.since, status.reason);
    let numbers = [&status.position, &status.battery];
    let texts = [&status.firmware, &status.plmn, &status.iccid];
    let numbers = numbers.map(|reading| reading.map(|(value, at)| format!("{value} {at}")).unwrap_or_default());
    let texts = texts.map(|reading| reading.as_ref().map(|(value, at)| format!("{value} {at}")).unwrap_or_default());
    for reading in numbers.into_iter().chain(texts) {
        write!(line, "\t{reading}").expect("a text");
    }
    line
}

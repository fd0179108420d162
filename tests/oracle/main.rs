//! The oracle: random histories of a fleet, what is told of them brought into a real ClickHouse in any order and more than once, and every
//! session, status and availability compared with a slow and obvious reckoning. docs/truth.md says what is asked.
//!
//! `FLEETPULSE_ORACLE_SEEDS` says how many histories (default 3), `FLEETPULSE_ORACLE_FIRST` with which seed to begin (default 1).

mod compare;
mod database;
mod device;
mod fold;
mod history;
mod nodes;
mod random;
mod shrink;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use event::v1::Event;

use crate::compare::Questions;
use crate::database::Database;
use crate::fold::{Copies, Known};
use crate::random::Random;

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the year 292 million")
}

fn from_environment(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).ok().map(|number| number.parse()).transpose()?.unwrap_or(default))
}

#[test]
fn what_the_views_say_is_what_the_oracle_says() -> Result<()> {
    let first = from_environment("FLEETPULSE_ORACLE_FIRST", 1)?;
    let count = from_environment("FLEETPULSE_ORACLE_SEEDS", 3)?;
    for seed in first..first + count {
        let now = now();
        let history = history::generate(seed, now);
        let database = Database::make(&seed.to_string())?;
        let questions = Questions::generate(&mut Random::new(seed), history.begin, now);
        let tried = |events: &[Event]| -> Result<Vec<String>> {
            database.empty()?;
            database.insert(&mut Random::new(seed + 1), events)?;
            questions.differences(&database, events)
        };
        let differences = tried(&history.events)?;
        if !differences.is_empty() {
            let events =
                shrink::shrunk(history.events, |events| tried(events).is_ok_and(|found| !found.is_empty()));
            let left = tried(&events)?;
            anyhow::bail!(
                "seed {seed}: {} differences; of the smallest history that fails, at {now}:\n{}\n{}",
                differences.len(),
                left.join("\n"),
                shrink::listed(&events)
            );
        }
    }
    Ok(())
}

#[test]
fn the_oracle_finds_the_true_sessions_wherever_they_were_told() -> Result<()> {
    let now = now();
    let mut reasons = BTreeMap::new();
    for seed in 0..200 {
        let history = history::generate(seed, now);
        let known = Known::of(history.events.iter(), now);
        let of_device: BTreeMap<&str, Vec<fold::Session>> =
            known.devices().map(|device| (device, known.sessions(device))).collect();
        for truth in &history.sessions {
            let found = of_device.get(truth.device.as_str()).into_iter().flatten();
            let Some(found) = found.into_iter().find(|session| session.id == truth.id) else {
                ensure!(!truth.start_told && !truth.end_told && truth.heartbeats == 0, "seed {seed}: {truth:?}");
                continue;
            };
            ensure!(found.start == truth.start, "seed {seed}: {truth:?}, not {found:?}");
            if truth.end_told {
                ensure!(found.end == truth.end, "seed {seed}: {truth:?}, not {found:?}");
            } else if let (Some(found_end), Some(true_end)) = (found.end, truth.end) {
                // A gateway is heard until it dies; what was never told may be noticed late, and not before it was.
                let lost = found.reason == "gateway_lost" && found_end <= true_end;
                ensure!(lost || found.reason != "gateway_lost" || !truth.end_told, "seed {seed}: {truth:?}, {found:?}");
            } else if truth.end.is_none() {
                ensure!(found.end.is_none() || !known.devices().any(|device| device == truth.device), "seed {seed}: {truth:?}, not {found:?}");
            }
            *reasons.entry(found.reason.clone()).or_insert(0) += 1;
        }
    }
    for reason in ["", "client", "taken_over", "gateway_lost", "superseded", "server_shutting_down", "keep_alive_timeout"] {
        ensure!(reasons.get(reason).is_some_and(|count| *count > 50), "{reason:?} is rare: {reasons:?}");
    }
    Ok(())
}

#[test]
fn histories_have_every_status() -> Result<()> {
    let now = now();
    let mut statuses = BTreeMap::new();
    for seed in 0..60 {
        let history = history::generate(seed, now);
        let known = Known::of(history.events.iter(), now);
        let mut random = Random::new(seed);
        for device in known.devices() {
            let sessions = known.sessions(device);
            for _ in 0..20 {
                let at = random.between(history.begin, now);
                *statuses.entry(known.status(device, &sessions, at, Copies::First).status).or_insert(0) += 1;
            }
        }
    }
    for status in ["online", "silent", "offline", "unknown", "never_seen"] {
        ensure!(statuses.get(status).is_some_and(|count| *count > 50), "{status:?} is rare: {statuses:?}");
    }
    Ok(())
}

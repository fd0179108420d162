//! A database with a history in it: rows as the writer makes them, inserted by the store, in any order and more than once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use event::v1::Event;
use prost::Message;
use store::{Config, Store};
use writer::EventRows;

use crate::random::Random;

/// Tables remember tokens longer than rows.
static INSERTED: AtomicU64 = AtomicU64::new(0);

/// A database of a seed's own; dropped with it.
pub(crate) struct Database {
    url: String,
    name: String,
    runtime: tokio::runtime::Runtime,
}

impl Database {
    /// With the schema, and without a row.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let url = std::env::var("FLEETPULSE_TEST_CLICKHOUSE_URL")
            .context("$FLEETPULSE_TEST_CLICKHOUSE_URL: this needs a real clickhouse, run `cargo xtask test`")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let database = Self { url, name: format!("oracle_{name}"), runtime };
        ask(&database.url, "system", &format!("DROP DATABASE IF EXISTS {}", database.name))?;
        database.runtime.block_on(database.store()?.migrate())?;
        Ok(database)
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::new(&Config { url: self.url.clone(), database: self.name.clone(), ..Config::default() })?)
    }

    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        ask(&self.url, &self.name, question)
    }

    /// The lines of an answer, by their first column.
    pub(crate) fn lines(&self, question: &str) -> Result<BTreeMap<String, String>> {
        let answer = self.ask(question)?;
        let lines = answer.lines().map(|line| {
            let (key, rest) = line.split_once('\t').unwrap_or((line, ""));
            (key.to_owned(), rest.to_owned())
        });
        Ok(lines.collect())
    }

    /// Away with the rows of an earlier history.
    pub(crate) fn empty(&self) -> Result<()> {
        let tables = self.ask(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree' \
             AND name != 'schema_migrations'",
        )?;
        for table in tables.lines() {
            self.ask(&format!("TRUNCATE TABLE {table}"))?;
        }
        Ok(())
    }

    /// Inserts events: shuffled, in batches of any size, some of them twice and some batches too.
    pub(crate) fn insert(&self, random: &mut Random, events: &[Event]) -> Result<()> {
        let store = self.store()?;
        let mut records: Vec<(i64, Vec<u8>)> = (0..).zip(events.iter().map(Message::encode_to_vec)).collect();
        let again: Vec<_> = records.iter().filter(|_| random.chance(10)).cloned().collect();
        records.extend(again);
        random.shuffle(&mut records);
        let mut batches = Vec::new();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(usize::try_from(random.count(1, 900))?));
            batches.push(batch);
            rest = after;
        }
        if let Some(batch) = batches.first() {
            batches.push(batch);
        }
        self.runtime.block_on(async {
            for batch in &batches {
                let number = INSERTED.fetch_add(1, Ordering::Relaxed);
                let rows = EventRows::of(batch.iter().map(|(offset, payload)| (*offset, payload.as_slice())));
                store.insert(rows.heartbeats.iter(), &format!("h{number}")).await?;
                store.insert(rows.connections.iter(), &format!("c{number}")).await?;
                store.insert(rows.nodes.iter(), &format!("n{number}")).await?;
            }
            Ok(())
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // One that stays is dropped by the next run of its seed.
        let _dropped = ask(&self.url, "system", &format!("DROP DATABASE IF EXISTS {}", self.name));
    }
}

fn ask(url: &str, database: &str, question: &str) -> Result<String> {
    let url = format!("{url}/?database={database}");
    let request = ureq::post(&url).config().proxy(None).http_status_as_error(false).build();
    let mut answer = request.send(question).context("clickhouse does not answer")?;
    let text = answer.body_mut().read_to_string()?;
    ensure!(answer.status() == 200, "{question}: {text}");
    Ok(text.trim_end_matches('\n').to_owned())
}

//! The schema on a cluster: the migrations' own statements, rewritten. There is no second schema.
//!
//! Two kinds of tables:
//!
//! - sharded ([`SHARDED`]): what a device told, and what is made of it. `X_local` is replicated within its shard, and `X` is a Distributed table over
//!   all of them by `cityHash64(device_id)`: all rows of a device are on one shard. Everybody inserts into `X` and reads `X`; materialized views
//!   go from `_local` to `_local`.
//! - everywhere (all others): what has no device or is small, and is joined with everything. Replicated to every server under its own name.
//!
//! What a statement reads in a view or a backfill stays as it is written: `X` is all rows. docs/cluster.md says what that needs of a server.

use std::fmt::Write as _;

/// Tables whose rows are spread by device.
const SHARDED: &[&str] = &[
    "heartbeats",
    "heartbeats_next",
    "heartbeats_before_7",
    "heartbeats_made_twice",
    "connections",
    "dead_letters",
    "commands",
    "device_status_state",
    "device_presence",
    "device_latest",
    "device_arrivals",
    "device_newest",
    "session_signs",
    "sim_sightings",
    "usage_counters",
    "usage_hours",
    "usage_days",
    "usage_months",
    "usage_day_hours",
];

/// How the name of a sharded table ends on a server.
pub(crate) const LOCAL: &str = "_local";

/// What a client asks of every statement on a cluster.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    // An insert is answered when each shard has its rows, not when this server has put them aside.
    ("distributed_foreground_insert", "1"),
    // Whoever joins or looks up asks all shards, once, from here. What stands on this server alone is known there, too.
    ("distributed_product_mode", "global"),
    ("prefer_global_in_and_join", "1"),
    // From here, too: left to the shards, a view's parameter that is a time is not understood there (26.7). The migrations ask for it.
    ("parallel_distributed_insert_select", "0"),
    // The replica that took a row is the one that is asked for it, while it lives.
    ("load_balancing", "in_order"),
    // A shard that is not there is an error, never an answer without it.
    ("skip_unavailable_shards", "0"),
];

/// A statement of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The question that it stands under: it is run only if the answer is more than zero.
    pub guard: Option<String>,
    /// The statement.
    pub sql: String,
}

/// Where a schema stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster<'a> {
    /// As the servers' `remote_servers` name it.
    pub(crate) name: &'a str,
    pub(crate) database: &'a str,
}

impl Cluster<'_> {
    /// What a statement of a migration is here.
    pub(crate) fn steps(self, statement: &str, guard: Option<&str>) -> Vec<Step> {
        let statement = code(statement);
        let sql = self.rewrite(statement);
        let guard = guard.map(|guard| self.guard(guard));
        let mut steps = vec![Step { guard, sql }];
        for table in reshaped(statement) {
            steps.extend(self.spread(table));
        }
        steps
    }

    /// The table of this name that takes rows on a server.
    pub(crate) fn stands_in(table: &str) -> String {
        if SHARDED.contains(&table) { local(table) } else { table.to_owned() }
    }

    /// `ON CLUSTER`, with a space before it.
    pub(crate) fn everywhere(self) -> String {
        format!(" ON CLUSTER `{}`", self.name)
    }

    fn rewrite(self, statement: &str) -> String {
        let on = self.everywhere();
        let here = |name: &str| format!("{}{on}", Self::stands_in(name));
        if let Some((head, name, rest)) = named(statement, &["CREATE TABLE IF NOT EXISTS "]) {
            return format!("{head}{}{}", here(name), replicated(name, rest));
        }
        if let Some((head, name, rest)) = named(statement, &["CREATE MATERIALIZED VIEW IF NOT EXISTS "]) {
            let Some((" TO ", target, query)) = named(rest, &[" TO "]) else { return statement.to_owned() };
            return format!("{head}{name}{on} TO {}{}", Self::stands_in(target), reading(query));
        }
        if let Some((head, name, rest)) =
            named(statement, &["CREATE OR REPLACE VIEW ", "CREATE VIEW IF NOT EXISTS "])
        {
            return format!("{head}{name}{on}{rest}");
        }
        if let Some((head, name, rest)) = named(statement, &["DROP TABLE IF EXISTS ", "DROP VIEW IF EXISTS "])
        {
            // At once: what comes next may want its name.
            return format!("{head}{}{rest} SYNC", here(name));
        }
        if let Some((head, name, rest)) = named(statement, &["ALTER TABLE "]) {
            return format!("{head}{}{}", here(name), reading(rest));
        }
        if let Some((head, name, rest)) = named(statement, &["TRUNCATE TABLE "]) {
            return format!("{head}{}{rest}", here(name));
        }
        if let Some(pairs) = statement.strip_prefix("RENAME TABLE ") {
            let names = pairs.split(", ").map(|pair| {
                let names: Vec<String> = pair.split(" TO ").map(Self::stands_in).collect();
                names.join(" TO ")
            });
            return format!("RENAME TABLE {}{on}", names.collect::<Vec<_>>().join(", "));
        }
        // An INSERT: into `X`, out of `X`, and so each row to its shard.
        statement.to_owned()
    }

    /// The Distributed table over a sharded one, as that one is now; none where that one is gone. Right whatever was done before.
    fn spread(self, table: &str) -> [Step; 2] {
        let (Self { name, database }, local, on) = (self, local(table), self.everywhere());
        let stands =
            format!("SELECT count() FROM system.tables WHERE database = '{database}' AND name = '{local}'");
        [
            Step {
                sql: format!(
                    "CREATE OR REPLACE TABLE {table}{on} AS {database}.{local} \
                     ENGINE = Distributed('{name}', '{database}', '{local}', cityHash64(device_id))"
                ),
                guard: Some(stands.clone()),
            },
            Step {
                sql: format!("DROP TABLE IF EXISTS {table}{on} SYNC"),
                guard: Some(format!("SELECT ({stands}) = 0")),
            },
        ]
    }

    /// Asks all servers, and of the tables that hold rows.
    fn guard(self, guard: &str) -> String {
        let mut guard = guard.replace("currentDatabase()", &format!("'{}'", self.database));
        guard =
            guard.replace("system.tables", &format!("clusterAllReplicas('{}', system.tables)", self.name));
        for table in SHARDED {
            guard = guard.replace(&format!("'{table}'"), &format!("'{}'", local(table)));
        }
        guard
    }
}

fn local(table: &str) -> String {
    format!("{table}{LOCAL}")
}

/// A statement without the comments before it.
fn code(statement: &str) -> &str {
    let mut rest = statement;
    while rest.starts_with("--") || rest.starts_with('\n') {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest
}

/// How a statement begins, the name after it, and the rest.
fn named<'s>(statement: &'s str, heads: &[&'s str]) -> Option<(&'s str, &'s str, &'s str)> {
    heads.iter().find_map(|head| {
        let rest = statement.strip_prefix(head)?;
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        Some((*head, name, rest))
    })
}

/// Sharded tables whose Distributed table is another one after a statement.
fn reshaped(statement: &str) -> Vec<&str> {
    let sharded = |name: &&str| SHARDED.contains(name);
    if let Some((_, name, rest)) =
        named(statement, &["CREATE TABLE IF NOT EXISTS ", "DROP TABLE IF EXISTS ", "ALTER TABLE "])
    {
        let columns = [" ADD COLUMN ", " MODIFY COLUMN ", " DROP COLUMN ", " RENAME COLUMN "];
        let same = statement.starts_with("ALTER") && !columns.iter().any(|change| rest.contains(change));
        return Some(name).filter(|_| !same).filter(sharded).into_iter().collect();
    }
    let Some(pairs) = statement.strip_prefix("RENAME TABLE ") else { return Vec::new() };
    pairs.split(", ").flat_map(|pair| pair.split(" TO ")).filter(sharded).collect()
}

/// The engine of a table, as its replicated form.
fn replicated(table: &str, definition: &str) -> String {
    let Some((before, engine)) = definition.split_once("\nENGINE = ") else { return definition.to_owned() };
    let end = engine.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(engine.len());
    let (engine, rest) = engine.split_at(end);
    // Of a table that is everywhere, all servers are replicas of one another, whichever shard they are of.
    let (path, replica) = if SHARDED.contains(&table) {
        ("{shard}/{database}/{table}", "{replica}")
    } else {
        ("all/{database}/{table}", "{shard}-{replica}")
    };
    let mut made = format!("{before}\nENGINE = Replicated{engine}('/clickhouse/tables/{path}', '{replica}'");
    match rest.strip_prefix('(') {
        Some(arguments) => made.push_str(&format!(", {arguments}")),
        None => {
            let _written = write!(made, "){rest}");
        }
    }
    made.replace(" non_replicated_deduplication_window", " replicated_deduplication_window")
}

/// A materialized view's query: it is run over each block that a server takes.
fn reading(query: &str) -> String {
    let mut query = query.to_owned();
    for table in SHARDED {
        query = query.replace(&format!("FROM {table} AS "), &format!("FROM {} AS ", local(table)));
    }
    query
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Cluster, LOCAL, SHARDED, Step, code, local, named};
    use crate::migrate::migrated;

    const CLUSTER: Cluster<'_> = Cluster { name: "fleet", database: "fleetpulse" };

    /// Tables that every server has whole. A new table must be named here, or above.
    const EVERYWHERE: &[&str] = &[
        "schema_migrations",
        "nodes",
        "node_state",
        "node_ledgers",
        "batches",
        "ingest_gaps",
        "settle_runs",
        "settle_touched",
        "sim_months_settled",
        "sim_month_runs",
        "registry_customers",
        "registry_fleets",
        "registry_devices",
        "registry_sims",
        "registry_plans",
        "registry_budgets",
        "registry_shipments",
        "registry_tickets",
        "registry_changes",
        "sim_states",
        "sim_plans",
    ];

    /// What the rewrite added, taken away again.
    fn as_it_was(statement: &str) -> String {
        let mut was = statement.replace(" ON CLUSTER `fleet`", "").replace(LOCAL, "").replace(" SYNC", "");
        was = was.replace(" replicated_deduplication_window", " non_replicated_deduplication_window");
        if let Some((before, engine)) = was.clone().split_once("\nENGINE = Replicated") {
            let (engine, arguments) = engine.split_once("('/clickhouse/tables/").expect("a path");
            let (_, rest) = arguments.split_once("replica}'").expect("a replica");
            let rest = rest.strip_prefix(", ").map_or_else(
                || rest.strip_prefix(')').expect("no arguments").to_owned(),
                |arguments| format!("({arguments}"),
            );
            was = format!("{before}\nENGINE = {engine}{rest}");
        }
        was
    }

    #[test]
    fn every_table_has_its_place_and_every_sharded_one_has_a_device() {
        let mut made = BTreeSet::new();
        for statement in migrated().map(code) {
            if let Some((_, name, columns)) = named(statement, &["CREATE TABLE IF NOT EXISTS "]) {
                made.insert(name);
                assert!(
                    !SHARDED.contains(&name) || columns.contains(" device_id "),
                    "{name} has no device_id"
                );
            }
            if let Some(pairs) = statement.strip_prefix("RENAME TABLE ") {
                made.extend(pairs.split(", ").flat_map(|pair| pair.split(" TO ")));
            }
        }
        let placed: BTreeSet<&str> = SHARDED.iter().chain(EVERYWHERE).copied().collect();
        assert_eq!(made, placed);
        assert_eq!(placed.len(), SHARDED.len() + EVERYWHERE.len(), "a table has one place");
    }

    #[test]
    fn without_what_the_rewrite_added_each_statement_is_the_migrations_own() {
        for statement in migrated() {
            let steps = CLUSTER.steps(statement, None);
            assert_eq!(as_it_was(&steps[0].sql), code(statement));
            assert!(steps[1..].iter().all(|step| step.guard.is_some()), "{steps:?}");
        }
    }

    #[test]
    fn whatever_changes_the_schema_does_so_on_every_server() {
        for statement in migrated() {
            for Step { sql, .. } in CLUSTER.steps(statement, None) {
                let times = sql.matches(" ON CLUSTER `fleet`").count();
                assert_eq!(times, usize::from(!sql.starts_with("INSERT INTO ")), "{sql}");
                assert!(!sql.contains("\nENGINE = ") || sql.contains("\nENGINE = Replicated"), "{sql}");
                assert!(!sql.contains("non_replicated"), "{sql}");
            }
        }
    }

    #[test]
    fn a_materialized_view_goes_from_what_a_server_takes_to_what_it_keeps() {
        for statement in migrated() {
            let sql = &CLUSTER.steps(statement, None)[0].sql;
            if !sql.starts_with("CREATE MATERIALIZED VIEW") && !sql.contains("MODIFY QUERY") {
                continue;
            }
            for table in SHARDED {
                for plain in [format!(" TO {table} "), format!("FROM {table} ")] {
                    assert!(!sql.contains(&plain), "{sql}");
                }
            }
        }
    }

    #[test]
    fn a_table_that_is_moved_takes_its_distributed_one_along() {
        let steps = CLUSTER.steps(
            "-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats'\n\
             RENAME TABLE heartbeats TO heartbeats_before_7, heartbeats_next TO heartbeats",
            Some("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'heartbeats'"),
        );
        assert_eq!(
            steps[0].sql,
            "RENAME TABLE heartbeats_local TO heartbeats_before_7_local, heartbeats_next_local TO heartbeats_local ON CLUSTER `fleet`"
        );
        assert_eq!(
            steps[0].guard.as_deref(),
            Some(
                "SELECT count() FROM clusterAllReplicas('fleet', system.tables) WHERE database = 'fleetpulse' AND name = 'heartbeats_local'"
            )
        );
        for table in ["heartbeats", "heartbeats_before_7", "heartbeats_next"] {
            let over = format!(
                "CREATE OR REPLACE TABLE {table} ON CLUSTER `fleet` AS fleetpulse.{local} \
                 ENGINE = Distributed('fleet', 'fleetpulse', '{local}', cityHash64(device_id))",
                local = local(table)
            );
            assert!(steps.iter().any(|step| step.sql == over), "{over}");
            let gone = format!("DROP TABLE IF EXISTS {table} ON CLUSTER `fleet` SYNC");
            assert!(steps.iter().any(|step| step.sql == gone), "{gone}");
        }
    }
}

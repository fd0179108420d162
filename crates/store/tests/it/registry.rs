//! The registry's views: what a SIM was at a time, what it cost then, and what is not as it should be.

use crate::database::Database;

/// A database whose SIMs are looked at.
struct Sims {
    database: Database,
    /// What every "minutes ago" is counted from, so that spans are exact however slowly a test goes.
    began_ms: i64,
}

impl Sims {
    async fn of(test: &str) -> Self {
        let database = Database::of(&format!("registry_{test}"));
        database.store().migrate().await.expect("migrated");
        let began_ms = database.ask("SELECT toUnixTimestamp64Milli(now64(3))").parse().expect("milliseconds");
        Self { database, began_ms }
    }

    fn ask(&self, statement: &str) -> String {
        self.database.ask(statement)
    }

    /// Minutes before the test began, as ClickHouse reads it.
    fn ago(&self, minutes: u32) -> String {
        format!("fromUnixTimestamp64Milli({})", self.began_ms - i64::from(minutes) * 60_000)
    }

    fn registered(&self, iccids: &[&str]) {
        for iccid in iccids {
            self.ask(&format!("INSERT INTO registry_sims (iccid, version) VALUES ('{iccid}', 1)"));
        }
    }

    fn device(&self, device: &str, imei: &str, iccid: &str) {
        self.ask(&format!(
            "INSERT INTO registry_devices (device_id, imei, iccid_expected, version) VALUES ('{device}', '{imei}', '{iccid}', 1)"
        ));
    }

    fn state(&self, iccid: &str, state: &str, minutes_ago: u32) {
        self.ask(&format!(
            "INSERT INTO sim_states (iccid, since, state, version) VALUES ('{iccid}', {}, '{state}', 1)",
            self.ago(minutes_ago)
        ));
    }

    /// A heartbeat that arrived at once.
    fn told(&self, device: &str, imei: &str, iccid: &str, minutes_ago: u32) {
        self.told_late(device, imei, iccid, minutes_ago, minutes_ago);
    }

    /// A heartbeat that was taken before it arrived.
    fn told_late(&self, device: &str, imei: &str, iccid: &str, taken: u32, arrived: u32) {
        self.ask(&format!(
            "INSERT INTO heartbeats (device_id, device_time, identity, received_at, clock, imei, iccid, latitude_e6, longitude_e6) VALUES \
             ('{device}', {}, {taken}, {}, 'device', '{imei}', '{iccid}', {}, 13000000)",
            self.ago(taken),
            self.ago(arrived),
            // A degree of latitude, about 111 km, for each further letter.
            (50 + u32::from(device.as_bytes()[0] % 8)) * 1_000_000
        ));
    }

    /// The findings, once what was told has been seen.
    async fn findings(&self) -> Vec<String> {
        self.database.store().record_sim_sightings(0).await.expect("recorded");
        self.found()
    }

    fn found(&self) -> Vec<String> {
        let found = self.ask("SELECT finding, iccid, device_id, was, is FROM sim_findings ORDER BY ALL");
        found.lines().map(|line| line.replace('\t', " ")).collect()
    }
}

#[tokio::test]
async fn a_fleet_in_order_has_no_finding_and_sightings_are_the_same_however_often_they_are_recorded() {
    let sims = Sims::of("in_order").await;
    sims.registered(&["s1", "s2"]);
    sims.state("s1", "live", 1_000);
    for (device, imei, iccid) in [("a", "m1", "s1"), ("b", "m2", "s2")] {
        sims.device(device, imei, iccid);
        for minutes in [50, 40, 30] {
            sims.told(device, imei, iccid, minutes);
        }
    }
    assert_eq!(sims.findings().await, Vec::<String>::new());
    let sightings = "SELECT iccid, imei, device_id, dateDiff('minute', min(first_seen), max(last_seen)) FROM sim_sightings \
                     GROUP BY ALL ORDER BY ALL";
    let once = sims.ask(sightings);
    assert_eq!(once, "s1\tm1\ta\t20\ns2\tm2\tb\t20");
    assert_eq!(sims.findings().await, Vec::<String>::new());
    assert_eq!(sims.ask(sightings), once);
    // What was stored before is not looked at, and one that comes late widens the span to both sides.
    let now = sims.ask("SELECT toUnixTimestamp(now()) + 3600").parse().expect("seconds");
    sims.told("a", "m1", "s1", 90);
    sims.database.store().record_sim_sightings(now).await.expect("recorded");
    assert_eq!(sims.ask(sightings), once);
    sims.database.store().record_sim_sightings(0).await.expect("recorded");
    assert_eq!(sims.ask(sightings), "s1\tm1\ta\t60\ns2\tm2\tb\t20");
}

#[tokio::test]
async fn a_sim_that_moved_is_found_and_is_not_taken_for_a_clone() {
    let sims = Sims::of("moved").await;
    sims.registered(&["s1", "s2"]);
    sims.device("a", "m1", "s1");
    sims.told("a", "m1", "s1", 300);
    sims.told("a", "m1", "s1", 200);
    sims.told("b", "m2", "s2", 300);
    // Taken out of one, put into the other, and back the next day's half.
    sims.told("b", "m2", "s1", 150);
    sims.told("a", "m9", "s2", 100);
    // Stored by the first before the move, and sent after it.
    sims.told_late("a", "m1", "s1", 190, 149);
    sims.told("b", "m2", "s1", 148);
    assert_eq!(
        sims.findings().await,
        [
            "moved s1 b m1 m2",
            "moved s2 a m2 m9",
            "swapped s1 b s2 s1",
            "swapped s2 a s1 s2",
            "unexpected_modem s2 a m1 m9",
            "unexpected_sim s2 a s1 s2",
        ]
    );
}

#[tokio::test]
async fn two_devices_with_one_sim_at_the_same_time_are_a_clone() {
    let sims = Sims::of("cloned").await;
    sims.registered(&["s1"]);
    for minutes in [50, 40, 30] {
        sims.told("a", "m1", "s1", minutes);
        sims.told("c", "m2", "s1", minutes - 5);
    }
    let clones: Vec<String> =
        sims.findings().await.into_iter().filter(|finding| finding.starts_with("cloned")).collect();
    assert_eq!(clones, ["cloned s1 a c a", "cloned s1 c a c"]);
    let apart = sims.ask(
        "SELECT DISTINCT toFloat64(detail) BETWEEN 220 AND 224 FROM sim_findings WHERE finding = 'cloned'",
    );
    assert_eq!(apart, "1", "two degrees of latitude");
}

#[tokio::test]
async fn devices_that_tell_seldom_with_one_sim_are_a_clone_once_it_came_back_three_times() {
    let sims = Sims::of("cloned_slowly").await;
    sims.registered(&["s1"]);
    for hours in [40, 36, 32] {
        sims.told("a", "m1", "s1", hours * 60);
        sims.told("c", "m2", "s1", hours * 60 - 120);
    }
    let clones = |findings: Vec<String>| -> Vec<String> {
        findings.into_iter().filter(|finding| finding.starts_with("cloned")).collect()
    };
    assert_eq!(clones(sims.findings().await), Vec::<String>::new(), "twice may be by hand");
    sims.told("a", "m1", "s1", 28 * 60);
    assert_eq!(clones(sims.findings().await), ["cloned s1 a c a"]);
}

#[tokio::test]
async fn a_sim_that_nobody_knows_or_that_should_rest_is_found_by_when_it_was_used() {
    let sims = Sims::of("resting").await;
    sims.registered(&["s1", "s2"]);
    sims.state("s1", "live", 500);
    sims.state("s1", "paused", 300);
    sims.state("s1", "live", 100);
    sims.told("a", "m1", "s1", 400);
    sims.told("a", "m1", "s1", 50);
    sims.told("x", "m3", "s3", 50);
    // Live before and after, and silent meanwhile: nothing.
    assert_eq!(sims.findings().await, ["unregistered s3 x  s3"]);
    // Taken while it was paused, though it arrived when it was live again.
    sims.told_late("a", "m1", "s1", 200, 60);
    sims.state("s2", "inventory", 500);
    sims.told("b", "m2", "s2", 10);
    assert_eq!(
        sims.findings().await,
        [
            "unregistered s3 x  s3",
            "used_while_inventory s2 b inventory inventory",
            "used_while_paused s1 a paused paused",
        ]
    );
}

#[tokio::test]
async fn state_and_price_of_a_sim_are_those_of_the_time_that_is_asked_for() {
    let sims = Sims::of("at").await;
    sims.registered(&["s1", "s2"]);
    for (since, state) in [("2026-03-01", "paused"), ("2026-01-01", "live"), ("2026-02-01", "paused")] {
        sims.ask(&format!("INSERT INTO sim_states (iccid, since, state, version) VALUES ('s1', '{since} 00:00:00', '{state}', 1)"));
    }
    // Said again, and corrected: the higher version stands.
    sims.ask("INSERT INTO sim_states (iccid, since, state, version) VALUES ('s1', '2026-03-01 00:00:00', 'live', 2)");
    sims.ask("INSERT INTO sim_plans (iccid, since, plan_id, version) VALUES ('s1', '2026-02-10 00:00:00', 'q', 1), ('s1', '1970-01-01 00:00:00', 'p', 1)");
    sims.ask(
        "INSERT INTO registry_plans (plan_id, valid_from, valid_to, monthly_fee, version) VALUES \
         ('p', '2025-01-01', '2026-02-01', 1, 1), ('p', '2026-02-01', NULL, 2, 1), ('q', '2026-03-01', NULL, 3, 1)",
    );
    let at = |time: &str| {
        sims.ask(&format!(
            "SELECT state, plan_id, has_terms, monthly_fee FROM sims_at(at = '{time}') WHERE iccid = 's1'"
        ))
    };
    assert_eq!(at("2025-12-31 23:59:59"), "\tp\t1\t1");
    assert_eq!(at("2026-01-31 23:59:59"), "live\tp\t1\t1");
    assert_eq!(at("2026-02-01 00:00:00"), "paused\tp\t1\t2");
    assert_eq!(at("2026-02-20 00:00:00"), "paused\tq\t0\t0", "its plan has no conditions yet");
    assert_eq!(at("2026-03-01 00:00:00"), "live\tq\t1\t3");
    let terms = "SELECT plan_id, toDate(since), toDate(until), monthly_fee FROM sim_plan_terms WHERE iccid = 's1' ORDER BY since";
    assert_eq!(
        sims.ask(terms),
        "p\t2025-01-01\t2026-02-01\t1\np\t2026-02-01\t2026-02-10\t2\nq\t2026-03-01\t2149-06-06\t3"
    );
    let now = "SELECT iccid, state, state_since IS NULL, plan_id FROM sims ORDER BY iccid";
    assert_eq!(sims.ask(now), "s1\tlive\t0\tq\ns2\tinventory\t1\t");
    sims.ask("INSERT INTO registry_sims (iccid, version, deleted) VALUES ('s2', 2, true)");
    assert_eq!(sims.ask("SELECT iccid FROM sims"), "s1");
}

#[tokio::test]
async fn a_device_is_found_by_each_of_its_names() {
    let sims = Sims::of("names").await;
    sims.ask("INSERT INTO registry_sims (iccid, imsi, msisdn, version) VALUES ('s1', 'i1', '49171', 1), ('s2', 'i2', '', 1)");
    sims.ask(
        "INSERT INTO registry_devices (device_id, name, imei, iccid_expected, version) VALUES ('a', 'Ada', 'm1', 's1', 1)",
    );
    sims.told("a", "m1", "s2", 20);
    sims.told("a", "m1", "s2", 10);
    sims.told("b", "m2", "s1", 10);
    sims.findings().await;
    let found = |identifier: &str| {
        sims.ask(&format!(
            "SELECT device_id, kind, source, dateDiff('minute', seen_at, {}) FROM device_identifiers WHERE identifier = '{identifier}' \
             ORDER BY ALL",
            sims.ago(0)
        ))
    };
    assert_eq!(found("Ada"), "a\tname\tregistry\t\\N");
    assert_eq!(found("s1"), "a\ticcid\tregistry\t\\N\nb\ticcid\tseen\t10");
    assert_eq!(found("i2"), "a\timsi\tseen\t10");
    assert_eq!(found("49171"), "a\tmsisdn\tregistry\t\\N\nb\tmsisdn\tseen\t10");
    assert_eq!(found("a"), "a\tdevice_id\tregistry\t\\N\na\tdevice_id\tseen\t10");
}

//! What was measured, as a table.

use serde_json::{Value, json};

/// The rows so far.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Row {
    name: String,
    value: String,
    bare: Option<String>,
    mosquitto: Option<String>,
    goal: String,
    /// Whether the goal is met; `None` where there is none.
    is_met: Option<bool>,
    /// Whether missing it is a failure of the whole.
    is_promise: bool,
}

impl Table {
    /// A figure without a goal.
    pub(super) fn figure(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Row {
        self.push(name.into(), value.into(), String::new(), None, false)
    }

    /// A figure with a goal of speed or size.
    pub(super) fn goal(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        goal: impl Into<String>,
        is_met: bool,
    ) -> &mut Row {
        self.push(name.into(), value.into(), goal.into(), Some(is_met), false)
    }

    /// What has to be so on any machine.
    pub(super) fn promise(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        promise: impl Into<String>,
        is_kept: bool,
    ) -> &mut Row {
        self.push(name.into(), value.into(), promise.into(), Some(is_kept), true)
    }

    fn push(
        &mut self,
        name: String,
        value: String,
        goal: String,
        is_met: Option<bool>,
        is_promise: bool,
    ) -> &mut Row {
        let row = Row { name, value, bare: None, mosquitto: None, goal, is_met, is_promise };
        eprintln!("    {}: {} {}", row.name, row.value, row.verdict());
        let at = self.rows.len();
        self.rows.push(row);
        &mut self.rows[at]
    }

    pub(super) fn promises_held(&self) -> bool {
        self.rows.iter().all(|row| !row.is_promise || row.is_met != Some(false))
    }

    pub(super) fn print(&self, facts: &Value, rate: u32) {
        let fact = |name: &str| facts[name].as_str().map_or_else(|| facts[name].to_string(), str::to_owned);
        println!(
            "\nmachine     {} cores, {}, {}, Linux {}; load average before {}",
            fact("cores"),
            fact("cpu"),
            fact("memory"),
            fact("kernel"),
            fact("load_average_before")
        );
        println!("versions    {}, Kafka {}, {}", fact("fleetpulse"), fact("kafka"), fact("rustc"));
        println!(
            "load        QoS 1, {rate} heartbeats/s where no other is named, default settings (acks=all), one broker\n"
        );
        let header = ["measure", "fleetpulse", "bare", "mosquitto", "goal", ""].map(str::to_owned);
        let lines: Vec<[String; 6]> =
            std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for line in &lines {
            let [name, value, bare, mosquitto, goal, verdict] = line;
            let [name_width, value_width, bare_width, mosquitto_width, goal_width, _] = widths;
            let text = format!(
                "{name:<name_width$}  {value:>value_width$}  {bare:>bare_width$}  {mosquitto:>mosquitto_width$}  \
                 {goal:<goal_width$}  {verdict}"
            );
            println!("{}", text.trim_end());
        }
        println!();
    }

    pub(super) fn json(&self, facts: &Value) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({ "machine": facts, "rows": rows })
    }
}

impl Row {
    /// The same of a server that keeps nothing.
    pub(super) fn beside(&mut self, bare: Option<String>, mosquitto: Option<String>) {
        self.bare = bare;
        self.mosquitto = mosquitto;
    }

    fn verdict(&self) -> &'static str {
        match (self.is_met, self.is_promise) {
            (None, _) => "",
            (Some(true), true) => "kept",
            (Some(false), true) => "BROKEN",
            (Some(true), false) => "met",
            (Some(false), false) => "missed",
        }
    }

    fn cells(&self) -> [String; 6] {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        [
            self.name.clone(),
            self.value.clone(),
            or_dash(&self.bare),
            or_dash(&self.mosquitto),
            self.goal.clone(),
            self.verdict().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "bare": self.bare, "mosquitto": self.mosquitto,
            "goal": self.goal, "verdict": self.verdict(),
        })
    }
}

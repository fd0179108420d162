//! The settings: defaults, one TOML file, the environment, flags; merged, then checked whole.
//!
//! Every mistake is reported at once with its key. To that end each value is tried alone on top of the defaults before
//! the whole is read: a parser would stop at the first.

use std::fmt;
use std::path::Path;

use ops::Problem;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The example file: every setting with its meaning and its default.
pub(crate) const EXAMPLE: &str = include_str!("../../../deploy/fleetpulse.toml");

#[cfg(test)]
const ALL_SECTIONS: [Section; 10] = [
    Section::Log,
    Section::Kafka,
    Section::Clickhouse,
    Section::Gateway,
    Section::Listen,
    Section::Access,
    Section::Broker,
    Section::Commands,
    Section::Writer,
    Section::Registry,
];

const ENVIRONMENT_PREFIX: &str = "FLEETPULSE_";

/// One section of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Log,
    Kafka,
    Clickhouse,
    Gateway,
    Listen,
    Access,
    Broker,
    Commands,
    Writer,
    Registry,
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub log: ops::log::Config,
    pub kafka: bus::Config,
    pub clickhouse: store::Config,
    pub gateway: gateway::Config,
    pub listen: gateway::ListenConfig,
    pub access: access::Config,
    pub broker: broker::Config,
    pub commands: gateway::downlink::Config,
    pub writer: writer::Config,
    pub registry: registry::Config,
}

/// The settings cannot be used; every reason at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid(Vec<Problem>);

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = (self.0.len(), if self.0.len() == 1 { "setting" } else { "settings" });
        write!(f, "{count} {noun} cannot be used")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// A value on its way in, with where it came from.
struct Given {
    section: String,
    key: String,
    value: Value,
    from: String,
}

impl Settings {
    /// Reads the settings. Types and names are checked, not yet the values: [`Settings::validate`] does that, for the
    /// sections that a command uses.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Self, Invalid> {
        let mut problems = Vec::new();
        let mut given = Vec::new();
        if let Some(path) = file {
            from_file(path, &mut given, &mut problems);
        }
        let defaults = defaults();
        from_environment(environment, &defaults, &mut given);
        from_flags(flags, &mut given, &mut problems);

        let mut merged = defaults.clone();
        for given in given {
            let problem = |message| Problem {
                key: format!("{}.{}", given.section, given.key),
                message: format!("{message} ({})", given.from),
            };
            let Some(section) = defaults.get(&given.section).and_then(Value::as_table) else {
                problems.push(problem(format!("there is no section {:?}", given.section)));
                continue;
            };
            let Some(default) = section.get(&given.key) else {
                let known: Vec<&str> = section.keys().map(String::as_str).collect();
                problems
                    .push(problem(format!("there is no such setting; the section has {}", known.join(", "))));
                continue;
            };
            let value = coerced(given.value, default);
            match alone(&defaults, &given.section, &given.key, value.clone()) {
                Ok(()) => insert(&mut merged, &given.section, &given.key, value),
                Err(message) => problems.push(problem(message)),
            }
        }
        if problems.is_empty() {
            let read = merged.try_into::<Self>();
            return read.map_err(|error| {
                Invalid(vec![Problem { key: "settings".into(), message: error.to_string() }])
            });
        }
        Err(Invalid(problems))
    }

    /// Checks the values of some sections.
    pub(crate) fn validate(&self, sections: &[Section]) -> Result<(), Invalid> {
        let problems: Vec<Problem> = sections
            .iter()
            .flat_map(|section| match section {
                Section::Log => self.log.validate(),
                Section::Kafka => self.kafka.validate(),
                Section::Clickhouse => self.clickhouse.validate(),
                Section::Gateway => self.gateway.validate(),
                Section::Listen => self.listen.validate(),
                Section::Access => self.access.validate(),
                Section::Broker => self.broker.validate(),
                Section::Commands => self.commands.validate(),
                Section::Writer => self.writer.validate(),
                Section::Registry => self.registry.validate(),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(Invalid(problems)) }
    }
}

fn defaults() -> Table {
    match Table::try_from(Settings::default()) {
        Ok(table) => table,
        Err(error) => unreachable!("the defaults are a table: {error}"),
    }
}

fn from_file(path: &Path, given: &mut Vec<Given>, problems: &mut Vec<Problem>) {
    let problem = |message: String| Problem { key: path.display().to_string(), message };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(problem(format!("cannot be read: {error}")));
            return;
        }
    };
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            problems.push(problem(format!("is not TOML: {error}")));
            return;
        }
    };
    for (section, content) in table {
        let Value::Table(content) = content else {
            problems.push(problem(format!("`{section}` stands outside of a section such as [kafka]")));
            continue;
        };
        let from = format!("in {}", path.display());
        given.extend(content.into_iter().map(|(key, value)| Given {
            section: section.clone(),
            key,
            value,
            from: from.clone(),
        }));
    }
}

/// `FLEETPULSE_KAFKA_BROKERS` is `kafka.brokers`. Other variables with the prefix are not ours to judge: the
/// development stack has some, and a misspelt one is better found by `config check` than by a failed start elsewhere.
fn from_environment(
    environment: impl Iterator<Item = (String, String)>,
    defaults: &Table,
    given: &mut Vec<Given>,
) {
    for (name, text) in environment {
        let Some((section, key)) =
            name.strip_prefix(ENVIRONMENT_PREFIX).and_then(|rest| rest.split_once('_'))
        else {
            continue;
        };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        if defaults.contains_key(&section) {
            given.push(Given { section, key, value: Value::String(text), from: format!("in ${name}") });
        }
    }
}

fn from_flags(flags: &[String], given: &mut Vec<Given>, problems: &mut Vec<Problem>) {
    for flag in flags {
        let parts = flag.split_once('=').and_then(|(path, text)| Some((path.split_once('.')?, text)));
        match parts {
            Some(((section, key), text)) => given.push(Given {
                section: section.to_owned(),
                key: key.to_owned(),
                value: Value::String(text.to_owned()),
                from: "in --set".into(),
            }),
            None => problems.push(Problem {
                key: format!("--set {flag}"),
                message: "is not SECTION.KEY=VALUE".to_owned(),
            }),
        }
    }
}

/// Environment and flags are texts: where the default is a number, so is the value; a list is split at commas.
fn coerced(value: Value, default: &Value) -> Value {
    match (&value, default) {
        (Value::String(text), Value::Integer(_)) => text.parse().map_or(value.clone(), Value::Integer),
        (Value::String(text), Value::Boolean(_)) => text.parse().map_or(value.clone(), Value::Boolean),
        (Value::String(text), Value::Float(_)) => text.parse().map_or(value.clone(), Value::Float),
        (Value::String(text), Value::Array(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        _ => value,
    }
}

/// Whether a value, alone on top of the defaults, can be read.
fn alone(defaults: &Table, section: &str, key: &str, value: Value) -> Result<(), String> {
    let mut table = defaults.clone();
    insert(&mut table, section, key, value);
    let message = |error: toml::de::Error| error.message().trim().to_owned();
    table.try_into::<Settings>().map(drop).map_err(message)
}

fn insert(table: &mut Table, section: &str, key: &str, value: Value) {
    if let Some(section) = table.get_mut(section).and_then(Value::as_table_mut) {
        section.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Invalid> {
        let directory = std::env::temp_dir().join(format!("fleetpulse-settings-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a folder");
        let name = format!("{:x}.toml", text.len() * 31 + environment.len() * 7 + flags.len());
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a file");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Settings::load(Some(&path), environment, &flags)
    }

    #[test]
    fn the_example_is_the_defaults_and_says_who_may_come_in() {
        let example: Settings = toml::from_str(EXAMPLE).expect("the example is valid TOML");
        let mut expected = Settings::default();
        expected.access.chain = vec![access::Source::Anonymous];
        assert_eq!(example, expected);
        assert_eq!(example.validate(&ALL_SECTIONS), Ok(()));
    }

    #[test]
    fn the_example_names_every_setting() {
        for (section, content) in defaults() {
            for key in content.as_table().expect("a section").keys() {
                let line = format!("\n{key} = ");
                assert!(EXAMPLE.contains(&line), "deploy/fleetpulse.toml lacks {section}.{key}");
            }
        }
    }

    #[test]
    fn later_sources_win() {
        let file = "[kafka]\nbrokers = \"file:1\"\nlinger_ms = 1\npartitions = 3";
        let environment =
            [("FLEETPULSE_KAFKA_BROKERS", "environment:1"), ("FLEETPULSE_KAFKA_LINGER_MS", "2")];
        let settings = load(file, &environment, &["kafka.brokers=flag:1"]).expect("valid");
        assert_eq!(settings.kafka.brokers, "flag:1");
        assert_eq!(settings.kafka.linger_ms, 2);
        assert_eq!(settings.kafka.partitions, 3);
    }

    #[test]
    fn a_list_is_a_text_with_commas_in_the_environment_and_in_flags() {
        use access::Source::{Anonymous, Jwt};
        let chain = |environment: &[(&str, &str)], flags: &[&str]| {
            load("", environment, flags).map(|settings| settings.access.chain)
        };
        assert_eq!(chain(&[("FLEETPULSE_ACCESS_CHAIN", "anonymous")], &[]), Ok(vec![Anonymous]));
        assert_eq!(chain(&[], &["access.chain=jwt, anonymous"]), Ok(vec![Jwt, Anonymous]));
        assert_eq!(chain(&[], &["access.chain="]), Ok(vec![]));
        assert!(chain(&[], &["access.chain=jwt,everybody"]).is_err());
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_key() {
        let file = "stray = 1\n[kafka]\nbroker = \"a:1\"\nlinger_ms = \"soon\"\n[gatway]\nnode_id = \"x\"\n[writer]\nbatch_rows_max = -1";
        let Err(Invalid(problems)) = load(file, &[("FLEETPULSE_LOG_FORMAT", "xml")], &["nonsense"]) else {
            panic!("accepted");
        };
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        for key in [
            "kafka.broker",
            "kafka.linger_ms",
            "gatway.node_id",
            "writer.batch_rows_max",
            "log.format",
            "--set nonsense",
        ] {
            assert!(keys.contains(&key), "{key} is missing in {keys:?}");
        }
        assert_eq!(problems.len(), 7, "{problems:?}");
    }

    #[test]
    fn values_out_of_range_are_reported_at_once() {
        let mut settings = Settings::default();
        settings.kafka.brokers = "nowhere".into();
        settings.writer.batch_rows_max = 0;
        let Err(Invalid(problems)) = settings.validate(&ALL_SECTIONS) else { panic!("accepted") };
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["kafka.brokers", "access.chain", "writer.batch_rows_max"]);
    }
}

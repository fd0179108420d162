//! What somebody may do: rules in order, the first that matches decides, and what no rule matches is denied.
//!
//! A subscription is allowed only if every topic that its filter can match is: `crate::acl::cover` decides that exactly.
//! Topics that begin with `$` are never matched by a wildcard, nor by a name that was put into a rule.

use std::fmt;
use std::sync::Arc;

use event::DeviceId;
use serde::Deserialize;
use toml::Spanned;

use crate::file::{self, FileProblem, Mistakes};
use crate::{Config, Kind, OpenError, Principal};
use pattern::Pattern;

mod cover;
mod pattern;

/// What holds where no file is set.
const BUILT_IN: &str = r##"
[[rule]]
effect = "deny"
who = "devices"
action = "publish"
topic = "devices/{device_id}/commands/#"

[[rule]]
effect = "allow"
who = "devices"
action = "all"
topic = "devices/{device_id}/#"
"##;
const BUILT_IN_NAME: &str = "built-in rules";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish to a topic.
    Publish,
    /// Subscribe to a filter.
    Subscribe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Actions {
    Publish,
    Subscribe,
    All,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Everybody,
    Devices,
    Services,
    Device(Box<str>),
    Service(Box<str>),
    Fleet(Box<str>),
}

#[derive(Debug)]
struct Rule {
    effect: Effect,
    who: Who,
    actions: Actions,
    topic: Pattern,
    text: Arc<str>,
}

/// The rules.
#[derive(Debug)]
pub struct Acl {
    rules: Vec<Rule>,
}

/// Which rule decides, and how. `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it may be done.
    pub allowed: bool,
    /// The rules that decide, each with its file and line; several where a filter is allowed piece by piece.
    pub rules: Vec<Arc<str>>,
    /// A topic that the filter matches and that is denied.
    pub topic: Option<String>,
    /// What decides where no rule does.
    pub note: Option<&'static str>,
}

impl Explanation {
    fn denied(note: &'static str) -> Self {
        Self { allowed: false, rules: Vec::new(), topic: None, note: Some(note) }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed" } else { "denied" })?;
        if let Some(topic) = &self.topic {
            write!(f, ", because it takes in {topic}")?;
        }
        if let Some(note) = self.note {
            write!(f, ": {note}")?;
        }
        self.rules.iter().try_for_each(|rule| write!(f, "\n  {rule}"))
    }
}

impl Acl {
    /// Reads the rules that are set, or the built-in ones.
    ///
    /// # Errors
    /// Where the file cannot be read or has mistakes: all of them.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        Self::read(&config.acl_file).map_err(|problems| OpenError { problems })
    }

    pub(crate) fn read(path: &str) -> Result<Self, Vec<FileProblem>> {
        if path.is_empty() {
            return Self::parse(BUILT_IN_NAME, BUILT_IN);
        }
        Self::parse(path, &file::text(path)?)
    }

    fn parse(path: &str, text: &str) -> Result<Self, Vec<FileProblem>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Rules {
            #[serde(default)]
            rule: Vec<Spanned<Raw>>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            effect: Effect,
            who: Spanned<String>,
            action: Actions,
            topic: Spanned<String>,
        }
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let mut mistakes = Mistakes::of(path);
        let raw = match toml::from_str::<Rules>(text) {
            Ok(raw) => raw.rule,
            Err(error) => {
                mistakes.add(error.span().map(|span| line(span.start)), error.message().trim());
                return mistakes.or(Self { rules: Vec::new() });
            }
        };
        if raw.is_empty() {
            mistakes.add(None, "has no [[rule]]: everything would be denied");
        }
        let mut rules = Vec::with_capacity(raw.len());
        for rule in raw {
            let at = line(rule.span().start);
            let Raw { effect, who, action, topic } = rule.into_inner();
            let named = who_of(who.get_ref())
                .map_err(|message| mistakes.add(line(who.span().start), format!("who: {message}")));
            let pattern = Pattern::parse(topic.get_ref())
                .map_err(|message| mistakes.add(line(topic.span().start), format!("topic: {message}")));
            if let (Ok(named), Ok(pattern)) = (named, pattern) {
                let (who, topic) = (who.get_ref(), topic.get_ref());
                let text = format!("{path}:{at}: {effect:?} {who} {action:?} {topic}");
                rules.push(Rule { effect, who: named, actions: action, topic: pattern, text: text.into() });
            }
        }
        mistakes.or(Self { rules })
    }

    /// Whether somebody may do something with a topic or filter. Does not allocate for [`Action::Publish`].
    pub fn allows(&self, principal: &Principal, action: Action, topic: &str) -> bool {
        match action {
            Action::Publish => {
                matches!(self.publish(principal, topic), Ok(Some(rule)) if rule.effect == Effect::Allow)
            }
            Action::Subscribe => self.subscribe(principal, topic).allowed,
        }
    }

    /// Which rule decides.
    pub fn explain(&self, principal: &Principal, action: Action, topic: &str) -> Explanation {
        match action {
            Action::Subscribe => self.subscribe(principal, topic),
            Action::Publish => match self.publish(principal, topic) {
                Err(note) => Explanation::denied(note),
                Ok(None) => Explanation::denied("no rule matches"),
                Ok(Some(rule)) => Explanation {
                    allowed: rule.effect == Effect::Allow,
                    rules: vec![Arc::clone(&rule.text)],
                    topic: None,
                    note: None,
                },
            },
        }
    }

    fn publish(&self, principal: &Principal, topic: &str) -> Result<Option<&Rule>, &'static str> {
        usable(principal)?;
        if !mqtt::topic::is_valid_name(topic) {
            return Err("this is no topic to publish to");
        }
        Ok(self.of(principal, Action::Publish).find(|rule| rule.topic.matches(principal, topic)))
    }

    fn subscribe(&self, principal: &Principal, filter: &str) -> Explanation {
        if let Err(note) = usable(principal) {
            return Explanation::denied(note);
        }
        if !mqtt::topic::is_valid_filter(filter) {
            return Explanation::denied("this is no filter");
        }
        // A group shares what its filter matches: the filter decides.
        let filter = mqtt::topic::shared(filter).map_or(filter, |(_, filter)| filter);
        let mine: Vec<(&Rule, cover::Levels)> = self
            .of(principal, Action::Subscribe)
            .filter_map(|rule| Some((rule, rule.topic.levels(principal)?)))
            .collect();
        let text = |at: usize| mine.get(at).map(|(rule, _)| Arc::clone(&rule.text));
        let rules: Vec<(bool, &cover::Levels)> =
            mine.iter().map(|(rule, levels)| (rule.effect == Effect::Allow, levels)).collect();
        match cover::decide(&cover::levels(filter), &rules) {
            cover::Decision::Allowed(by) => Explanation {
                allowed: true,
                rules: by.into_iter().filter_map(text).collect(),
                topic: None,
                note: None,
            },
            cover::Decision::Denied { topic, by } => Explanation {
                allowed: false,
                rules: by.and_then(text).into_iter().collect(),
                topic: Some(topic),
                note: by.is_none().then_some("which no rule matches"),
            },
            cover::Decision::TooIntricate => {
                Explanation::denied("the rules are too intricate for so wide a filter")
            }
        }
    }

    fn of(&self, principal: &Principal, action: Action) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| {
            let acts = match rule.actions {
                Actions::All => true,
                Actions::Publish => action == Action::Publish,
                Actions::Subscribe => action == Action::Subscribe,
            };
            acts && rule.who.is(principal)
        })
    }
}

/// A name that is none could match less than it should, of the rules that deny too: so nothing is allowed.
fn usable(principal: &Principal) -> Result<(), &'static str> {
    let is_name = |text: &str| DeviceId::new(text).is_ok();
    if is_name(&principal.name) && principal.fleet.as_deref().is_none_or(is_name) {
        return Ok(());
    }
    Err("the name or the fleet may not stand in a topic")
}

fn who_of(text: &str) -> Result<Who, String> {
    let named = |name: &str| match DeviceId::new(name) {
        Ok(_) => Ok(Box::from(name)),
        Err(error) => Err(error.to_string()),
    };
    match text.split_once(':') {
        Some(("device", name)) => Ok(Who::Device(named(name)?)),
        Some(("service", name)) => Ok(Who::Service(named(name)?)),
        Some(("fleet", name)) => Ok(Who::Fleet(named(name)?)),
        None if text == "everybody" => Ok(Who::Everybody),
        None if text == "devices" => Ok(Who::Devices),
        None if text == "services" => Ok(Who::Services),
        _ => Err("is none of devices, services, everybody, device:NAME, service:NAME, fleet:NAME".to_owned()),
    }
}

impl Who {
    fn is(&self, principal: &Principal) -> bool {
        match self {
            Self::Everybody => true,
            Self::Devices => principal.kind == Kind::Device,
            Self::Services => principal.kind == Kind::Service,
            Self::Device(name) => principal.kind == Kind::Device && *principal.name == **name,
            Self::Service(name) => principal.kind == Kind::Service && *principal.name == **name,
            Self::Fleet(name) => principal.fleet.as_deref() == Some(name),
        }
    }
}

#[cfg(test)]
mod tests;

//! Whether every topic that a filter matches is allowed by rules of which the first that matches decides.
//!
//! Exact, by looking for a topic that is denied. There are endlessly many topics, but rules tell only those texts apart
//! that they name: at each level it is enough to try the texts that the rules still in play have there, and one more that
//! none has. A branch ends where a rule with `#` decides about all that follows. The search is bounded: rules that would
//! need more are answered with a denial.

use std::collections::BTreeSet;

/// Most rules that are compared with a level for one filter. Ordinary rules need some dozen; so many take about a
/// millisecond, and allow some two hundred texts in one level under a wildcard.
const COMPARED_MAX: usize = 50_000;

/// One level of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Text(String),
    Any,
    Rest,
}

pub(super) type Levels = Vec<Level>;

/// The levels of a valid filter.
pub(super) fn levels(filter: &str) -> Levels {
    let level = |text| match text {
        "+" => Level::Any,
        "#" => Level::Rest,
        text => Level::Text(text.to_owned()),
    };
    filter.split('/').map(level).collect()
}

/// About a filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Every topic is allowed, by these rules.
    Allowed(BTreeSet<usize>),
    /// This topic is not, by this rule, or because no rule matches.
    Denied { topic: String, by: Option<usize> },
    /// The search was given up.
    TooIntricate,
}

/// Decides about a filter. A rule is whether it allows, and its levels.
pub(super) fn decide(filter: &[Level], rules: &[(bool, &Levels)]) -> Decision {
    let mut search = Search { filter, rules, allowing: BTreeSet::new(), topic: Vec::new(), compared: 0 };
    // [MQTT-4.7.2-1]: a wildcard in the first level does not match a topic that begins with `$`, on either side.
    let dollar = matches!(filter.first(), Some(Level::Text(text)) if text.starts_with('$'));
    let wild = |levels: &Levels| matches!(levels.first(), Some(Level::Any | Level::Rest));
    let alive: Vec<usize> = (0..rules.len()).filter(|at| !(dollar && wild(rules[*at].1))).collect();
    match search.place(0, alive, None) {
        Ok(()) => Decision::Allowed(search.allowing),
        Err(stopped) => stopped,
    }
}

struct Search<'a> {
    filter: &'a [Level],
    rules: &'a [(bool, &'a Levels)],
    allowing: BTreeSet<usize>,
    topic: Vec<String>,
    compared: usize,
}

impl Search<'_> {
    /// Looks at all topics that begin as `topic` does. `alive`: rules in order that match so far. `decided`: the first
    /// that matches whatever follows.
    fn place(
        &mut self,
        depth: usize,
        mut alive: Vec<usize>,
        mut decided: Option<usize>,
    ) -> Result<(), Decision> {
        let rest = alive.iter().copied().find(|at| self.rules[*at].1.get(depth) == Some(&Level::Rest));
        decided = match (decided, rest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        alive.retain(|at| decided.is_none_or(|decided| *at < decided));
        let ended = depth == self.filter.len();
        let step = self.filter.get(depth.min(self.filter.len().saturating_sub(1)));
        let in_rest = step == Some(&Level::Rest);
        if alive.is_empty() {
            // The text of no length is no topic; what a `#` adds to it is.
            let no_topic = ended && !in_rest && self.topic == [""];
            return if no_topic { Ok(()) } else { self.verdict(decided) };
        }
        // Ended: `depth` levels stand, and the filter asks for no more. The text of no length is no topic.
        if (ended || (in_rest && depth > 0)) && self.topic != [""] {
            let ends = alive.iter().copied().find(|at| self.rules[*at].1.len() == depth);
            self.verdict(ends.or(decided))?;
        }
        if depth >= self.filter.len() && !in_rest {
            return Ok(());
        }
        match step {
            Some(Level::Text(text)) => self.descend(depth, text.clone(), &alive, decided),
            Some(Level::Any | Level::Rest) => {
                let named: BTreeSet<String> = alive
                    .iter()
                    .filter_map(|at| match self.rules[*at].1.get(depth) {
                        Some(Level::Text(text)) if depth > 0 || !text.starts_with('$') => Some(text.clone()),
                        _ => None,
                    })
                    .collect();
                let other = other_than(&named);
                for text in named.into_iter().chain([other]) {
                    self.descend(depth, text, &alive, decided)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn descend(
        &mut self,
        depth: usize,
        text: String,
        alive: &[usize],
        decided: Option<usize>,
    ) -> Result<(), Decision> {
        self.compared += alive.len() + 1;
        if self.compared > COMPARED_MAX {
            return Err(Decision::TooIntricate);
        }
        let fits = |at: &usize| match self.rules[*at].1.get(depth) {
            Some(Level::Text(own)) => *own == text,
            Some(Level::Any) => true,
            Some(Level::Rest) | None => false,
        };
        let alive = alive.iter().copied().filter(fits).collect();
        self.topic.push(text);
        let outcome = self.place(depth + 1, alive, decided);
        self.topic.pop();
        outcome
    }

    fn verdict(&mut self, by: Option<usize>) -> Result<(), Decision> {
        match by {
            Some(rule) if self.rules[rule].0 => {
                self.allowing.insert(rule);
                Ok(())
            }
            by => Err(Decision::Denied { topic: self.example(), by }),
        }
    }

    /// A topic at this place: what stands, and what the filter still asks for.
    fn example(&self) -> String {
        let mut topic = self.topic.clone();
        for level in self.filter.iter().skip(topic.len()) {
            match level {
                Level::Text(text) => topic.push(text.clone()),
                Level::Any => topic.push(other_than(&BTreeSet::new())),
                Level::Rest if topic.is_empty() => topic.push(other_than(&BTreeSet::new())),
                Level::Rest => {}
            }
        }
        if topic == [""] {
            topic.push(other_than(&BTreeSet::new()));
        }
        topic.join("/")
    }
}

/// A text that is none of these, for "anything else".
fn other_than(named: &BTreeSet<String>) -> String {
    let mut text = "x".to_owned();
    while named.contains(&text) {
        text.push('x');
    }
    text
}

//! The topic of a rule: a filter in which names may stand, such as `devices/{device_id}/#`.
//!
//! A name is text, never syntax: it is compared within its level, and cannot make a wildcard, a level or a `$` topic.

use super::cover::{Level, Levels};
use crate::{Kind, Principal};

/// The topic of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<Piece>),
    Any,
    Rest,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    DeviceId,
    Fleet,
    Name,
}

impl Piece {
    /// The text for somebody; none where they have no such name.
    fn of<'a>(&'a self, principal: &'a Principal) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::DeviceId => (principal.kind == Kind::Device).then_some(&*principal.name),
            Self::Fleet => principal.fleet.as_deref(),
            Self::Name => Some(&principal.name),
        }
    }
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$share/") {
            return Err(
                "a shared subscription is judged by its filter: leave out $share and the group".to_owned()
            );
        }
        if !mqtt::topic::is_valid_filter(text) {
            return Err(format!("{text:?} is no filter"));
        }
        text.split('/')
            .map(|level| match level {
                "+" => Ok(Part::Any),
                "#" => Ok(Part::Rest),
                level => pieces(level).map(Part::Text),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether it matches a topic for somebody.
    pub(super) fn matches(&self, principal: &Principal, topic: &str) -> bool {
        let dollar = topic.starts_with('$');
        let mut levels = topic.split('/');
        for (at, part) in self.0.iter().enumerate() {
            if at == 0 && dollar && !part.says_dollar() {
                return false;
            }
            match (part, levels.next()) {
                (Part::Rest, _) => return true,
                (Part::Any, Some(_)) => {}
                (Part::Text(pieces), Some(level)) if is(pieces, principal, level) => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Its levels for somebody; none where it can match nothing for them.
    pub(super) fn levels(&self, principal: &Principal) -> Option<Levels> {
        let level = |(at, part): (usize, &Part)| match part {
            Part::Any => Some(Level::Any),
            Part::Rest => Some(Level::Rest),
            Part::Text(pieces) => {
                let text = pieces.iter().map(|piece| piece.of(principal)).collect::<Option<String>>()?;
                (at > 0 || !text.starts_with('$') || part.says_dollar()).then_some(Level::Text(text))
            }
        };
        self.0.iter().enumerate().map(level).collect()
    }
}

impl Part {
    fn says_dollar(&self) -> bool {
        matches!(self, Self::Text(pieces) if matches!(pieces.first(), Some(Piece::Text(text)) if text.starts_with('$')))
    }
}

fn is(pieces: &[Piece], principal: &Principal, level: &str) -> bool {
    let mut rest = level;
    for piece in pieces {
        match piece.of(principal).and_then(|text| rest.strip_prefix(text)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

fn pieces(level: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = level;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        let Some(close) = after.find('}') else {
            return Err(format!("{level:?} opens a brace and does not close it"));
        };
        let (placeholder, after) = after.split_at(close + 1);
        if before.contains('}') {
            return Err(format!("{level:?} closes a brace that is not open"));
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(match placeholder {
            "{device_id}" => Piece::DeviceId,
            "{fleet}" => Piece::Fleet,
            "{name}" => Piece::Name,
            other => return Err(format!("{other} is none of {{device_id}}, {{fleet}}, {{name}}")),
        });
        rest = after;
    }
    if rest.contains('}') {
        return Err(format!("{level:?} closes a brace that is not open"));
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

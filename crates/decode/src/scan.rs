//! The quick way through a payload, which nearly all payloads go: the fields of [`object`](crate::object) by the same
//! rules, read by a [`Reader`] instead of by serde.
//!
//! It only ever says yes. What it cannot read, and what a rule refuses, is `None`, and the careful way decides and
//! explains. What both read is the same.

use std::borrow::Cow;

use crate::beyond::{Beyond, EXTRA};
use crate::object::Object;
use crate::reader::Reader;
use crate::rule::Rule;

/// Reads one payload into a message that is empty. Where it cannot, what it leaves there means nothing.
pub(crate) fn read<'de, T: Object>(text: &'de str, message: &mut T) -> Option<Beyond<'de>> {
    let mut scan =
        Scan { reader: Reader::new(text), beyond: Beyond::default(), group: "", extra_stood: false };
    scan.reader.space();
    message.scan(&mut scan)?;
    scan.reader.end()?;
    Some(scan.beyond)
}

/// Where the reader is, and what was kept aside.
pub(crate) struct Scan<'de> {
    pub(crate) reader: Reader<'de>,
    beyond: Beyond<'de>,
    /// The group being read; empty at the top.
    group: &'static str,
    extra_stood: bool,
}

impl<'de> Scan<'de> {
    /// The value of the known field `name`.
    #[inline]
    pub(crate) fn field<R: Rule>(
        &mut self,
        name: &'static str,
        rule: R,
        slot: &mut Option<R::Value>,
    ) -> Option<()> {
        if self.reader.peek() == Some(b'n') {
            return self.reader.null();
        }
        rule.scan(name, self, slot)
    }

    /// The members of the group `name`.
    pub(crate) fn group<T: Object>(&mut self, name: &'static str, message: &mut T) -> Option<()> {
        self.group = name;
        message.scan(self)?;
        self.group = "";
        Some(())
    }

    /// Keeps an unknown member aside, or the members of the payload's own `extra`.
    pub(crate) fn keep(&mut self, name: &'de str) -> Option<()> {
        if self.group.is_empty() && name == EXTRA {
            if std::mem::replace(&mut self.extra_stood, true) {
                return None;
            }
            return self.extra();
        }
        let value = self.reader.raw()?;
        self.beyond.push(self.group, Cow::Borrowed(name), value);
        Some(())
    }

    fn extra(&mut self) -> Option<()> {
        if self.reader.peek() == Some(b'n') {
            return self.reader.null();
        }
        self.group = EXTRA;
        let mut more = self.reader.open()?;
        while more {
            let name = self.reader.name()?;
            self.keep(name)?;
            more = self.reader.another()?;
        }
        self.group = "";
        Some(())
    }
}

//! Subscriptions by filter, level by level: a name finds its filters without looking at any other.

use std::collections::HashMap;

use mqtt::{Qos, RetainHandling};

/// How a subscription wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The highest QoS.
    pub qos: Qos,
    /// Not what the client published itself.
    pub no_local: bool,
    /// The retain flag as it was published.
    pub retain_as_published: bool,
    /// Whether retained messages are sent at once.
    pub retain_handling: RetainHandling,
}

/// One subscription of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) session: u64,
    pub(crate) options: Options,
    pub(crate) id: Option<u32>,
}

/// Sessions that share a subscription: each message goes to one of them.
#[derive(Debug)]
pub(crate) struct Group {
    name: Box<str>,
    pub(crate) members: Vec<Subscription>,
    /// Whose turn it is.
    pub(crate) turn: usize,
}

/// All subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    root: Node,
}

/// What has subscribed to one filter.
#[derive(Debug, Default)]
pub(crate) struct Node {
    children: HashMap<Box<str>, Node>,
    /// By session, so that one of many is found.
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) groups: Vec<Group>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.subscriptions.is_empty() && self.groups.is_empty()
    }

    fn members(&mut self, group: Option<&str>) -> &mut Vec<Subscription> {
        let Some(name) = group else {
            return &mut self.subscriptions;
        };
        let index = self.groups.iter().position(|group| *group.name == *name).unwrap_or_else(|| {
            self.groups.push(Group { name: name.into(), members: Vec::new(), turn: 0 });
            self.groups.len() - 1
        });
        &mut self.groups[index].members
    }
}

impl Tree {
    /// Adds a subscription, or replaces the session's own on the same filter. Whether it is new.
    pub(crate) fn insert(&mut self, filter: &str, subscription: Subscription) -> bool {
        let (group, plain) = split(filter);
        let mut node = &mut self.root;
        for level in plain.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let members = node.members(group);
        match members.binary_search_by_key(&subscription.session, |known| known.session) {
            Ok(index) => {
                members[index] = subscription;
                false
            }
            Err(index) => {
                members.insert(index, subscription);
                true
            }
        }
    }

    /// Removes a session's subscription, and what of the tree nobody needs any more.
    pub(crate) fn remove(&mut self, filter: &str, session: u64) {
        let (group, plain) = split(filter);
        let levels: Vec<&str> = plain.split('/').collect();
        remove(&mut self.root, &levels, group, session);
    }

    /// Shows every node whose filter matches a name.
    pub(crate) fn visit(&mut self, name: &str, seen: &mut impl FnMut(&mut Node)) {
        let levels: Vec<&str> = name.split('/').collect();
        // [MQTT-4.7.2-1]
        visit(&mut self.root, &levels, name.starts_with('$'), seen);
    }
}

/// Group, if it is a shared subscription, and filter.
fn split(filter: &str) -> (Option<&str>, &str) {
    match mqtt::topic::shared(filter) {
        Some((group, plain)) => (Some(group), plain),
        None => (None, filter),
    }
}

fn remove(node: &mut Node, levels: &[&str], group: Option<&str>, session: u64) {
    match levels.split_first() {
        None => {
            let members = node.members(group);
            if let Ok(index) = members.binary_search_by_key(&session, |known| known.session) {
                members.remove(index);
            }
            node.groups.retain(|group| !group.members.is_empty());
        }
        Some((level, rest)) => {
            if let Some(child) = node.children.get_mut(*level) {
                remove(child, rest, group, session);
                if child.is_empty() {
                    node.children.remove(*level);
                }
            }
        }
    }
}

fn visit(node: &mut Node, levels: &[&str], no_wildcard: bool, seen: &mut impl FnMut(&mut Node)) {
    if !no_wildcard && let Some(all) = node.children.get_mut("#") {
        seen(all);
    }
    match levels.split_first() {
        None => seen(node),
        Some((level, rest)) => {
            if let Some(child) = node.children.get_mut(*level) {
                visit(child, rest, false, seen);
            }
            if !no_wildcard && let Some(child) = node.children.get_mut("+") {
                visit(child, rest, false, seen);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscription(session: u64) -> Subscription {
        let options = Options {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        Subscription { session, options, id: None }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("$x".to_owned())]
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..4)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a name", |name| mqtt::topic::is_valid_name(name))
    }

    fn filter() -> impl Strategy<Value = String> {
        let part = prop_oneof![3 => level(), 1 => Just("+".to_owned()), 1 => Just("#".to_owned())];
        prop::collection::vec(part, 1..4)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a filter", |filter| mqtt::topic::is_valid_filter(filter))
    }

    proptest! {
        #[test]
        fn a_name_finds_exactly_the_filters_that_match_it(
            filters in prop::collection::vec(filter(), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            names in prop::collection::vec(name(), 1..6),
        ) {
            let mut tree = Tree::default();
            for (session, filter) in filters.iter().enumerate() {
                tree.insert(filter, subscription(session as u64));
            }
            let gone = |session: usize| removed[session];
            for (session, filter) in filters.iter().enumerate() {
                if gone(session) {
                    tree.remove(filter, session as u64);
                }
            }
            for name in &names {
                let mut found = Vec::new();
                tree.visit(name, &mut |node| found.extend(node.subscriptions.iter().map(|s| s.session)));
                found.sort_unstable();
                let matching = |(session, filter): (usize, &String)| {
                    (!gone(session) && mqtt::topic::matches(filter, name)).then_some(session as u64)
                };
                let expected: Vec<u64> = filters.iter().enumerate().filter_map(matching).collect();
                prop_assert_eq!(found, expected, "{} in {:?}", name, &filters);
            }
            for (session, filter) in filters.iter().enumerate() {
                tree.remove(filter, session as u64);
            }
            prop_assert!(tree.root.is_empty());
        }
    }
}

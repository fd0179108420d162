//! Names and filters of topics. (Section 4.7)

use crate::reader;

/// Whether a text is a topic name: not empty, no wildcard [MQTT-4.7.1-1] [MQTT-4.7.3-1], nothing that text may not
/// have, and not too long for a packet.
pub fn is_valid_name(name: &str) -> bool {
    is_text(name) && is_name(name)
}

/// Whether a text is a topic filter, `$share/{group}/{filter}` included [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.8.2-1],
/// with nothing that text may not have, and not too long for a packet.
pub fn is_valid_filter(filter: &str) -> bool {
    is_text(filter) && is_filter(filter)
}

fn is_text(text: &str) -> bool {
    text.len() <= usize::from(u16::MAX) && reader::is_allowed(text)
}

/// [`is_valid_name`] of text that was read from a packet.
pub(crate) fn is_name(name: &str) -> bool {
    // Without a branch for each byte, so that many are looked at at once.
    let wildcard = name.bytes().fold(false, |found, byte| found | (byte == b'+') | (byte == b'#'));
    !name.is_empty() && !wildcard
}

/// [`is_valid_filter`] of text that was read from a packet.
pub(crate) fn is_filter(filter: &str) -> bool {
    if filter == "$share" {
        return false;
    }
    if let Some(rest) = filter.strip_prefix("$share/") {
        return match rest.split_once('/') {
            Some((group, filter)) => is_name(group) && is_plain_filter(filter),
            None => false,
        };
    }
    is_plain_filter(filter)
}

fn is_plain_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let ok = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            level => !level.contains(['+', '#']),
        };
        if !ok {
            return false;
        }
    }
    !filter.is_empty()
}

/// Group and filter of a shared subscription. The filter must be valid.
pub fn shared(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

/// Whether a filter (not a shared one) matches a name. A name that begins with `$` is not matched by a wildcard in
/// the first level. [MQTT-4.7.2-1]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filters, mut names) = (filter.split('/'), name.split('/'));
    loop {
        match (filters.next(), names.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(name)) if filter == name => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("$SYS/#", "$SYS/a", true),
            ("+", "finance", true),
            ("+", "/finance", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn a_wildcard_stands_alone_in_its_level() {
        for filter in ["a/+/b", "#", "+", "a/#", "/", "$share/g/a/#", "$share/g/+"] {
            assert!(is_valid_filter(filter), "{filter}");
        }
        for filter in
            ["", "a#", "a/#/b", "a+", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g/a#"]
        {
            assert!(!is_valid_filter(filter), "{filter}");
        }
        for filter in ["$share", "a/\u{7f}", "a\0"] {
            assert!(!is_valid_filter(filter) && (filter == "$share" || !is_valid_name(filter)), "{filter:?}");
        }
        assert!(is_valid_name(&"a".repeat(65_535)) && !is_valid_name(&"a".repeat(65_536)));
        assert!(!is_valid_name("a/+") && !is_valid_name("") && is_valid_name("/"));
    }
}

//! Rules are tried against a naive oracle: all topics of a small alphabet, one by one.

use proptest::prelude::*;

use super::*;

fn who(kind: Kind, name: &str, fleet: Option<&str>) -> Principal {
    Principal { kind, name: name.into(), fleet: fleet.map(Into::into) }
}

fn device(name: &str) -> Principal {
    who(Kind::Device, name, None)
}

fn acl(rules: &[(&str, &str, &str, &str)]) -> Acl {
    let rule = |(effect, who, action, topic): &(&str, &str, &str, &str)| {
        format!("[[rule]]\neffect = {effect:?}\nwho = {who:?}\naction = {action:?}\ntopic = {topic:?}\n")
    };
    Acl::parse("rules.toml", &rules.iter().map(rule).collect::<String>()).expect("rules")
}

#[test]
fn a_device_has_its_own_topics_and_does_not_command_itself() {
    let acl = Acl::read("").expect("built in");
    let (me, publish, subscribe) = (device("d1"), Action::Publish, Action::Subscribe);
    for (action, topic, allowed) in [
        (publish, "devices/d1/heartbeat", true),
        (publish, "devices/d1/commands/reboot", false),
        (publish, "devices/d1/commands", false),
        (publish, "devices/d2/heartbeat", false),
        (publish, "devices/d1/+", false),
        (publish, "", false),
        (publish, "$SYS/x", false),
        (subscribe, "devices/d1/commands/#", true),
        (subscribe, "devices/d1/+/x", true),
        (subscribe, "$share/g/devices/d1/#", true),
        (subscribe, "$share/g/devices/#", false),
        (subscribe, "devices/+/commands", false),
        (subscribe, "#", false),
        (subscribe, "$SYS/#", false),
        (subscribe, "devices/d1/#/x", false),
    ] {
        assert_eq!(acl.allows(&me, action, topic), allowed, "{action:?} {topic}");
    }
    assert!(!acl.allows(&who(Kind::Service, "d1", None), publish, "devices/d1/heartbeat"));
}

#[test]
fn a_name_is_text_and_never_syntax() {
    let rules = acl(&[
        ("allow", "everybody", "all", "{device_id}/x"),
        ("allow", "everybody", "all", "f/{fleet}/a-{name}-b"),
    ]);
    assert!(rules.allows(&device("d"), Action::Publish, "d/x"));
    for name in ["$SYS", "+", "#", "a/b", ""] {
        assert!(!rules.allows(&device(name), Action::Publish, &format!("{name}/x")), "{name:?}");
        assert!(!rules.allows(&device(name), Action::Subscribe, &format!("{name}/x")), "{name:?}");
    }
    assert!(!rules.allows(&device("+"), Action::Subscribe, "other/x"));
    let service = who(Kind::Service, "s", Some("acme"));
    assert!(!rules.allows(&service, Action::Publish, "s/x"), "a service has no device id");
    assert!(rules.allows(&service, Action::Publish, "f/acme/a-s-b"));
    assert!(rules.allows(&service, Action::Subscribe, "f/acme/a-s-b"));
    assert!(!rules.allows(&device("s"), Action::Publish, "f/acme/a-s-b"), "no fleet, no rule with one");
    assert!(!rules.allows(&who(Kind::Device, "s", Some("#")), Action::Subscribe, "f/#"));
}

#[test]
fn reserved_topics_are_never_matched_by_a_wildcard() {
    let rules = acl(&[("allow", "services", "all", "#"), ("allow", "service:ops", "subscribe", "$SYS/#")]);
    let (any, ops) = (who(Kind::Service, "any", None), who(Kind::Service, "ops", None));
    assert!(rules.allows(&any, Action::Subscribe, "#") && rules.allows(&any, Action::Publish, "a"));
    assert!(
        !rules.allows(&any, Action::Subscribe, "$SYS/#") && !rules.allows(&any, Action::Publish, "$SYS/a")
    );
    assert!(
        rules.allows(&ops, Action::Subscribe, "$SYS/#") && !rules.allows(&ops, Action::Publish, "$SYS/a")
    );
}

#[test]
fn rules_of_a_fleet_and_of_one_device_are_for_them_alone() {
    let rules = acl(&[
        ("allow", "fleet:acme", "all", "fleets/{fleet}/#"),
        ("allow", "device:d1", "publish", "special"),
    ]);
    let mine = who(Kind::Device, "d1", Some("acme"));
    assert!(rules.allows(&mine, Action::Subscribe, "fleets/acme/+"));
    assert!(!rules.allows(&who(Kind::Device, "d1", Some("other")), Action::Subscribe, "fleets/acme/+"));
    assert!(rules.allows(&device("d1"), Action::Publish, "special"));
    assert!(!rules.allows(&device("d2"), Action::Publish, "special"));
    assert!(!rules.allows(&who(Kind::Service, "d1", None), Action::Publish, "special"));
}

#[test]
fn several_rules_may_cover_a_filter_together_and_one_denial_breaks_it() {
    let pieces = [("allow", "devices", "all", "a"), ("allow", "devices", "all", "a/+/#")];
    assert!(acl(&pieces).allows(&device("d"), Action::Subscribe, "a/#"));
    let with_hole = [("deny", "devices", "all", "a/+/secret"), pieces[0], pieces[1]];
    let explained = acl(&with_hole).explain(&device("d"), Action::Subscribe, "a/#");
    assert!(!explained.allowed);
    let topic = explained.topic.as_deref().expect("an example");
    assert!(topic.starts_with("a/") && topic.ends_with("/secret"), "{topic}");
    let text = explained.to_string();
    assert!(text.contains("rules.toml:1: Deny devices All a/+/secret"), "{text}");
    // A hole below the level without a name.
    let below_nothing = [("deny", "devices", "all", "/#"), ("allow", "devices", "all", "#")];
    let explained = acl(&below_nothing).explain(&device("d"), Action::Subscribe, "#");
    assert!(!explained.allowed && explained.topic.is_some_and(|topic| topic.starts_with('/')));
    // The hole is filled by an earlier rule.
    let filled = [("allow", "devices", "all", "a/#"), with_hole[0]];
    assert!(acl(&filled).allows(&device("d"), Action::Subscribe, "a/#"));
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = "\n[[rule]]\neffect = \"allow\"\nwho = \"nobody\"\naction = \"all\"\ntopic = \"a/#/b\"\n[[rule]]\neffect = \"deny\"\nwho = \"device:a/b\"\naction = \"publish\"\ntopic = \"{device}/x\"\n";
    let problems = Acl::parse("acl.toml", text).expect_err("mistakes");
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(4), Some(6), Some(9), Some(11)], "{problems:?}");
    for (text, line) in
        [("[[rules]]\n", Some(1)), ("x = ", Some(1)), ("", None), ("[[rule]]\neffect = \"maybe\"", Some(2))]
    {
        let problems = Acl::parse("acl.toml", text).expect_err("a mistake");
        assert_eq!(problems[0].line, line, "{problems:?}");
    }
    assert_eq!(Acl::read("/nowhere/acl.toml").expect_err("no file")[0].path, "/nowhere/acl.toml");
}

#[test]
fn rules_that_are_too_intricate_deny_and_take_no_time() {
    let names: Vec<String> =
        (0..64).map(|n| format!("{}/+/+/+/+/+/+/+/n{n}/end", ["+"; 4].join("/"))).collect();
    let mut text = String::new();
    for at in 0..12 {
        for name in ["a", "b", "c"] {
            let mut levels = ["+"; 12];
            levels[at] = name;
            text += &format!(
                "[[rule]]\neffect = \"allow\"\nwho = \"devices\"\naction = \"all\"\ntopic = {:?}\n",
                levels.join("/")
            );
        }
    }
    for name in &names {
        text +=
            &format!("[[rule]]\neffect = \"deny\"\nwho = \"devices\"\naction = \"all\"\ntopic = {name:?}\n");
    }
    text += "[[rule]]\neffect = \"allow\"\nwho = \"devices\"\naction = \"all\"\ntopic = \"#\"\n";
    let acl = Acl::parse("acl.toml", &text).expect("rules");
    let started = std::time::Instant::now();
    assert!(!acl.allows(&device("d"), Action::Subscribe, "#"));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

/// All topics of up to four levels; `z` stands for every text that no rule has.
fn topics() -> Vec<String> {
    let levels = ["", "a", "b", "z", "$s"];
    let mut all: Vec<String> = levels.iter().map(|&level| level.to_owned()).collect();
    let mut last = all.clone();
    for _ in 0..3 {
        last = last
            .iter()
            .flat_map(|topic| levels.iter().map(move |level| format!("{topic}/{level}")))
            .collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|topic| !topic.is_empty());
    all
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => Just("a"), 1 => Just("b"), 1 => Just(""), 1 => Just("$s"), 3 => Just("+")];
    (prop::collection::vec(level, 0..=3), any::<bool>()).prop_filter_map("no filter", |(mut levels, rest)| {
        if rest {
            levels.push("#");
        }
        let filter = levels.join("/");
        mqtt::topic::is_valid_filter(&filter).then_some(filter)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_filter_is_allowed_if_and_only_if_every_topic_is(
        filter in filter(),
        rules in prop::collection::vec((any::<bool>(), filter()), 1..6),
    ) {
        let rules: Vec<(&str, &str, &str, &str)> = rules
            .iter()
            .map(|(allow, topic)| (if *allow { "allow" } else { "deny" }, "devices", "all", topic.as_str()))
            .collect();
        let acl = acl(&rules);
        let me = device("d");
        // Three levels and a rest: a topic of four levels tells all apart.
        let denied = topics().into_iter().find(|topic| {
            let first = rules.iter().find(|rule| mqtt::topic::matches(rule.3, topic));
            let allowed = first.is_some_and(|rule| rule.0 == "allow");
            prop_assert_matching(&acl, &me, topic, allowed);
            mqtt::topic::matches(&filter, topic) && !allowed
        });
        let explained = acl.explain(&me, Action::Subscribe, &filter);
        prop_assert_eq!(explained.allowed, denied.is_none(), "{} {:?} {:?} {:?}", filter, rules, denied, explained);
        if let Some(topic) = explained.topic {
            prop_assert!(mqtt::topic::matches(&filter, &topic), "{} is not in {}", topic, filter);
            prop_assert!(!acl.allows(&me, Action::Publish, &topic), "{} is not denied", topic);
        }
    }
}

fn prop_assert_matching(acl: &Acl, me: &Principal, topic: &str, allowed: bool) {
    assert_eq!(acl.allows(me, Action::Publish, topic), allowed, "{topic}");
}

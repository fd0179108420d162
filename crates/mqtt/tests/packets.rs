//! Every case of `tests/packets`, as far as bytes alone decide it: what a server must go on with decodes whole, and what
//! it must end the connection for does not, but for the cases that need a memory, which are listed.

mod cases;

use std::collections::BTreeSet;

use cases::{Case, Judged};

/// Cases that must end the connection, and whose packets are all valid: the connection has to remember or to know
/// something. Each is the connection's to refuse, with a test there.
const NEEDS_MEMORY: &[(&str, &str)] = &[
    // No method is offered: the server's choice.
    ("CONNECT", "unsupported authentication method"),
    // Not even CONNACK may be sent [MQTT-3.1.2-24].
    ("CONNECT", "tiny max packet"),
    // Acknowledgements for messages that are not in that state.
    ("FLOW", "QoS 2 PUBLISH-PUBCOMP"),
    ("FLOW", "QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK"),
    ("FLOW", "QoS 1 PUBLISH-PUBREC"),
    ("FLOW", "QoS 1 PUBLISH-PUBCOMP"),
    // A packet id again and again; the specification does not limit it.
    ("PUBLISH", "34 QoS 2 Dup flow*3"),
];

#[test]
fn what_mosquitto_goes_on_with_decodes() {
    let mut failed = Vec::new();
    for case in cases::all().iter().filter(|case| !case.must_close) {
        match case.judge() {
            Judged::Valid => {}
            other => failed.push(format!("{case}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn what_mosquitto_closes_for_is_refused_or_needs_a_memory() {
    let mut failed = Vec::new();
    let mut remembered = BTreeSet::new();
    for case in cases::all().iter().filter(|case| case.must_close) {
        let is = |file: &str, name: &str| case.file == file && case.name == name;
        match case.judge() {
            // That closes it, too.
            Judged::Refused(_) | Judged::Disconnected => {}
            Judged::Valid if NEEDS_MEMORY.iter().any(|(file, name)| is(file, name)) => {
                remembered.insert((case.file.clone(), case.name.clone()));
            }
            other => failed.push(format!("{case}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(remembered.len(), NEEDS_MEMORY.len(), "one of NEEDS_MEMORY is refused by its bytes now");
}

#[test]
fn a_refusal_has_a_reason_code_of_the_answer() {
    // Others than mosquitto's, all by the specification: wrong flags of the fixed header are malformed (section 2.1.3)
    // and so is a client id that is no text; what may not stand in SUBSCRIBE and UNSUBSCRIBE, a packet id of 0, and a
    // list without filters are protocol errors; names and filters have codes of their own.
    let (mut same, mut other) = (0, Vec::new());
    for case in cases::all().iter().filter(|case| case.must_close && case.version == 5) {
        let (Judged::Refused(error), Some(expected)) = (case.judge(), case.refusal()) else { continue };
        assert!(error.reason_code() >= 0x80, "{case}");
        assert!(!error.name().is_empty() && !error.to_string().is_empty());
        if error.reason_code() == expected {
            same += 1;
        } else {
            other.push(format!("{case}: {:#04x}, mosquitto {expected:#04x}: {error}", error.reason_code()));
        }
    }
    assert_eq!((same, other.len()), (671, 54), "{}", other.join("\n"));
}

#[test]
fn there_are_as_many_cases_as_were_copied() {
    assert_eq!(cases::all().len(), Case::COPIED);
}

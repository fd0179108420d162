//! What goes wrong when: computed from a seed before anything starts, so that the same seed makes the same schedule.
//!
//! A fault begins only where what it hits is whole, and has had time to recover since its last fault. Faults on different
//! things overlap as they happen to.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::proxy::Mode;
use super::random::Random;

/// Kinds of faults, as `--faults` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// SIGKILL of a gateway, a writer, a broker or ClickHouse, and a new start a little later.
    Kill,
    /// SIGSTOP of one of these; of a writer also for longer than the group waits for it.
    Hang,
    /// A writer comes for a while, or leaves for a while.
    Rebalance,
    /// ClickHouse's disk is full.
    Disk,
    /// ClickHouse is read-only, has too many parts, or too little memory.
    Refuse,
    /// The network between writers and ClickHouse, and from gateways or writers to Kafka: cut, slow, silent, one way.
    Network,
    /// Clocks of devices are hours behind or days ahead.
    Clock,
    /// Tables remember the last five inserts alone, so that every recovery comes too late for their tokens.
    Window,
}

/// A process of the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Gateway(usize),
    Writer(usize),
    Broker(usize),
    ClickHouse,
}

/// A way over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Of one writer to ClickHouse.
    ClickHouse(usize),
    /// Of all gateways to one broker.
    GatewaysToBroker(usize),
    /// Of all writers to one broker.
    WritersToBroker(usize),
}

/// Why ClickHouse takes no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its user may only read, from a restart on to the next.
    ReadOnlyUser,
    /// One of its tables takes no rows.
    ReadOnlyTable,
    TooManyParts,
    /// The targets of the views have too many, so that an insert lands by halves.
    TooManyPartsInViews,
    /// No query gets memory, from a restart on to the next.
    NoMemory,
    DiskFull,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Kill(Target),
    Hang(Target),
    /// Kafka has the records of the gateways and its answers wait; then a gateway is killed, and its devices have to send
    /// again what stands there already.
    KillUnanswered(usize),
    /// A further writer, for a while.
    Comes(usize),
    /// A writer stops in order, and is back after a while.
    Leaves(usize),
    Refuses(Refusal),
    Network(Line, Mode),
    /// One device in so many has a clock that is off by so many seconds. The fleet itself does this.
    Clock {
        off_s: i64,
        one_in: u32,
    },
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Since the start of the fleet.
    pub at: Duration,
    pub lasts: Duration,
    pub what: What,
}

/// How much there is to break.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub gateways: usize,
    /// Those that always run; one more comes and goes.
    pub writers: usize,
    pub brokers: usize,
}

/// How long the fleet runs before the first fault.
pub(crate) const CALM: Duration = Duration::from_secs(5);
/// From one fault to the next, milliseconds.
const GAP_MS: (u64, u64) = (1_000, 6_000);
/// What a thing is left in peace after a fault: time to start, to come back into its group, to catch up a little.
const RECOVERY: Duration = Duration::from_secs(4);
/// How often a fault is drawn anew because what it would hit is not whole.
const DRAWS_MAX: usize = 20;

/// How often a long drill pauses, for the tables to be looked at and merged.
const BREAK_EVERY: Duration = Duration::from_secs(120);
/// No fault begins or goes on in this time before a break, or in it.
const BREAK_BEFORE: Duration = Duration::from_secs(3);
const BREAK: Duration = Duration::from_secs(8);

/// When a drill of this length pauses.
pub(crate) fn breaks(length: Duration) -> Vec<Duration> {
    let all = (1..).map(|turn| BREAK_EVERY * turn);
    all.take_while(|at| *at + BREAK_EVERY / 2 <= length).collect()
}

/// The faults of a drill, in the order in which they begin; all are over by `length`.
pub(crate) fn faults(seed: u64, length: Duration, kinds: &[Kind], size: Size) -> Vec<Fault> {
    let mut random = Random::new(seed);
    let breaks = breaks(length);
    // The window is a state of the whole drill and not an event.
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| *kind != Kind::Window).collect();
    let mut faults: Vec<Fault> = Vec::new();
    let mut at = CALM;
    while !kinds.is_empty() {
        for _ in 0..DRAWS_MAX {
            let what = draw(&mut random, &kinds, size);
            let lasts = lasts(&mut random, what);
            let whole =
                |other: &Fault| other.at + other.lasts + RECOVERY <= at || !conflicts(what, other.what);
            let clear = |pause: &Duration| at + lasts + BREAK_BEFORE <= *pause || at >= *pause + BREAK;
            if at + lasts <= length && faults.iter().all(whole) && breaks.iter().all(clear) {
                faults.push(Fault { at, lasts, what });
                break;
            }
        }
        at += Duration::from_millis(random.between(GAP_MS.0, GAP_MS.1));
        if at >= length {
            break;
        }
    }
    faults
}

fn draw(random: &mut Random, kinds: &[Kind], size: Size) -> What {
    match *random.one_of(kinds) {
        Kind::Kill if random.once_in(6) => What::KillUnanswered(random.index(size.gateways)),
        Kind::Kill => What::Kill(target(random, size)),
        Kind::Hang => What::Hang(target(random, size)),
        Kind::Rebalance => {
            if random.once_in(2) {
                What::Comes(size.writers)
            } else {
                What::Leaves(random.index(size.writers))
            }
        }
        Kind::Disk => What::Refuses(Refusal::DiskFull),
        Kind::Refuse => What::Refuses(*random.one_of(&[
            Refusal::ReadOnlyUser,
            Refusal::ReadOnlyTable,
            Refusal::TooManyParts,
            Refusal::TooManyPartsInViews,
            Refusal::NoMemory,
        ])),
        Kind::Network => {
            let line = match random.between(0, 3) {
                0 => Line::GatewaysToBroker(random.index(size.brokers)),
                1 => Line::WritersToBroker(random.index(size.brokers)),
                _ => Line::ClickHouse(random.index(size.writers)),
            };
            What::Network(line, mode(random))
        }
        Kind::Clock | Kind::Window => {
            let hours = *random.one_of(&[-30 * 24, -26, -3, 5, 23, 25, 72, 20 * 365 * 24]);
            What::Clock { off_s: hours * 3_600 + random.signed(600), one_in: *random.one_of(&[2, 3, 5]) }
        }
    }
}

/// Writers twice as often as others: theirs is the harder part.
fn target(random: &mut Random, size: Size) -> Target {
    match random.between(0, 4) {
        0 => Target::Gateway(random.index(size.gateways)),
        1 | 2 => Target::Writer(random.index(size.writers)),
        3 => Target::Broker(random.index(size.brokers)),
        _ => Target::ClickHouse,
    }
}

fn mode(random: &mut Random) -> Mode {
    match random.between(0, 5) {
        0 => Mode::Delay(Duration::from_millis(random.between(50, 800))),
        1 => Mode::Hang,
        2 => Mode::Cut,
        // Answers of ClickHouse are short: often nothing of them comes through.
        3 | 4 => Mode::CutAnswer { after: if random.once_in(2) { 0 } else { random.between(1, 400) } },
        _ => Mode::CutRequest { after: random.between(1, 60_000) },
    }
}

fn lasts(random: &mut Random, what: What) -> Duration {
    let (least, most) = match what {
        What::Kill(_) => (100, 6_000),
        What::KillUnanswered(_) => (300, 3_000),
        // A third of these are longer than the session timeout of the group.
        What::Hang(Target::Writer(_)) => (1_000, 12_000),
        What::Hang(_) => (1_000, 9_000),
        What::Comes(_) | What::Leaves(_) => (2_000, 12_000),
        What::Refuses(_) => (1_000, 8_000),
        What::Network(..) => (500, 9_000),
        What::Clock { .. } => (3_000, 15_000),
    };
    Duration::from_millis(random.between(least, most))
}

/// Whether the same thing is hit.
fn conflicts(a: What, b: What) -> bool {
    let answers_held = |what| matches!(what, What::KillUnanswered(_));
    let to_broker = |what| matches!(thing(what), Thing::Line(Line::GatewaysToBroker(_)));
    if (answers_held(a) && answers_held(b))
        || (answers_held(a) && to_broker(b))
        || (to_broker(a) && answers_held(b))
    {
        return true;
    }
    match (thing(a), thing(b)) {
        // One broker at a time: three go on without one.
        (Thing::Process(Target::Broker(_)), Thing::Process(Target::Broker(_))) => true,
        (a, b) => a == b,
    }
}

#[derive(PartialEq, Eq)]
enum Thing {
    Process(Target),
    Line(Line),
    Clocks,
}

fn thing(what: What) -> Thing {
    match what {
        What::Kill(target) | What::Hang(target) => Thing::Process(target),
        What::KillUnanswered(gateway) => Thing::Process(Target::Gateway(gateway)),
        What::Comes(writer) | What::Leaves(writer) => Thing::Process(Target::Writer(writer)),
        // What makes it refuse is undone by asking it.
        What::Refuses(_) => Thing::Process(Target::ClickHouse),
        What::Network(line, _) => Thing::Line(line),
        What::Clock { .. } => Thing::Clocks,
    }
}

impl What {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Kill(_) | Self::KillUnanswered(_) => Kind::Kill,
            Self::Hang(_) => Kind::Hang,
            Self::Comes(_) | Self::Leaves(_) => Kind::Rebalance,
            Self::Refuses(Refusal::DiskFull) => Kind::Disk,
            Self::Refuses(_) => Kind::Refuse,
            Self::Network(..) => Kind::Network,
            Self::Clock { .. } => Kind::Clock,
        }
    }
}

impl Kind {
    /// As `--faults` names it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(index) => write!(f, "gateway-{}", index + 1),
            Self::Writer(index) => write!(f, "writer-{}", index + 1),
            Self::Broker(index) => write!(f, "kafka-{}", index + 1),
            Self::ClickHouse => f.write_str("clickhouse"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClickHouse(writer) => write!(f, "writer-{} to clickhouse", writer + 1),
            Self::GatewaysToBroker(broker) => write!(f, "gateways to kafka-{}", broker + 1),
            Self::WritersToBroker(broker) => write!(f, "writers to kafka-{}", broker + 1),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {target}"),
            Self::Hang(target) => write!(f, "hang {target}"),
            Self::KillUnanswered(gateway) => {
                write!(f, "kafka's answers wait, then kill {}", Target::Gateway(*gateway))
            }
            Self::Comes(writer) => write!(f, "{} comes", Target::Writer(*writer)),
            Self::Leaves(writer) => write!(f, "{} leaves", Target::Writer(*writer)),
            Self::Refuses(Refusal::ReadOnlyUser) => f.write_str("clickhouse lets its user only read"),
            Self::Refuses(Refusal::ReadOnlyTable) => f.write_str("table device_newest is read-only"),
            Self::Refuses(Refusal::TooManyParts) => f.write_str("clickhouse has too many parts"),
            Self::Refuses(Refusal::TooManyPartsInViews) => {
                f.write_str("targets of views have too many parts")
            }
            Self::Refuses(Refusal::NoMemory) => f.write_str("clickhouse has no memory for inserts"),
            Self::Refuses(Refusal::DiskFull) => f.write_str("the disk of clickhouse is full"),
            Self::Network(line, mode) => write!(f, "network, {line}: {mode}"),
            Self::Clock { off_s, one_in } => {
                write!(f, "clocks of one device in {one_in} are off by {:+.1} h", *off_s as f64 / 3_600.0)
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:>7.1} s  {}, for {lasts:.1} s", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { gateways: 2, writers: 2, brokers: 3 };
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_one_another() {
        let kinds = Kind::value_variants();
        let faults_of = |seed| faults(seed, HOUR, kinds, SIZE);
        assert_eq!(faults_of(7), faults_of(7));
        assert_ne!(faults_of(7), faults_of(8));
        let drawn = faults_of(7);
        assert!(drawn.len() > 500, "{}", drawn.len());
        for kind in kinds.iter().filter(|kind| **kind != Kind::Window) {
            assert!(drawn.iter().any(|fault| fault.what.kind() == *kind), "{kind:?} is never drawn");
        }
    }

    #[test]
    fn nothing_is_hit_while_it_is_broken_and_all_is_over_in_time() {
        let drawn = faults(3, HOUR, Kind::value_variants(), SIZE);
        for (index, fault) in drawn.iter().enumerate() {
            assert!(fault.at + fault.lasts <= HOUR);
            for earlier in &drawn[..index] {
                let over = earlier.at + earlier.lasts + RECOVERY <= fault.at;
                assert!(over || !conflicts(fault.what, earlier.what), "{earlier} and {fault}");
            }
            for pause in breaks(HOUR) {
                assert!(fault.at + fault.lasts < pause || fault.at >= pause + BREAK, "{fault} in a break");
            }
        }
    }

    #[test]
    fn only_what_was_asked_for_is_drawn() {
        let drawn = faults(1, HOUR, &[Kind::Rebalance], SIZE);
        assert!(!drawn.is_empty() && drawn.iter().all(|fault| fault.what.kind() == Kind::Rebalance));
        assert!(faults(1, HOUR, &[Kind::Window], SIZE).is_empty());
    }
}

//! The protocol against a model of Kafka and ClickHouse: two writers that share partitions, every order of events in every state that can
//! be reached with few records and a bounded number of faults; and long random orders with more of both.
//!
//! The model keeps what the real ones keep: the logs, per partition an owner and a committed position with its note, a table, a view on it
//! that may lag, the rows of `batches`, and the tokens that the table still knows. An insert may land wholly, or in the table and not in
//! the view; its answer may be lost; one that was sent may land after its writer has given it up or is dead, in the middle of its
//! successor's work. A partition may be handed over in the middle of an insert; and a writer may have been expelled from the group without
//! knowing: then Kafka refuses its commits, and ClickHouse knows nothing of it.
//! Tokens may be forgotten at any time at which nothing is on its way: that an insert does not stay there for thousands of others is
//! what the model assumes.

use std::collections::HashSet;

use proptest::prelude::*;

use self::world::World;

mod table;
mod world;

const WRITERS: usize = 2;

/// What the world does next: to a writer, or to what a writer has under way for a partition.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// It reads a record, if there is one.
    Read(usize, usize),
    /// Time passes, past every age and pause, and it looks at what is due.
    Time(usize),
    /// Kafka answers its oldest commit.
    Commit(usize, Answer),
    /// ClickHouse tells what stands of a batch that goes alone.
    Asked(usize, usize),
    /// A batch that goes alone is inserted.
    Alone(usize, usize, Fate),
    /// Its oldest round is inserted.
    Round(usize, Fate),
    /// It dies; what it sent is still on its way. It is back at once: with its partitions, or without them.
    Crash(usize, Back),
    /// A partition is handed over to the other writer, once Kafka has answered the commits under way.
    Move(usize, Answer),
    /// The group gives its partitions to the other, and it does not know.
    Expel(usize),
    /// It learns so.
    Learn(usize),
    /// An insert that nobody waits for lands: the one that was sent first, or last.
    LateLanding(First),
    /// The table forgets its tokens.
    Forgotten,
    /// What fills is closed, as for a partition that goes.
    CloseNow(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
    /// Kafka takes it, and its answer is lost.
    Unanswered,
    /// Kafka takes it, the writer dies before it knows.
    TakenThenCrash,
}

/// What becomes of an insert that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Landed,
    /// Its answer is lost.
    Unanswered,
    /// It lands in the table and not in the view, and fails.
    WithoutView,
    /// It fails, and lands later.
    Adrift,
    /// It fails and never lands.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    WithPartitions,
    WithoutPartitions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Oldest,
    Newest,
}

impl Event {
    fn all(partitions: usize) -> Vec<Self> {
        let mut all =
            vec![Self::Forgotten, Self::LateLanding(First::Oldest), Self::LateLanding(First::Newest)];
        let fates = [Fate::Landed, Fate::Unanswered, Fate::WithoutView, Fate::Adrift, Fate::Lost];
        let moves = |answer| (0..partitions).map(move |partition| Self::Move(partition, answer));
        all.extend(moves(Answer::Taken).chain(moves(Answer::Unanswered)));
        for writer in 0..WRITERS {
            all.extend([Self::Time(writer), Self::Expel(writer), Self::Learn(writer)]);
            all.extend([Back::WithPartitions, Back::WithoutPartitions].map(|back| Self::Crash(writer, back)));
            let answers = [Answer::Taken, Answer::Refused, Answer::Unanswered, Answer::TakenThenCrash];
            all.extend(answers.map(|answer| Self::Commit(writer, answer)));
            all.extend(fates.map(|fate| Self::Round(writer, fate)));
            for partition in 0..partitions {
                let (read, asked) = (Self::Read(writer, partition), Self::Asked(writer, partition));
                all.extend([read, asked, Self::CloseNow(writer, partition)]);
                all.extend(fates.map(|fate| Self::Alone(writer, partition, fate)));
            }
        }
        all
    }

    /// Whether something goes wrong.
    fn is_fault(self) -> bool {
        match self {
            Self::Crash(..) | Self::Move(..) | Self::Expel(_) | Self::Forgotten => true,
            Self::Commit(_, answer) => answer != Answer::Taken,
            Self::Alone(_, _, fate) | Self::Round(_, fate) => fate != Fate::Landed,
            _ => false,
        }
    }
}

/// Every order of events with at most so many faults, until no new state is found.
fn every_state(world: World, faults: usize) -> usize {
    let events = Event::all(world.logs.len());
    let mut seen = HashSet::new();
    let mut to_visit = vec![world];
    while let Some(world) = to_visit.pop() {
        let mut quiet = world.clone();
        quiet.settle();
        quiet.check_settled();
        for event in &events {
            let mut after = world.clone();
            after.happen(*event);
            after.check();
            if after.faults <= faults && seen.insert(after.key()) {
                to_visit.push(after);
            }
        }
    }
    seen.len()
}

#[test]
fn every_record_lands_once_in_every_order_of_events() {
    let alone = every_state(World::new(&[2], 1), 1);
    let together = every_state(World::begun(&[1, 1], 2), 1);
    let states = alone + together;
    println!("{alone} + {together} states");
    assert!(states > 1_000, "only {states} states were reached: the model does not move");
}

fn of_one_world() -> impl Strategy<Value = (Vec<usize>, usize, bool, Vec<Event>)> {
    proptest::collection::vec(1_usize..8, 1..4).prop_flat_map(|records| {
        let (faults, steps): (Vec<_>, Vec<_>) =
            Event::all(records.len()).into_iter().partition(|event| event.is_fault());
        let event = prop_oneof![1 => proptest::sample::select(faults), 6 => proptest::sample::select(steps)];
        let events = proptest::collection::vec(event, 0..400);
        (Just(records), 1_usize..6, any::<bool>(), events)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_record_lands_once_whatever_crashes((records, rows, begun, events) in of_one_world()) {
        let mut world = if begun { World::begun(&records, rows) } else { World::new(&records, rows) };
        for event in events {
            world.happen(event);
            world.check();
        }
        world.settle();
        world.settle();
        world.check_settled();
    }
}

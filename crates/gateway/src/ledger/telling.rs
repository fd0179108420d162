//! Tells the counts: an event for each minute that is over, again where they have risen since.
//!
//! A minute is told once none of its records is under way (it is complete then), or after [`TELL_AT_LAST`]. What Kafka does not
//! take is told again with the next look. A stopping node tells what it has, the minute that runs included.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use event::Millis;
use event::v1::{LedgerCount, NodeLedger, event::Kind};
use tokio_util::sync::CancellationToken;

use super::{Ledger, Minute, MinuteNumber, total};
use crate::nodes::Life;
use crate::now;

/// Between two looks at what is to be told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long after its end a minute may still be entered: far above what lies between reading the clock and taking the minute.
const OVER_AFTER_MS: i64 = 2_000;
/// How long after its end a minute is told though some of its records are under way.
const TELL_AT_LAST_MS: i64 = 60_000;
/// Between two looks at whether everything is reported, while the node stops.
const SETTLED_EVERY: Duration = Duration::from_millis(20);

/// Tells what a [`Ledger`] counts.
pub(crate) struct Teller {
    ledger: Arc<Ledger>,
    life: Life,
    told: HashMap<MinuteNumber, Told>,
}

/// What was told of a minute.
#[derive(Clone, Default, PartialEq)]
struct Told {
    telling: u32,
    complete: bool,
    counts: Vec<LedgerCount>,
}

/// Which minutes are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that are over.
    Over,
    /// All: nothing is taken in any more.
    All,
}

impl Teller {
    pub(crate) fn new(ledger: Arc<Ledger>, life: Life) -> Self {
        Self { ledger, life, told: HashMap::new() }
    }

    /// Tells of minutes as they are over, until `stop`; then it is to be asked for the [`Teller::last`].
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Self {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return self,
                () = self.tell(Which::Over) => {}
            }
        }
    }

    /// Tells everything, once every record is reported. Nothing may be taken in any more. To be bounded by the caller: a
    /// dropped call has told what it has told.
    pub(crate) async fn last(&mut self) {
        while self.ledger.minutes().iter().any(|minute| minute.under_way()) {
            tokio::time::sleep(SETTLED_EVERY).await;
        }
        self.tell(Which::All).await;
    }

    async fn tell(&mut self, which: Which) {
        let minutes = self.ledger.minutes();
        self.told.retain(|number, _| minutes.iter().any(|minute| minute.number == *number));
        for minute in minutes {
            let Some(next) = self.next(&minute, which, now()) else { continue };
            let ledger = NodeLedger {
                minute_ms: minute.number.begins_at().0,
                telling: next.telling,
                complete: next.complete,
                counts: next.counts.clone(),
            };
            match self.life.say(Kind::NodeLedger(ledger)).await {
                Ok(()) => {
                    minute.told.store(total(&next.counts), Ordering::Relaxed);
                    self.told.insert(minute.number, next);
                }
                Err(error) => {
                    metrics::counter!("fleetpulse_gateway_node_events_repeated_total").increment(1);
                    tracing::debug!(%error, "counts of a minute not stored, again");
                    // It may stand all the same: what is told next is another telling.
                    self.told.entry(minute.number).or_default().telling = next.telling;
                    return;
                }
            }
        }
    }

    /// What is to be told of a minute, if anything.
    fn next(&self, minute: &Arc<Minute>, which: Which, now: Millis) -> Option<Told> {
        let over_for_ms = now.0 - minute.number.ends_at().0;
        let over = which == Which::All || over_for_ms >= OVER_AFTER_MS;
        // Looked at first: what is reported in between is counted, and told as not complete.
        let complete = over && !minute.under_way();
        if !(complete || over_for_ms >= TELL_AT_LAST_MS) {
            return None;
        }
        let counts = minute.counts();
        let before = self.told.get(&minute.number);
        if before.is_some_and(|told| told.complete >= complete && told.counts == counts) {
            return None;
        }
        let telling = before.map_or(0, |told| told.telling) + 1;
        // What was complete stays so: its acknowledgements alone have risen.
        Some(Told { telling, complete, counts })
    }
}

impl Minute {
    /// Whether records of it are on their way to Kafka. One that is asked about is held twice: by its slot, and by who asks.
    fn under_way(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 2
    }
}

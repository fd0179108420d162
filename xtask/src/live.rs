//! The live summary of a demo.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use crate::fleet::Fleet;
use crate::ledger::{Line, grouped};
use crate::pipeline::Counts;

/// Freshness is that of so many seconds: enough rows for a p99, and news within reach.
const WINDOW: usize = 10;
/// Seconds between two lines where the output is no terminal.
const PLAIN_EVERY: u64 = 5;

/// What gateway and writer counted in the last seconds.
#[derive(Debug)]
pub(crate) struct Live {
    begin: Counts,
    /// The oldest first; one a second.
    recent: VecDeque<Counts>,
}

/// What is drawn on: a block that is drawn over on a terminal, else lines.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    ticks: u64,
    lines_drawn: usize,
}

impl Live {
    pub(crate) fn new(begin: &Counts) -> Self {
        Self { begin: begin.clone(), recent: VecDeque::from([begin.clone()]) }
    }

    /// Takes what was counted a second later.
    pub(crate) fn tick(&mut self, counts: Counts) {
        self.recent.push_back(counts);
        while self.recent.len() > WINDOW + 1 {
            self.recent.pop_front();
        }
    }

    fn now(&self) -> &Counts {
        self.recent.back().unwrap_or(&self.begin)
    }

    /// How much more it is than a second ago.
    fn per_second(&self, count: fn(&Counts) -> u64) -> u64 {
        let before = self.recent.iter().rev().nth(1).unwrap_or(&self.begin);
        count(self.now()).saturating_sub(count(before))
    }

    /// How much more it is than at the begin.
    fn total(&self, count: fn(&Counts) -> u64) -> u64 {
        count(self.now()).saturating_sub(count(&self.begin))
    }

    /// From received to in the table, in the window.
    fn freshness(&self, share: f64) -> String {
        let before = self.recent.front().unwrap_or(&self.begin);
        self.now().freshness().since(&before.freshness()).show(share)
    }

    /// Acknowledged and not stored yet, as gateway and writer count.
    fn difference(&self) -> u64 {
        self.total(Counts::acknowledged).saturating_sub(self.total(stored_rows))
    }
}

impl Screen {
    /// Draws, to be called once a second.
    pub(crate) fn show(&mut self, live: &Live, fleet: &Fleet) -> io::Result<()> {
        self.ticks += 1;
        let mut out = io::stdout().lock();
        if !out.is_terminal() {
            if self.ticks.is_multiple_of(PLAIN_EVERY) {
                writeln!(out, "{}", in_one_line(self.ticks, live, fleet))?;
            }
            return out.flush();
        }
        if self.lines_drawn > 0 {
            // Up to the first line of the block, and clear from there.
            write!(out, "\x1b[{}A\x1b[J", self.lines_drawn)?;
        }
        let block = in_a_block(self.ticks, live, fleet);
        for line in &block {
            writeln!(out, "{line}")?;
        }
        self.lines_drawn = block.len();
        out.flush()
    }
}

fn in_one_line(seconds: u64, live: &Live, fleet: &Fleet) -> String {
    format!(
        "{seconds:>4} s  online {}  in {}/s  stored {}/s  freshness p50 {} p99 {}  PUBACK p50 {} p99 {}  \
         dead letters {}  acknowledged - stored {}",
        fleet.count("online"),
        live.per_second(Counts::acknowledged),
        live.per_second(stored_rows),
        live.freshness(0.50),
        live.freshness(0.99),
        puback(fleet, "p50"),
        puback(fleet, "p99"),
        live.total(Counts::rejected),
        live.difference()
    )
}

fn in_a_block(seconds: u64, live: &Live, fleet: &Fleet) -> Vec<Line> {
    let two = |first: String, second: String| format!("{first} / {second}");
    let difference = grouped(live.difference());
    vec![
        Line::new("seconds", grouped(seconds)),
        Line::new("devices online", grouped(fleet.count("online"))),
        Line::new("heartbeats/s acknowledged", grouped(live.per_second(Counts::acknowledged))),
        Line::new("heartbeats/s stored", grouped(live.per_second(stored_rows))),
        Line::new("PUBACK p50 / p99", two(puback(fleet, "p50"), puback(fleet, "p99"))),
        Line::new("freshness p50 / p99", two(live.freshness(0.50), live.freshness(0.99))),
        Line::new("dead letters", grouped(live.total(Counts::rejected))),
        Line::new("acknowledged - stored", difference).note("on their way"),
    ]
}

fn stored_rows(counts: &Counts) -> u64 {
    counts.rows("heartbeats")
}

fn puback(fleet: &Fleet, quantile: &str) -> String {
    format!("{:.1} ms", fleet.latency_ms("puback_ms", quantile))
}

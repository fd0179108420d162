//! How far a command is, on standard error: a bar for a person, a line now and then for a log.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Tells how far it is.
pub(crate) struct Told {
    noun: &'static str,
    bar: Option<ProgressBar>,
    told_at: Instant,
}

impl Told {
    /// Counts things of that name.
    pub(crate) fn of(noun: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = format!("{{wide_bar}} {{pos}} of {{len}} {noun}, {{per_sec}}, {{eta}} left");
            let style = ProgressStyle::with_template(&template);
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { noun, bar, told_at: Instant::now() }
    }

    pub(crate) fn tell(&mut self, done: u64, of: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(of);
                bar.set_position(done);
            }
            None if self.told_at.elapsed() >= TOLD_EVERY => {
                self.told_at = Instant::now();
                eprintln!("{done} of {of} {}", self.noun);
            }
            None => {}
        }
    }

    /// The counts follow in its place.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! What a role says of itself over HTTP: readiness, and metrics in Prometheus' text format.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};

/// A role on this machine answers in milliseconds, a loaded one in some hundred.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The metrics of one process, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    /// What stands between the braces.
    labels: String,
    value: f64,
}

/// A histogram: for each bucket its upper bound and how many values were at most that.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    buckets: Vec<(f64, f64)>,
}

impl Scrape {
    /// Asks the role that serves its metrics here.
    pub(crate) fn of(address: SocketAddr) -> anyhow::Result<Self> {
        let url = format!("http://{address}/metrics");
        let mut answer = agent().get(&url).call().with_context(|| format!("no metrics from {url}"))?;
        let text = answer.body_mut().read_to_string();
        Ok(Self::parse(&text.with_context(|| format!("no metrics from {url}"))?))
    }

    fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(Sample::parse).collect() }
    }

    /// The sum of a counter over all series whose labels hold this text; 0 where nothing was counted yet.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters are whole and not negative"
    )]
    pub(crate) fn counter(&self, name: &str, label: &str) -> u64 {
        let series = self.series(name).filter(|sample| sample.labels.contains(label));
        series.map(|sample| sample.value).sum::<f64>() as u64
    }

    /// A histogram, all its series together; empty where nothing was counted yet.
    pub(crate) fn histogram(&self, name: &str) -> Histogram {
        let mut histogram = Histogram::default();
        for sample in self.series(&format!("{name}_bucket")) {
            let Some(bound) = sample.bound() else { continue };
            match histogram.buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => histogram.buckets.push((bound, sample.value)),
            }
        }
        histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        histogram
    }

    fn series(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

impl Sample {
    /// `name{labels} value`; `None` for comments and what is not understood.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.trim().rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        Some(Self { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
    }

    /// The upper bound of a bucket; Rust reads `+Inf` too.
    fn bound(&self) -> Option<f64> {
        self.labels.split("le=\"").nth(1)?.split('"').next()?.parse().ok()
    }
}

impl Histogram {
    /// What was counted since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| earlier.buckets.iter().find(|(known, _)| *known == bound);
        let buckets = self.buckets.iter().map(|&(bound, count)| {
            let count = count - before(bound).map_or(0.0, |&(_, count)| count);
            (bound, count.max(0.0))
        });
        Self { buckets: buckets.collect() }
    }

    /// The value that this share of all was at most; between the bounds of its bucket as if the values there were
    /// spread evenly. Above the last bound: that bound. `None` where nothing was counted.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let rank = share * total;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank && count > below {
                let within = (rank - below) / (count - below);
                return Some(if bound.is_finite() { lower + (bound - lower) * within } else { lower });
            }
            (lower, below) = (bound, count);
        }
        Some(lower)
    }

    /// [`Histogram::quantile`] of seconds, to be read.
    pub(crate) fn show(&self, share: f64) -> String {
        self.quantile(share).map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"))
    }
}

/// Whether a role can do its work.
///
/// # Errors
/// Where it does not answer, or says no: then with what it says.
pub(crate) fn ready(address: SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{address}/readyz");
    let mut answer = agent().get(&url).call().with_context(|| format!("no answer from {url}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    bail!("{url} says {}: {}", answer.status(), text.trim())
}

/// Straight to the services: no proxy, no error for a status.
fn agent() -> ureq::Agent {
    ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(ANSWER_MAX))
            .http_status_as_error(false)
            .build(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE rows_total counter
rows_total{table=\"heartbeats\"} 40
rows_total{table=\"connections\"} 2

# TYPE seconds histogram
seconds_bucket{le=\"0.25\"} 10
seconds_bucket{le=\"0.75\"} 90
seconds_bucket{le=\"1\"} 99
seconds_bucket{le=\"+Inf\"} 100
seconds_sum 33.5
seconds_count 100
";

    #[test]
    fn counters_are_summed_over_the_series_with_a_label() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.counter("rows_total", "table=\"heartbeats\""), 40);
        assert_eq!(scrape.counter("rows_total", ""), 42);
        assert_eq!(scrape.counter("unknown_total", ""), 0);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Scrape::parse(TEXT).histogram("seconds");
        assert_eq!(histogram.quantile(0.5), Some(0.5));
        assert_eq!(histogram.quantile(0.99), Some(1.0));
        assert_eq!(histogram.quantile(1.0), Some(1.0), "no more is known than the last bound");
        assert_eq!(histogram.since(&histogram).quantile(0.5), None);
        assert_eq!(histogram.since(&Histogram::default()), histogram);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}

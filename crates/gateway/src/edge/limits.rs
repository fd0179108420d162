//! What a client may cost by connecting alone: connections of one address, new connections a second, bans.
//!
//! All three are bounded in memory, and take a lock for some hundred nanoseconds, never across an await.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};

use super::Config;

/// Whom a limit is for: an IPv4 address, or the /64 network that an IPv6 customer has for himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Network(IpAddr);

impl Network {
    fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
            v4 => v4,
        })
    }
}

/// How many connections each address has.
#[derive(Debug)]
pub(super) struct PerAddress {
    most: u32,
    counts: Mutex<HashMap<Network, u32>>,
}

/// One connection of an address; dropping it gives it back.
#[derive(Debug)]
pub(super) struct AddressPlace {
    network: Network,
    all: Arc<PerAddress>,
}

impl PerAddress {
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self { most: config.connections_per_address_max, counts: Mutex::default() })
    }

    /// `None`: the address has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<AddressPlace> {
        let network = Network::of(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(AddressPlace { network, all: self.clone() })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// New connections a second: a bucket of tokens.
#[derive(Debug)]
pub(super) struct Rate {
    per_s: f64,
    burst: f64,
    bucket: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let burst = f64::from(config.connect_burst_max);
        Self { per_s: f64::from(config.connect_rate_per_s_max), burst, bucket: Mutex::new((burst, now)) }
    }

    /// Takes a token, if there is one.
    pub(super) fn allows(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, since) = *bucket;
        let tokens = (tokens + now.saturating_duration_since(since).as_secs_f64() * self.per_s).min(self.burst);
        let allowed = tokens >= 1.0;
        *bucket = (if allowed { tokens - 1.0 } else { tokens }, now);
        allowed
    }
}

/// Addresses that failed to authenticate, and those that are banned for it.
pub(crate) struct Bans {
    after_failures: u32,
    window: Duration,
    ban: Duration,
    most: usize,
    known: Mutex<Known>,
    banned: Gauge,
    bans: Counter,
}

#[derive(Default)]
struct Known {
    entries: HashMap<Network, Entry>,
    /// The same entries by when they are forgotten.
    by_end: BTreeSet<(Instant, Network)>,
    banned: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    failures: u32,
    banned: bool,
    ends_at: Instant,
}

impl Bans {
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            after_failures: config.ban_after_failures,
            window: Duration::from_secs(config.ban_window_s.into()),
            ban: Duration::from_secs(config.ban_s.into()),
            most: usize::try_from(config.bans_max).unwrap_or(usize::MAX),
            known: Mutex::default(),
            banned: gauge!("fleetpulse_gateway_bans"),
            bans: counter!("fleetpulse_gateway_bans_total"),
        })
    }

    /// Notes that a client of this address failed to authenticate. Says whether the address is banned now.
    pub(crate) fn failed(&self, ip: IpAddr) -> bool {
        self.failed_at(ip, Instant::now())
    }

    /// Whether clients of this address are refused.
    pub(crate) fn is_banned(&self, ip: IpAddr) -> bool {
        self.is_banned_at(ip, Instant::now())
    }

    fn failed_at(&self, ip: IpAddr, now: Instant) -> bool {
        if self.after_failures == 0 {
            return false;
        }
        let network = Network::of(ip);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget_past(now);
        let fresh = Entry { failures: 0, banned: false, ends_at: now + self.window };
        let mut entry = known.remove(network).unwrap_or(fresh);
        if !entry.banned {
            entry.failures += 1;
            if entry.failures >= self.after_failures {
                entry.banned = true;
                entry.ends_at = now + self.ban;
                self.bans.increment(1);
            }
        }
        while known.entries.len() >= self.most {
            known.forget_next();
        }
        known.insert(network, entry);
        self.banned.set(known.banned);
        entry.banned
    }

    fn is_banned_at(&self, ip: IpAddr, now: Instant) -> bool {
        if self.after_failures == 0 {
            return false;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.forget_past(now) {
            self.banned.set(known.banned);
        }
        known.entries.get(&Network::of(ip)).is_some_and(|entry| entry.banned)
    }
}

impl Known {
    fn insert(&mut self, network: Network, entry: Entry) {
        self.by_end.insert((entry.ends_at, network));
        self.banned += u32::from(entry.banned);
        self.entries.insert(network, entry);
    }

    fn remove(&mut self, network: Network) -> Option<Entry> {
        let entry = self.entries.remove(&network)?;
        self.by_end.remove(&(entry.ends_at, network));
        self.banned -= u32::from(entry.banned);
        Some(entry)
    }

    fn forget_next(&mut self) {
        if let Some(&(_, network)) = self.by_end.first() {
            self.remove(network);
        }
    }

    /// Says whether there was anything to forget.
    fn forget_past(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        while self.by_end.first().is_some_and(|(ends_at, _)| *ends_at <= now) {
            self.forget_next();
        }
        self.entries.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn bans(after: u32, most: u32) -> Arc<Bans> {
        Bans::new(&Config {
            ban_after_failures: after,
            ban_window_s: 10,
            ban_s: 100,
            bans_max: most,
            ..Config::default()
        })
    }

    #[test]
    fn an_address_has_no_more_places_than_it_may_and_gives_them_back() {
        let all = PerAddress::new(&Config { connections_per_address_max: 2, ..Config::default() });
        let first = all.enter(ip("2001:db8::1"));
        let _second = all.enter(ip("2001:db8::2")).expect("a place");
        assert!(all.enter(ip("2001:db8::3")).is_none(), "one /64 counts as one address");
        assert!(all.enter(ip("2001:db8:0:1::1")).is_some());
        drop(first);
        let third = all.enter(ip("2001:db8::3"));
        assert!(third.is_some());
        drop((third, _second));
        assert!(all.counts.lock().expect("sound").is_empty());
    }

    #[test]
    fn a_burst_is_let_in_and_then_the_rate() {
        let start = Instant::now();
        let config = Config { connect_rate_per_s_max: 10, connect_burst_max: 3, ..Config::default() };
        let rate = Rate::new(&config, start);
        let let_in = |now, times| (0..times).filter(|_| rate.allows(now)).count();
        assert_eq!(let_in(start, 10), 3);
        assert_eq!(let_in(start + Duration::from_millis(250), 10), 2);
        assert_eq!(let_in(start + Duration::from_secs(60), 10), 3);
    }

    #[test]
    fn a_ban_comes_with_the_last_failure_and_ends_by_itself() {
        let (bans, now) = (bans(3, 10), Instant::now());
        assert!(!bans.failed_at(ip("192.0.2.1"), now));
        assert!(!bans.failed_at(ip("192.0.2.1"), now));
        assert!(!bans.is_banned_at(ip("192.0.2.1"), now));
        assert!(bans.failed_at(ip("::ffff:192.0.2.1"), now));
        let late = now + Duration::from_secs(99);
        assert!(bans.is_banned_at(ip("192.0.2.1"), late));
        assert!(!bans.is_banned_at(ip("192.0.2.2"), late));
        assert!(!bans.is_banned_at(ip("192.0.2.1"), now + Duration::from_secs(100)));
    }

    #[test]
    fn failures_far_apart_ban_nobody() {
        let (bans, start) = (bans(2, 10), Instant::now());
        for second in [0, 11, 22, 33] {
            assert!(!bans.failed_at(ip("192.0.2.1"), start + Duration::from_secs(second)));
        }
    }

    #[test]
    fn the_list_is_bounded_and_single_failures_do_not_push_bans_out() {
        let (bans, now) = (bans(2, 100), Instant::now());
        bans.failed_at(ip("192.0.2.1"), now);
        assert!(bans.failed_at(ip("192.0.2.1"), now));
        for other in 0..1_000_u32 {
            bans.failed_at(std::net::Ipv4Addr::from_bits(0x0a00_0000 + other).into(), now);
        }
        let known = bans.known.lock().expect("sound");
        assert_eq!((known.entries.len(), known.by_end.len(), known.banned), (100, 100, 1));
        drop(known);
        assert!(bans.is_banned_at(ip("192.0.2.1"), now));
    }

    #[test]
    fn nobody_is_banned_where_bans_are_off() {
        let (bans, now) = (bans(0, 10), Instant::now());
        assert!((0..100).all(|_| !bans.failed_at(ip("192.0.2.1"), now)));
    }
}

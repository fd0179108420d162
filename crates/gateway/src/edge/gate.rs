//! Who may come in: limits in all and per address, and addresses that have failed too often.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;

/// Counts connections.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    addresses: Arc<Mutex<HashMap<IpAddr, u32>>>,
    per_address_max: u32,
}

/// A connection's place among all. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// A connection's place among those of its address. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    gate: Gate,
    address: IpAddr,
}

impl Gate {
    pub(crate) fn new(connections_max: u32, config: &Config) -> Self {
        Self {
            places: Arc::new(Semaphore::new(connections_max as usize)),
            addresses: Arc::default(),
            per_address_max: config.connections_per_address_max,
        }
    }

    /// A place among all, if there is one.
    pub(crate) fn place(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok().map(Place)
    }

    /// A place among those of an address, if there is one.
    pub(crate) fn address_place(&self, address: IpAddr) -> Option<AddressPlace> {
        let address = network(address);
        let mut addresses = self.lock();
        let count = addresses.entry(address).or_insert(0);
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        Some(AddressPlace { gate: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut addresses = self.gate.lock();
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Addresses whose clients fail to prove who they are, and how long they are kept out.
#[derive(Debug)]
pub(crate) struct Bans {
    watched: Mutex<HashMap<IpAddr, Watched>>,
    after_failures: u32,
    window: Duration,
    lasts: Duration,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    failures: u32,
    since: Instant,
    banned_until: Option<Instant>,
}

impl Bans {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            watched: Mutex::default(),
            after_failures: config.ban_after_failures,
            window: Duration::from_secs(config.ban_window_s.into()),
            lasts: Duration::from_secs(config.ban_s.into()),
            max: config.bans_max as usize,
        }
    }

    /// A client of this address did not prove who it is.
    pub(crate) fn failed(&self, address: IpAddr) {
        self.failed_at(address, Instant::now());
    }

    /// Whether the address is kept out.
    pub(crate) fn is_banned(&self, address: IpAddr) -> bool {
        self.is_banned_at(address, Instant::now())
    }

    fn failed_at(&self, address: IpAddr, now: Instant) {
        let mut watched = self.lock();
        let address = network(address);
        if watched.len() >= self.max && !watched.contains_key(&address) {
            watched.retain(|_, entry| !entry.is_over(now, self.window));
            if watched.len() >= self.max {
                counter!("fleetpulse_gateway_bans_full_total").increment(1);
                return;
            }
        }
        let fresh = Watched { failures: 0, since: now, banned_until: None };
        let entry = watched.entry(address).or_insert(fresh);
        if entry.is_over(now, self.window) {
            *entry = fresh;
        }
        entry.failures += 1;
        if entry.failures >= self.after_failures && entry.banned_until.is_none() {
            entry.banned_until = Some(now + self.lasts);
            counter!("fleetpulse_gateway_bans_total").increment(1);
            tracing::warn!(%address, failures = entry.failures, "banned: too many failed authentications");
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        gauge!("fleetpulse_gateway_watched_addresses").set(watched.len() as f64);
    }

    fn is_banned_at(&self, address: IpAddr, now: Instant) -> bool {
        let watched = self.lock();
        !watched.is_empty()
            && watched
                .get(&network(address))
                .is_some_and(|entry| entry.banned_until.is_some_and(|until| now < until))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn is_over(&self, now: Instant, window: Duration) -> bool {
        match self.banned_until {
            Some(until) => now >= until,
            None => now.duration_since(self.since) >= window,
        }
    }
}

/// What counts as one address: in IPv6 a customer has a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_a_network_is_one_address() {
        let gate = Gate::new(10, &Config { connections_per_address_max: 2, ..Config::default() });
        let first = gate.address_place(address("2001:db8::1"));
        let second = gate.address_place(address("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(gate.address_place(address("2001:db8::3")).is_none());
        assert!(gate.address_place(address("2001:db8:0:1::1")).is_some(), "another network");
        drop(first);
        assert!(gate.address_place(address("2001:db8::3")).is_some());
        drop(second);
        assert!(gate.lock().is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn a_ban_comes_after_so_many_failures_and_ends_by_itself() {
        let config =
            Config { ban_after_failures: 3, ban_window_s: 10, ban_s: 20, bans_max: 2, ..Config::default() };
        let bans = Bans::new(&config);
        let (bad, start) = (address("192.0.2.1"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        bans.failed_at(bad, at(0));
        bans.failed_at(bad, at(5));
        bans.failed_at(bad, at(15));
        assert!(!bans.is_banned_at(bad, at(15)), "not within the window");
        bans.failed_at(bad, at(16));
        bans.failed_at(bad, at(17));
        assert!(bans.is_banned_at(bad, at(36)) && !bans.is_banned_at(bad, at(37)));
        assert!(bans.is_banned_at(address("::ffff:192.0.2.1"), at(36)), "the same address written otherwise");
        for last in 10..20 {
            bans.failed_at(address(&format!("192.0.2.{last}")), at(18));
        }
        assert_eq!(bans.lock().len(), 2, "bounded");
    }
}

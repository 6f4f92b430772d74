//! How many connections may arrive in a second, in all and from one address.

use std::hash::Hash;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::flow::bucket::{Rate, Shared};

/// The connections of one second may come at once.
const BURST: Duration = Duration::from_secs(1);

/// The least number of addresses that is worth going through.
const PURGE: usize = 1024;

/// Who has arrived of late, by address.
#[derive(Debug)]
pub(super) struct Arrivals<A> {
    /// A second, from one address; 0: any number.
    per_address: usize,
    in_all: Option<Shared>,
    addresses: HashMap<A, Shared, foldhash::fast::RandomState>,
    /// At so many addresses, those are forgotten that could have as many again.
    purge_at: usize,
}

impl<A> Default for Arrivals<A> {
    fn default() -> Arrivals<A> {
        Arrivals { per_address: 0, in_all: None, addresses: HashMap::default(), purge_at: 0 }
    }
}

fn rate(connections: usize) -> Rate {
    Rate { messages: connections as u64, bytes: 0, burst: BURST }
}

impl<A: Eq + Hash> Arrivals<A> {
    /// Lets so many come a second from now on; 0: any number.
    pub(super) fn set_limits(&mut self, in_all: usize, per_address: usize, now: Instant) {
        if self.per_address != per_address {
            (self.per_address, self.addresses) = (per_address, HashMap::default());
        }
        let known = self.in_all.take().filter(|known| known.rate() == rate(in_all));
        self.in_all = known.or_else(|| (in_all > 0).then(|| Shared::new(rate(in_all), now)));
    }

    /// Whether one more may come from `address`: then it is counted.
    pub(super) fn admit(&mut self, address: A, now: Instant) -> bool {
        if self.per_address > 0 {
            if self.addresses.len() >= self.purge_at.max(PURGE) {
                self.addresses.retain(|_, bucket| !bucket.is_full(now));
                self.purge_at = 2 * self.addresses.len();
            }
            let rate = rate(self.per_address);
            let bucket = self.addresses.entry(address).or_insert_with(|| Shared::new(rate, now));
            // It comes first, so that one address that is too fast takes nothing from the others.
            if !bucket.pass(now) {
                return false;
            }
        }
        self.in_all.as_ref().is_none_or(|bucket| bucket.pass(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_too_fast_takes_nothing_from_the_others() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        assert!((0..1000).all(|_| arrivals.admit(1, now)), "without a limit");
        arrivals.set_limits(20, 5, now);
        assert_eq!((0..1000).filter(|_| arrivals.admit(1, now)).count(), 6);
        assert_eq!((0..1000).filter(|_| arrivals.admit(2, now)).count(), 6);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| arrivals.admit(1, later)).count(), 5);
        let many = (3..1000).filter(|address| arrivals.admit(*address, later)).count();
        assert!((13..=16).contains(&many), "{many} of twenty a second in all");
        arrivals.set_limits(0, 0, later);
        assert!((0..1000).all(|_| arrivals.admit(1, later)));
    }

    #[test]
    fn addresses_do_not_gather() {
        let start = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.set_limits(0, 100, start);
        for address in 0..100_000_u64 {
            arrivals.admit(address, start + Duration::from_millis(address));
        }
        assert!(arrivals.addresses.len() <= 2 * PURGE, "{}", arrivals.addresses.len());
    }
}

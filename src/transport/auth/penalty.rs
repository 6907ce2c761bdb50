//! What a source pays for wrong credentials: after a few free ones, a silence that doubles up to ten minutes.
//!
//! While it lasts nothing from the source is looked at. A source is an IPv4 address or an IPv6 /64, which is what one
//! customer of a provider has. The table is bounded; when it is full, the source that was entered first is forgotten,
//! so that a flood costs memory neither of ours nor of those it came after.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong credentials that cost nothing: people mistype, and programs retry.
const FREE: u32 = 10;
/// The first penalty.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(600);
/// A source that has behaved for so long begins anew.
const FORGIVEN: Duration = Duration::from_secs(1200);
/// Sources remembered; each is about a hundred bytes.
const MOST: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let mut network = [0; 8];
                network.iter_mut().zip(v6.octets()).for_each(|(to, from)| *to = from);
                Self::V6(network)
            }
        }
    }
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Instant,
    until: Instant,
}

/// The sources that have failed.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    // Held for one step, never across an await.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_source: HashMap<Source, Record>,
    entered: VecDeque<Source>,
}

impl Penalties {
    /// # Errors
    /// How long the source must still be silent.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let table = self.table();
        let Some(record) = table.by_source.get(&Source::of(address)) else { return Ok(()) };
        match record.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Ok(()),
            left => Err(left),
        }
    }

    /// The source showed a wrong credential.
    pub(super) fn failed(&self, address: IpAddr) {
        let (now, source) = (Instant::now(), Source::of(address));
        let mut table = self.table();
        table.make_room(source);
        let record = table.by_source.entry(source).or_insert(Record { failures: 0, last: now, until: now });
        if now.saturating_duration_since(record.last.max(record.until)) > FORGIVEN {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.last = now;
        if let Some(beyond) = record.failures.checked_sub(FREE + 1) {
            record.until = now + FIRST.saturating_mul(1 << beyond.min(16)).min(LONGEST);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn make_room(&mut self, source: Source) {
        if self.by_source.contains_key(&source) {
            return;
        }
        while self.by_source.len() >= MOST {
            let Some(first) = self.entered.pop_front() else { break };
            self.by_source.remove(&first);
        }
        self.entered.push_back(source);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_auth_flood_from_one_source_grows_its_penalty_to_ten_minutes_and_touches_no_other() {
        let penalties = Penalties::default();
        (0..FREE).for_each(|_| penalties.failed(v4(1)));
        assert_eq!(penalties.check(v4(1)), Ok(()));
        let mut waits = Vec::new();
        for _ in 0..14 {
            penalties.failed(v4(1));
            let wait = penalties.check(v4(1)).unwrap_err();
            waits.push(wait.as_secs());
            assert_eq!(penalties.check(v4(2)), Ok(()), "another source");
            tokio::time::advance(wait).await;
            assert_eq!(penalties.check(v4(1)), Ok(()));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600]);
        tokio::time::advance(FORGIVEN + LONGEST + FIRST).await;
        penalties.failed(v4(1));
        assert_eq!(penalties.check(v4(1)), Ok(()), "a source that behaved begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_sources_is_bounded() {
        let penalties = Penalties::default();
        (0..=FREE).for_each(|_| penalties.failed(v4(0)));
        assert!(penalties.check(v4(0)).is_err());
        (1..=u32::try_from(MOST).unwrap()).for_each(|n| penalties.failed(v4(n)));
        let table = penalties.table();
        assert_eq!((table.by_source.len(), table.entered.len()), (MOST, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_source_is_its_64() {
        let penalties = Penalties::default();
        let at = |host: u128| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | host));
        (0..=u128::from(FREE)).for_each(|n| penalties.failed(at(n)));
        assert!(penalties.check(at(99_999)).is_err(), "the same /64");
        assert_eq!(penalties.check(at(1 << 64)), Ok(()), "the next /64");
        let mapped = IpAddr::from(Ipv4Addr::from_bits(7).to_ipv6_mapped());
        (0..=FREE).for_each(|_| penalties.failed(mapped));
        assert!(penalties.check(v4(7)).is_err(), "a mapped address is the IPv4 address");
    }
}

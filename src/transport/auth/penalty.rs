//! What a source pays for wrong credentials: after a few free ones, a silence that doubles up to ten minutes.
//!
//! While it lasts only this from the source is looked at: what was right from there before (others may share the source, such as
//! whatever runs on this host), and signed tokens, so many a second of all sources. Neither helps to guess a token from
//! where nobody used it. A source is an IPv4 address or an IPv6 /64, which is what one
//! customer of a provider has. The table is bounded; when it is full, the source that was entered first is forgotten,
//! so that a flood costs memory neither of ours nor of those it came after.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::TokenDigest;

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
/// Pairs of a source and what was right from there that are remembered; each is about a hundred bytes. The oldest goes first.
const MOST_KNOWN: usize = 16_384;
/// Signatures verified a second, of all penalised sources together: a few milliseconds of one core.
const VERIFIED: u32 = 50;

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
    // The same.
    known: Mutex<Known>,
}

/// What was right, and from where.
#[derive(Debug, Default)]
struct Known {
    pairs: HashSet<(Source, TokenDigest)>,
    entered: VecDeque<(Source, TokenDigest)>,
    /// The second in which signatures are being counted, and how many there were.
    verified: Option<(Instant, u32)>,
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

    /// This was right from the source.
    pub(super) fn admitted(&self, address: IpAddr, digest: TokenDigest) {
        let pair = (Source::of(address), digest);
        let mut known = self.known();
        if !known.pairs.insert(pair) {
            return;
        }
        known.entered.push_back(pair);
        if known.entered.len() > MOST_KNOWN
            && let Some(first) = known.entered.pop_front()
        {
            known.pairs.remove(&first);
        }
    }

    /// Whether this was right from the source before.
    pub(super) fn knows(&self, address: IpAddr, digest: TokenDigest) -> bool {
        self.known().pairs.contains(&(Source::of(address), digest))
    }

    /// Whether one more signature from a penalised source may be verified in this second.
    pub(super) fn may_verify(&self) -> bool {
        let (now, mut known) = (Instant::now(), self.known());
        let (since, count) = known
            .verified
            .filter(|(since, _)| now.saturating_duration_since(*since) < Duration::from_secs(1))
            .unwrap_or((now, 0));
        known.verified = Some((since, count.saturating_add(1)));
        count < VERIFIED
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn what_is_known_and_verified_is_bounded() {
        let penalties = Penalties::default();
        let digest = |n: u32| TokenDigest::of(&n.to_string());
        (0..=u32::try_from(MOST_KNOWN).unwrap()).for_each(|n| penalties.admitted(v4(1), digest(n)));
        assert!(!penalties.knows(v4(1), digest(0)), "the oldest is forgotten");
        assert!(penalties.knows(v4(1), digest(1)) && !penalties.knows(v4(2), digest(1)), "another source");
        let held = |known: &Known| (known.pairs.len(), known.entered.len());
        assert_eq!(held(&penalties.known()), (MOST_KNOWN, MOST_KNOWN));
        assert_eq!((0..1000).filter(|_| penalties.may_verify()).count(), VERIFIED as usize);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(penalties.may_verify());
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

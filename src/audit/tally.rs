//! What is counted instead of written line by line: refusals a second, and the bytes a tenant wrote in this minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::domain::Principal;

use super::entry::now_ms;

/// Principals counted apart in one second; the rest is counted together.
const PRINCIPALS: usize = 1024;
/// Tenants whose bytes are counted; more than that many in one minute share one count.
const TENANTS: usize = 65_536;
/// What a share of the log is for.
pub(super) const SHARE: Duration = Duration::from_secs(60);

/// What refused without asking policy, or after it allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusedBy {
    /// A bucket of the limiter was empty, or its table full.
    Limiter,
    /// A slot was not to be had.
    Slots,
}

impl RefusedBy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Limiter => "limiter",
            Self::Slots => "slots",
        }
    }
}

type Key = (Arc<str>, Arc<str>, RefusedBy);

/// The counts. Locks are held for a look-up, never across an await.
#[derive(Debug)]
pub(super) struct Tally {
    refusals: Mutex<Refusals>,
    bytes: Mutex<Bytes>,
    most_bytes: u64,
}

#[derive(Debug, Default)]
struct Refusals {
    counts: HashMap<Key, u64>,
    others: u64,
}

#[derive(Debug)]
struct Bytes {
    since: Instant,
    tenants: HashMap<Arc<str>, u64>,
}

impl Bytes {
    /// The tenant whose count this one's bytes go to: its own, as long as there is room for one.
    fn counted_as(&self, tenant: &Arc<str>) -> Arc<str> {
        let has_own = self.tenants.len() < TENANTS || self.tenants.contains_key(tenant);
        if has_own { tenant.clone() } else { "".into() }
    }
}

impl Tally {
    pub(super) fn new(most_bytes: u64) -> Self {
        let bytes = Bytes { since: Instant::now(), tenants: HashMap::new() };
        Self { refusals: Mutex::default(), bytes: Mutex::new(bytes), most_bytes }
    }

    pub(super) fn refused(&self, principal: &Principal, by: RefusedBy) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (principal.tenant.clone(), principal.subject.clone(), by);
        if let Some(count) = refusals.counts.get_mut(&key) {
            *count += 1;
        } else if refusals.counts.len() < PRINCIPALS {
            refusals.counts.insert(key, 1);
        } else {
            refusals.others += 1;
        }
    }

    /// The refusals since the last look, one value a principal.
    pub(super) fn take_refusals(&self) -> Vec<Value> {
        let Refusals { counts, others } =
            std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort();
        let line = |tenant: &str, subject: &str, by: &str, count: u64| json!({"time_ms": now_ms(), "hook": "refusals", "tenant": tenant, "subject": subject, "by": by, "count": count});
        let mut lines: Vec<_> = all
            .iter()
            .map(|((tenant, subject, by), count)| line(tenant, subject, by.as_str(), *count))
            .collect();
        if others > 0 {
            lines.push(line("", "", "others", others));
        }
        lines
    }

    /// Whether the tenant has bytes left in this minute.
    pub(super) fn has_share(&self, tenant: &Arc<str>) -> bool {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.since.elapsed() >= SHARE {
            *bytes = Bytes { since: Instant::now(), tenants: HashMap::new() };
        }
        bytes.tenants.get(&bytes.counted_as(tenant)).is_none_or(|spent| *spent < self.most_bytes)
    }

    pub(super) fn wrote(&self, tenant: &Arc<str>, length: usize) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = bytes.counted_as(tenant);
        *bytes.tenants.entry(counted).or_default() += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_beyond_the_table_share_one_count_and_the_others_keep_theirs() {
        let tally = Tally::new(10);
        let name = |n: usize| Arc::from(format!("t{n}"));
        (0..TENANTS).for_each(|n| tally.wrote(&name(n), 1));
        tally.wrote(&name(0), 9);
        assert!(!tally.has_share(&name(0)) && tally.has_share(&name(1)));
        tally.wrote(&name(TENANTS), 6);
        tally.wrote(&name(TENANTS + 1), 6);
        assert!(!tally.has_share(&name(TENANTS)) && !tally.has_share(&name(TENANTS + 2)));
    }
}

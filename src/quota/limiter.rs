//! Charges against rate buckets, by governor.
//!
//! A bucket is one direct limiter for one (policy, tenant, name, quota). A changed quota is another bucket, and begins
//! full. The table is bounded; a bucket goes only when it is back at full burst, because forgetting it earlier would
//! forgive what it remembers. So that one tenant cannot take the table from the others, each may have as many buckets as
//! are free: one alone half of them, two a third each.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota as Rate, RateLimiter};

use crate::domain::{Charge, DecisionId, Failure, Quota, Whose};
use crate::verdict::Fault;

use super::Settings;

/// How often a table without room is looked through for buckets to drop: that takes milliseconds, and whoever finds none asks for
/// it.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Why a charge was not taken. Charges before it in the list stay taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitRefusal {
    /// The bucket is empty.
    #[error("bucket {bucket:?} is empty for another {retry_after:?}")]
    Empty {
        /// The bucket's name.
        bucket: String,
        /// When the same charge would pass.
        retry_after: Duration,
    },
    /// No bucket can be added for anybody.
    #[error("all {most} rate buckets are in use")]
    Full {
        /// How many there are.
        most: u64,
    },
    /// No bucket can be added for this tenant: it has as many as are left for the others.
    #[error("the tenant uses {own} rate buckets, as many as are free")]
    Share {
        /// How many it has.
        own: u64,
    },
    /// The charge makes no sense: more than the burst, or a quota of nothing.
    #[error("policy {policy:?} charged {cost} against an impossible quota")]
    BadCharge {
        /// The policy that charged.
        policy: Arc<str>,
        /// What it charged.
        cost: u32,
    },
}

impl LimitRefusal {
    /// What a client is told.
    pub fn into_failure(self, decision: DecisionId) -> Failure {
        match self {
            Self::Empty { bucket, retry_after } => Failure::RateLimited { bucket, retry_after },
            Self::Full { most } => {
                let limit = "rate buckets of the server".to_owned();
                Failure::LimitExceeded { whose: Whose::Server, limit, value: most }
            }
            Self::Share { own } => {
                let limit = "rate buckets of the tenant (wait until some have filled up again)".to_owned();
                Failure::LimitExceeded { whose: Whose::Caller, limit, value: own }
            }
            Self::BadCharge { policy, .. } => Failure::PolicyFailed {
                policy: policy.to_string(),
                fault: Fault::BadAnswer.to_string(),
                decision,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    policy: Arc<str>,
    tenant: Arc<str>,
    bucket: String,
    quota: Quota,
}

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

#[derive(Debug)]
struct Table<C: Clock> {
    buckets: HashMap<Key, Arc<Bucket<C>>>,
    /// How many each tenant has that has any.
    of: HashMap<Arc<str>, usize>,
    /// When it was looked through last.
    swept: Option<C::Instant>,
}

impl<C: Clock> Table<C> {
    /// # Errors
    /// That this tenant may have no other.
    fn room(&self, tenant: &Arc<str>, most: usize) -> Result<(), LimitRefusal> {
        let own = self.of.get(tenant).copied().unwrap_or_default();
        match most.saturating_sub(self.buckets.len()) {
            free if own < free => Ok(()),
            _ if own > 0 => Err(LimitRefusal::Share { own: own as u64 }),
            _ => Err(LimitRefusal::Full { most: most as u64 }),
        }
    }

    /// Drops what is back at full burst.
    fn sweep(&mut self) {
        self.buckets.retain(|key, bucket| !is_full(key, bucket));
        self.of.clear();
        for key in self.buckets.keys() {
            *self.of.entry(key.tenant.clone()).or_default() += 1;
        }
    }
}

/// Every rate bucket of the server.
#[derive(Debug)]
pub struct Limiter<C: Clock = DefaultClock> {
    // Read on the way of every charge; written only to add a bucket. Never held across an await.
    table: RwLock<Table<C>>,
    most: AtomicUsize,
    clock: C,
}

impl Limiter<DefaultClock> {
    /// An empty table.
    pub fn new(settings: &Settings) -> Self {
        Self::with_clock(settings, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    /// An empty table on a clock of the caller's.
    pub fn with_clock(settings: &Settings, clock: C) -> Self {
        let table = RwLock::new(Table { buckets: HashMap::new(), of: HashMap::new(), swept: None });
        Self { table, most: settings.max_buckets.into(), clock }
    }

    /// From now on, so many buckets may be alive; those there are stay.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Takes the charges in order.
    ///
    /// # Errors
    /// The first charge that cannot be taken.
    pub fn take(&self, tenant: &Arc<str>, charges: &[(Arc<str>, Charge)]) -> Result<(), LimitRefusal> {
        charges.iter().try_for_each(|(policy, charge)| self.take_one(tenant, policy, charge))
    }

    fn take_one(&self, tenant: &Arc<str>, policy: &Arc<str>, charge: &Charge) -> Result<(), LimitRefusal> {
        let bad = || LimitRefusal::BadCharge { policy: policy.clone(), cost: charge.cost };
        let rate = rate(charge.quota).ok_or_else(bad)?;
        let Some(cost) = NonZeroU32::new(charge.cost) else { return Ok(()) };
        let key = Key {
            policy: policy.clone(),
            tenant: tenant.clone(),
            bucket: charge.bucket.clone(),
            quota: charge.quota,
        };
        match self.bucket(key, rate)?.check_n(cost) {
            Err(_) => Err(bad()),
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(LimitRefusal::Empty {
                bucket: charge.bucket.clone(),
                retry_after: not_until.wait_time_from(self.clock.now()),
            }),
        }
    }

    fn bucket(&self, key: Key, rate: Rate) -> Result<Arc<Bucket<C>>, LimitRefusal> {
        if let Some(bucket) = self.table.read().unwrap_or_else(PoisonError::into_inner).buckets.get(&key) {
            return Ok(bucket.clone());
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = table.buckets.get(&key) {
            return Ok(bucket.clone());
        }
        let (most, now) = (self.most.load(Ordering::Relaxed), self.clock.now());
        let due = table.swept.is_none_or(|swept| Duration::from(now.duration_since(swept)) >= SWEEP_EVERY);
        if due && table.room(&key.tenant, most).is_err() {
            table.swept = Some(now);
            table.sweep();
        }
        table.room(&key.tenant, most)?;
        *table.of.entry(key.tenant.clone()).or_default() += 1;
        let bucket: Arc<Bucket<C>> = Arc::new(RateLimiter::direct_with_clock(rate, self.clock.clone()));
        table.buckets.insert(key, bucket.clone());
        Ok(bucket)
    }
}

/// Whether the bucket is back at full burst: then taking all of it succeeds, and since it is dropped for that, the
/// cells do not matter.
fn is_full<C: Clock>(key: &Key, bucket: &Bucket<C>) -> bool {
    NonZeroU32::new(key.quota.burst).is_some_and(|burst| matches!(bucket.check_n(burst), Ok(Ok(()))))
}

/// A quota as governor counts: one cell every so often, at most the burst. `None` for a quota of nothing.
fn rate(quota: Quota) -> Option<Rate> {
    let burst = NonZeroU32::new(quota.burst)?;
    let count = NonZeroU32::new(quota.count)?;
    let each = quota.period.checked_div(count.get()).filter(|each| !each.is_zero())?;
    Some(Rate::with_period(each)?.allow_burst(burst))
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn charge(bucket: &str, cost: u32, burst: u32) -> (Arc<str>, Charge) {
        let quota = Quota { burst, count: 1, period: Duration::from_secs(1) };
        ("p".into(), Charge { bucket: bucket.to_owned(), cost, quota, rule: "r".to_owned() })
    }

    fn limiter(max_buckets: usize) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::with_clock(&Settings { max_buckets, ..Settings::default() }, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (limiter, clock) = limiter(10);
        let tenant = "t".into();
        assert_eq!(limiter.take(&tenant, &[charge("b", 2, 2)]), Ok(()));
        let Err(LimitRefusal::Empty { bucket, retry_after }) = limiter.take(&tenant, &[charge("b", 1, 2)])
        else {
            panic!("an empty bucket gave a cell");
        };
        assert_eq!((bucket.as_str(), retry_after), ("b", Duration::from_secs(1)));
        clock.advance(retry_after);
        assert_eq!(limiter.take(&tenant, &[charge("b", 1, 2)]), Ok(()));
    }

    #[test]
    fn tenants_do_not_share_a_bucket() {
        let (limiter, _clock) = limiter(10);
        assert_eq!(limiter.take(&"a".into(), &[charge("b", 1, 1)]), Ok(()));
        assert_eq!(limiter.take(&"b".into(), &[charge("b", 1, 1)]), Ok(()));
    }

    #[test]
    fn an_impossible_charge_is_the_policys_fault_and_a_free_one_is_free() {
        let (limiter, _clock) = limiter(10);
        let tenant = "t".into();
        assert_eq!(limiter.take(&tenant, &[charge("b", 0, 1)]), Ok(()));
        for (cost, burst) in [(2, 1), (0, 0), (1, 0)] {
            assert!(
                matches!(
                    limiter.take(&tenant, &[charge("b", cost, burst)]),
                    Err(LimitRefusal::BadCharge { .. })
                ),
                "{cost} of {burst}"
            );
        }
    }

    #[test]
    fn a_full_table_refuses_until_a_bucket_is_full_again() {
        let (limiter, clock) = limiter(1);
        let tenant = "t".into();
        assert_eq!(limiter.take(&tenant, &[charge("a", 1, 1)]), Ok(()));
        assert_eq!(limiter.take(&tenant, &[charge("b", 1, 1)]), Err(LimitRefusal::Share { own: 1 }));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.take(&tenant, &[charge("b", 1, 1)]), Ok(()));
    }

    #[test]
    fn a_full_table_is_looked_through_once_a_second_at_most() {
        let (limiter, clock) = limiter(1);
        let tenant = "t".into();
        let quick = |bucket: &str| {
            let quota = Quota { burst: 1, count: 1, period: Duration::from_millis(100) };
            ("p".into(), Charge { bucket: bucket.to_owned(), cost: 1, quota, rule: "r".to_owned() })
        };
        assert_eq!(limiter.take(&tenant, &[quick("a")]), Ok(()));
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Err(LimitRefusal::Share { own: 1 }));
        clock.advance(Duration::from_millis(999));
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Err(LimitRefusal::Share { own: 1 }));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Ok(()));
    }
    #[test]
    fn one_tenant_leaves_room_for_the_next_and_is_refused_as_the_one_who_has_it() {
        let (limiter, clock) = limiter(100);
        let fill = |tenant: &str| {
            let tenant = tenant.into();
            (0..).find_map(|n| {
                let refused = limiter.take(&tenant, &[charge(&n.to_string(), 1, 1)]).err()?;
                Some((n, refused.into_failure(DecisionId::from_bits(1))))
            })
        };
        let refused = |whose: Whose, value: u64| move |failure: Failure| matches!(failure, Failure::LimitExceeded { whose: who, value: v, .. } if (who, v) == (whose, value));
        for (tenant, own) in [("a", 50), ("b", 25), ("c", 13), ("d", 6), ("e", 3), ("f", 2), ("g", 1)] {
            let (had, failure) = fill(tenant).unwrap();
            assert!(
                had == own && refused(Whose::Caller, own)(failure.clone()),
                "{tenant} had {had}: {failure:?}"
            );
        }
        // What it has goes on.
        assert!(matches!(limiter.take(&"a".into(), &[charge("0", 1, 1)]), Err(LimitRefusal::Empty { .. })));
        clock.advance(Duration::from_secs(1));
        assert_eq!(fill("b").unwrap().0, 50, "those that are full again are nobody's");
    }

    #[test]
    fn a_table_that_tenants_fill_together_is_the_servers_limit() {
        let (limiter, _clock) = limiter(1);
        assert_eq!(limiter.take(&"a".into(), &[charge("x", 1, 1)]), Ok(()));
        assert_eq!(limiter.take(&"b".into(), &[charge("x", 1, 1)]), Err(LimitRefusal::Full { most: 1 }));
    }
}

//! Charges against rate buckets, by governor.
//!
//! A bucket is one direct limiter for one (policy, tenant, name, quota). A changed quota is another bucket, and begins
//! full. The table is bounded; a bucket goes only when it is back at full burst, because forgetting it earlier would
//! forgive what it remembers.

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

/// How often a full table is looked through for buckets to drop: that takes milliseconds, and whoever finds it full asks for it.
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
    /// No bucket can be added.
    #[error("all {most} rate buckets are in use")]
    Full {
        /// How many there are.
        most: u64,
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
    /// When it was looked through last.
    swept: Option<C::Instant>,
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
        let table = RwLock::new(Table { buckets: HashMap::new(), swept: None });
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
        let (most, now) = (self.most.load(Ordering::Relaxed), self.clock.now());
        let due = table.swept.is_none_or(|swept| Duration::from(now.duration_since(swept)) >= SWEEP_EVERY);
        if table.buckets.len() >= most && due {
            table.swept = Some(now);
            table.buckets.retain(|key, bucket| !is_full(key, bucket));
        }
        if table.buckets.len() >= most {
            return Err(LimitRefusal::Full { most: most as u64 });
        }
        let bucket = table
            .buckets
            .entry(key)
            .or_insert_with(|| Arc::new(RateLimiter::direct_with_clock(rate, self.clock.clone())));
        Ok(bucket.clone())
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
        assert_eq!(limiter.take(&tenant, &[charge("b", 1, 1)]), Err(LimitRefusal::Full { most: 1 }));
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
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Err(LimitRefusal::Full { most: 1 }));
        clock.advance(Duration::from_millis(999));
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Err(LimitRefusal::Full { most: 1 }));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limiter.take(&tenant, &[quick("b")]), Ok(()));
    }
}

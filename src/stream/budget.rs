//! One budget of bytes for the streams of all jobs, running or ended, shared by tenants.
//!
//! A job takes what its rings and its stdin queue may come to before it starts, and gives it back once every viewer has read
//! it out and only its tail is kept. So no number of jobs that ended before slow viewers can hold more than was declared.
//!
//! Of what the others leave, one tenant may hold three quarters. So one tenant, however greedy, leaves a quarter to the others; a
//! second one beside it leaves a quarter of that; and as they let go and take again, they come to equal parts. (A fixed part
//! for each was the other way: it wastes what few tenants could use, or lets few together shut out the next.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The budget. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: u64,
    // Held for one sum, never across an await: what a tenant may take depends on what all have taken.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// Of those that hold anything.
    by_tenant: HashMap<Arc<str>, u64>,
}

/// There is not so much left for the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the streams of the tenant's jobs may take {most} bytes now")]
pub struct BudgetSpent {
    /// What the tenant may hold while the others hold what they do.
    pub most: u64,
}

/// Bytes taken from the budget. Dropping gives them back.
#[derive(Debug)]
#[must_use]
pub struct Share {
    shared: Arc<Shared>,
    tenant: Arc<str>,
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(most: u64) -> Self {
        Self { shared: Arc::new(Shared { most, taken: Mutex::default() }) }
    }

    /// Takes `bytes` of it for the tenant.
    ///
    /// # Errors
    /// [`BudgetSpent`] when there is not so much left for the tenant; nothing is taken then.
    pub fn take(&self, tenant: &Arc<str>, bytes: u64) -> Result<Share, BudgetSpent> {
        let mut taken = self.shared.taken();
        let held = taken.by_tenant.get(tenant).copied().unwrap_or_default();
        let most = part(self.shared.most.saturating_sub(taken.all - held));
        match held.checked_add(bytes) {
            Some(sum) if sum <= most => {
                taken.all += bytes;
                taken.by_tenant.insert(tenant.clone(), sum);
                Ok(Share { shared: self.shared.clone(), tenant: tenant.clone(), bytes })
            }
            Some(_) | None => Err(BudgetSpent { most }),
        }
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        self.shared.taken().all
    }
}

/// What one tenant may hold of what the others leave.
const fn part(left: u64) -> u64 {
    left - left / 4
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, tenant: &Arc<str>, bytes: u64) {
        let mut taken = self.taken();
        taken.all = taken.all.saturating_sub(bytes);
        let left = taken.by_tenant.get(tenant).copied().unwrap_or_default().saturating_sub(bytes);
        if left == 0 {
            taken.by_tenant.remove(tenant);
        } else {
            taken.by_tenant.insert(tenant.clone(), left);
        }
    }
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let more = self.bytes.saturating_sub(bytes);
        self.bytes -= more;
        self.shared.give_back(&self.tenant, more);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.give_back(&self.tenant, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(number: usize) -> Arc<str> {
        format!("t{number}").into()
    }

    #[test]
    fn no_more_is_taken_than_a_tenant_may_and_all_comes_back() {
        let (budget, a) = (Budget::new(100), tenant(0));
        let first = budget.take(&a, 60).unwrap();
        assert_eq!(budget.take(&a, 16).unwrap_err(), BudgetSpent { most: 75 });
        let mut second = budget.take(&a, 15).unwrap();
        assert!(budget.take(&a, 1).is_err() && budget.take(&a, u64::MAX).is_err());
        drop(first);
        assert_eq!(budget.taken(), 15);
        second.shrink(20);
        second.shrink(5);
        assert_eq!(budget.taken(), 5);
        drop(second);
        assert_eq!((budget.taken(), budget.shared.taken().by_tenant.len()), (0, 0));
    }

    #[test]
    fn beside_four_that_hold_on_to_all_they_may_a_fifth_finds_a_place_for_a_job() {
        let settings = crate::stream::Settings::default();
        let (budget, job) = (Budget::new(settings.budget), settings.job(settings.ring_bytes));
        let mut held = Vec::new();
        for number in 0..5 {
            let before = held.len();
            while let Ok(share) = budget.take(&tenant(number), job) {
                held.push(share);
            }
            assert!(held.len() > before, "nothing is left for tenant {number}");
        }
    }

    #[test]
    fn tenants_that_let_go_and_take_again_come_to_equal_parts() {
        let budget = Budget::new(1000);
        let mut held = [const { Vec::new() }; 3];
        for _ in 0..200 {
            for (number, own) in held.iter_mut().enumerate() {
                drop(own.pop());
                while let Ok(share) = budget.take(&tenant(number), 10) {
                    own.push(share);
                }
            }
        }
        let parts = held.each_ref().map(Vec::len);
        assert!(parts.iter().all(|part| (27..=33).contains(part)), "{parts:?} of 100");
    }

    proptest! {
        #[test]
        fn what_the_others_leave_is_never_used_up_by_one(
            steps in prop::collection::vec((0usize..4, 1u64..400, any::<bool>()), 1..200)
        ) {
            let budget = Budget::new(1000);
            let mut held: Vec<(usize, u64, Share)> = Vec::new();
            for (who, bytes, gives) in steps {
                if gives && !held.is_empty() {
                    drop(held.remove(who % held.len()));
                    continue;
                }
                let of = |who: usize| held.iter().filter(|(t, ..)| *t == who).map(|(_, b, _)| b).sum::<u64>();
                let others: u64 = (0..4).filter(|other| *other != who).map(of).sum();
                let fits = of(who) + bytes <= part(1000 - others);
                let taken = budget.take(&tenant(who), bytes);
                prop_assert_eq!(taken.is_ok(), fits);
                held.extend(taken.map(|share| (who, bytes, share)));
                let all: u64 = held.iter().map(|(_, bytes, _)| bytes).sum();
                prop_assert_eq!(budget.taken(), all);
                prop_assert!(all < 1000);
            }
        }
    }

    #[test]
    fn threads_that_race_for_it_never_take_more() {
        let budget = Budget::new(12);
        let racing: Vec<_> = (0..8)
            .map(|number| {
                let (budget, tenant) = (budget.clone(), tenant(number % 2));
                std::thread::spawn(move || {
                    (0..1000)
                        .filter(|_| budget.take(&tenant, 3).is_ok_and(|_share| budget.taken() <= 12))
                        .count()
                })
            })
            .collect();
        let served: usize = racing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(served > 0);
        assert_eq!(budget.taken(), 0);
    }
}

//! One budget of bytes for the streams of all jobs, running or ended.
//!
//! A job takes what its rings and its stdin queue may come to before it starts, and gives it back once every viewer has read
//! it out and only its tail is kept. So no number of jobs that ended before slow viewers can hold more than was declared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The budget. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: u64,
    taken: AtomicU64,
}

/// There is not so much left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the streams of all jobs may take {most} bytes, of which {taken} are taken")]
pub struct BudgetSpent {
    /// All there is.
    pub most: u64,
    /// What is taken.
    pub taken: u64,
}

/// Bytes taken from the budget. Dropping gives them back.
#[derive(Debug)]
#[must_use]
pub struct Share {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(most: u64) -> Self {
        Self { shared: Arc::new(Shared { most, taken: AtomicU64::new(0) }) }
    }

    /// Takes `bytes` of it.
    ///
    /// # Errors
    /// [`BudgetSpent`] when there is not so much left; nothing is taken then.
    pub fn take(&self, bytes: u64) -> Result<Share, BudgetSpent> {
        let Shared { most, taken } = &*self.shared;
        let fits = |now: u64| now.checked_add(bytes).filter(|sum| sum <= most);
        match taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Share { shared: self.shared.clone(), bytes }),
            Err(taken) => Err(BudgetSpent { most: *most, taken }),
        }
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Acquire)
    }
}

impl Share {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let more = self.bytes.saturating_sub(bytes);
        self.bytes -= more;
        self.shared.taken.fetch_sub(more, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is_and_all_comes_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert_eq!(budget.take(41).unwrap_err(), BudgetSpent { most: 100, taken: 60 });
        let mut second = budget.take(40).unwrap();
        assert!(budget.take(1).is_err() && budget.take(u64::MAX).is_err());
        drop(first);
        assert_eq!(budget.taken(), 40);
        second.shrink(50);
        second.shrink(15);
        assert_eq!(budget.taken(), 15);
        drop(second);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn threads_that_race_for_it_never_take_more() {
        let budget = Budget::new(10);
        let racing: Vec<_> = (0..8)
            .map(|_| {
                let budget = budget.clone();
                std::thread::spawn(move || {
                    (0..1000).filter(|_| budget.take(3).is_ok_and(|_share| budget.taken() <= 10)).count()
                })
            })
            .collect();
        let served: usize = racing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(served > 0);
        assert_eq!(budget.taken(), 0);
    }
}

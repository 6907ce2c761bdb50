//! Places for connections, and who has not yet shown who he is.
//!
//! Two bounds. `most` counts every connection for as long as its socket is open, upgraded ones too. `most_unknown` counts
//! those that have authenticated nothing yet; when one too many comes, the one that has waited longest is shown out, so
//! that a flood of silent peers cannot keep an honest one from the door.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The door.
#[derive(Debug)]
pub(super) struct Doorstep {
    places: Arc<Semaphore>,
    most_unknown: usize,
    // Oldest first. Held for one step, never across an await; a task would put a queue before the door.
    unknown: Mutex<VecDeque<(u64, CancellationToken)>>,
}

/// A connection's place. The last clone that is dropped gives it back.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    number: u64,
    door: Arc<Doorstep>,
    shown_out: CancellationToken,
}

impl Doorstep {
    pub(super) fn new(most: usize, most_unknown: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            most_unknown: most_unknown.max(1),
            unknown: Mutex::default(),
        })
    }

    /// A place for a connection numbered `number`; `None` when all are taken.
    pub(super) fn arrive(self: &Arc<Self>, number: u64) -> Option<Guest> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        let shown_out = CancellationToken::new();
        let mut unknown = self.unknown();
        while unknown.len() >= self.most_unknown {
            let Some((_, oldest)) = unknown.pop_front() else { break };
            oldest.cancel();
        }
        unknown.push_back((number, shown_out.clone()));
        drop(unknown);
        Some(Guest { place: Arc::new(Place { _permit: permit, number, door: self.clone(), shown_out }) })
    }

    fn forget(&self, number: u64) {
        self.unknown().retain(|(waiting, _)| *waiting != number);
    }

    fn unknown(&self) -> MutexGuard<'_, VecDeque<(u64, CancellationToken)>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// It has shown who it is: it keeps its place and is shown out no more.
    pub(super) fn known(&self) {
        self.place.door.forget(self.place.number);
    }

    /// Completes when the place is wanted for somebody else.
    pub(super) async fn shown_out(&self) {
        self.place.shown_out.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.forget(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out(guest: &Guest) -> bool {
        guest.place.shown_out.is_cancelled()
    }

    #[test]
    fn a_place_is_held_until_the_last_clone_goes() {
        let door = Doorstep::new(2, 2);
        let first = door.arrive(1).unwrap();
        let clone = first.clone();
        let _second = door.arrive(2).unwrap();
        drop(first);
        assert!(door.arrive(3).is_none());
        drop(clone);
        assert!(door.arrive(4).is_some());
    }

    #[test]
    fn one_unknown_too_many_shows_the_oldest_out_and_never_a_known_one() {
        let door = Doorstep::new(10, 2);
        let known = door.arrive(1).unwrap();
        known.known();
        let (oldest, newer) = (door.arrive(2).unwrap(), door.arrive(3).unwrap());
        let newest = door.arrive(4).unwrap();
        assert!(is_out(&oldest) && !is_out(&known) && !is_out(&newer) && !is_out(&newest));
    }
}

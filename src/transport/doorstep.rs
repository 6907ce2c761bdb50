//! Places for connections, and who has not yet shown who he is.
//!
//! Two bounds, told anew with every arrival, so that a reload can change them. `most` counts every connection for as long as its socket is open, upgraded ones too. `most_unknown` counts
//! those that have authenticated nothing yet; when one too many comes, the one that has waited longest is shown out, so
//! that a flood of silent peers cannot keep an honest one from the door.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The door.
#[derive(Debug, Default)]
pub(super) struct Doorstep {
    // Held for one step, never across an await; a task would put a queue before the door.
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    places: usize,
    /// Oldest first.
    unknown: VecDeque<(u64, CancellationToken)>,
}

/// A connection's place. The last clone that is dropped gives it back.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    number: u64,
    door: Arc<Doorstep>,
    shown_out: CancellationToken,
}

impl Doorstep {
    /// A place for a connection numbered `number`; `None` when `most` are taken.
    pub(super) fn arrive(self: &Arc<Self>, number: u64, most: usize, most_unknown: usize) -> Option<Guest> {
        let mut guests = self.guests();
        if guests.places >= most {
            return None;
        }
        while guests.unknown.len() >= most_unknown.max(1) {
            let Some((_, oldest)) = guests.unknown.pop_front() else { break };
            oldest.cancel();
        }
        let shown_out = CancellationToken::new();
        guests.places += 1;
        guests.unknown.push_back((number, shown_out.clone()));
        drop(guests);
        Some(Guest { place: Arc::new(Place { number, door: self.clone(), shown_out }) })
    }

    fn forget(&self, number: u64) {
        self.guests().unknown.retain(|(waiting, _)| *waiting != number);
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut guests = self.door.guests();
        guests.places = guests.places.saturating_sub(1);
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
        let door = Arc::new(Doorstep::default());
        let first = door.arrive(1, 2, 2).unwrap();
        let clone = first.clone();
        let _second = door.arrive(2, 2, 2).unwrap();
        drop(first);
        assert!(door.arrive(3, 2, 2).is_none());
        assert!(door.arrive(3, 3, 2).is_some(), "a raised bound counts at once");
        drop(clone);
        assert!(door.arrive(4, 2, 2).is_some());
    }

    #[test]
    fn one_unknown_too_many_shows_the_oldest_out_and_never_a_known_one() {
        let door = Arc::new(Doorstep::default());
        let known = door.arrive(1, 10, 2).unwrap();
        known.known();
        let (oldest, newer) = (door.arrive(2, 10, 2).unwrap(), door.arrive(3, 10, 2).unwrap());
        let newest = door.arrive(4, 10, 2).unwrap();
        assert!(is_out(&oldest) && !is_out(&known) && !is_out(&newer) && !is_out(&newest));
    }
}

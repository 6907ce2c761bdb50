//! Places for connections, and who has not yet shown who he is.
//!
//! Two bounds, told anew with every arrival, so that a reload can change them. `most` counts every connection for as long as its
//! socket is open, upgraded ones too. `most_unknown` counts those that nobody has shown himself on; when one too many comes, the
//! one that has waited longest is shown out, so that a flood of silent peers cannot keep an honest one from the door.
//!
//! A connection is known by its last request, and has a seat among those of the tenant that this was from. With the next it
//! must show itself again: so nobody stays known, or takes his tenant's seats, by a credential that stands no more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::Failure;

use super::crowd::{Crowd, Seat};

/// Of all places, those that nobody has shown himself on take at most one in so many, however many `most_unknown` says.
const UNKNOWN_ONE_IN: usize = 2;

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
    // Held for one step, never across an await; the requests of a connection come one after the other.
    seat: Mutex<Option<Seat>>,
}

impl Doorstep {
    /// A place for a connection numbered `number`; `None` when `most` are taken.
    pub(super) fn arrive(self: &Arc<Self>, number: u64, most: usize, most_unknown: usize) -> Option<Guest> {
        let mut guests = self.guests();
        if guests.places >= most {
            return None;
        }
        let most_unknown = most_unknown.min(most / UNKNOWN_ONE_IN).max(1);
        while guests.unknown.len() >= most_unknown {
            let Some((_, oldest)) = guests.unknown.pop_front() else { break };
            oldest.cancel();
        }
        let shown_out = CancellationToken::new();
        guests.places += 1;
        guests.unknown.push_back((number, shown_out.clone()));
        drop(guests);
        Some(Guest {
            place: Arc::new(Place { number, door: self.clone(), shown_out, seat: Mutex::default() }),
        })
    }

    fn forget(&self, number: u64) {
        self.guests().unknown.retain(|(waiting, _)| *waiting != number);
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn is_unknown(&self, number: u64) -> bool {
        self.unknown.iter().any(|(unknown, _)| *unknown == number)
    }
}

impl Guest {
    /// Its next request has come: until that has shown who it is from, the guest is unknown again.
    pub(super) fn asks(&self) {
        let mut guests = self.place.door.guests();
        if !guests.is_unknown(self.place.number) {
            guests.unknown.push_back((self.place.number, self.place.shown_out.clone()));
        }
    }

    /// The request has shown that it is from this tenant, which may have `most` connections: the guest keeps its place and is
    /// shown out no more.
    ///
    /// # Errors
    /// [`Failure::LimitExceeded`]: the tenant has no seat for it.
    pub(super) fn known(
        &self,
        crowd: &Arc<Crowd>,
        tenant: &Arc<str>,
        most: Option<u32>,
    ) -> Result<(), Failure> {
        let mut seat = self.seat();
        if !seat.as_ref().is_some_and(|seat| seat.is_of(tenant)) {
            *seat = None;
            *seat = Some(crowd.seat(tenant, most)?);
        }
        self.place.door.forget(self.place.number);
        Ok(())
    }

    /// The request is answered: where it has not shown who it is from, the seat of the one before it is free.
    pub(super) fn answered(&self) {
        if self.place.door.guests().is_unknown(self.place.number) {
            *self.seat() = None;
        }
    }

    fn seat(&self) -> MutexGuard<'_, Option<Seat>> {
        self.place.seat.lock().unwrap_or_else(PoisonError::into_inner)
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
        known.known(&Arc::default(), &"t".into(), None).unwrap();
        let (oldest, newer) = (door.arrive(2, 10, 2).unwrap(), door.arrive(3, 10, 2).unwrap());
        let newest = door.arrive(4, 10, 2).unwrap();
        assert!(is_out(&oldest) && !is_out(&known) && !is_out(&newer) && !is_out(&newest));
    }
    #[test]
    fn a_guest_is_known_and_seated_by_its_last_request() {
        let (door, crowd) = (Arc::new(Doorstep::default()), Arc::<Crowd>::default());
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let guest = door.arrive(1, 10, 1).unwrap();
        let is_free = |tenant: &Arc<str>| crowd.seat(tenant, Some(1)).is_ok();
        for tenant in [&a, &a, &b] {
            guest.asks();
            guest.known(&crowd, tenant, Some(1)).unwrap();
            guest.answered();
            assert!(!is_free(tenant), "one seat for all of its requests");
        }
        assert!(is_free(&a), "it is another tenant's now");
        guest.asks();
        assert!(!is_free(&b), "what it asks may show it again");
        guest.answered();
        assert!(is_free(&b), "nobody's");
        let _newcomer = door.arrive(2, 10, 1).unwrap();
        assert!(is_out(&guest));
    }
}

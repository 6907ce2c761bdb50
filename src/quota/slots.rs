//! Sessions and jobs alive, counted in every scope they belong to.
//!
//! A slot is taken in all scopes at once or not at all, and gives all of them back on drop.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{Claim, Counted, Failure, Scope, SessionId, UsageCounts, Whose};

/// For whom something is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The subject within it.
    pub subject: Arc<str>,
    /// The subject's groups.
    pub groups: Vec<Arc<str>>,
    /// The session, if there is one.
    pub session: Option<SessionId>,
}

/// A claim that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{limit} are limited to {value}")]
pub struct LimitExceeded {
    /// Whose limit.
    pub whose: Whose,
    /// What is limited, e.g. `jobs of the session`.
    pub limit: String,
    /// To how many.
    pub value: u64,
}

impl From<LimitExceeded> for Failure {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::LimitExceeded { whose: exceeded.whose, limit: exceeded.limit, value: exceeded.value }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Server,
    Tenant(Arc<str>),
    Subject(Arc<str>, Arc<str>),
    Group(Arc<str>, Arc<str>),
    Session(SessionId),
}

type Counts = HashMap<(Place, Counted), Count>;

/// How many there are in one place.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// Slots alive.
    held: u32,
    /// Of these, the ones that policy's claims have granted: a slot whose review is under way must not stand in the way of
    /// another's claims, or of two that race for one place both would be refused.
    granted: u32,
}

/// Every count of the server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    // One lock for all counts, held for a handful of map operations: all-or-none over several scopes needs them to
    // stand still together.
    counts: Arc<Mutex<Counts>>,
}

/// A place taken; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    counts: Arc<Mutex<Counts>>,
    places: Vec<Place>,
    what: Counted,
    granted: bool,
}

impl Slots {
    /// Takes a place for `holder` when every claim on `what` allows one more.
    ///
    /// # Errors
    /// The first claim that does not; then nothing was taken.
    pub fn claim(&self, holder: &Holder, what: Counted, claims: &[Claim]) -> Result<Slot, LimitExceeded> {
        let places = places(holder);
        let mut counts = lock(&self.counts);
        check(&counts, &places, what, claims, |count| count.held)?;
        for place in &places {
            counts.entry((place.clone(), what)).or_default().held += 1;
        }
        drop(counts);
        Ok(Slot { counts: self.counts.clone(), places, what, granted: false })
    }

    /// Sessions and jobs that hold a slot on the server.
    pub fn held(&self) -> (u32, u32) {
        let counts = lock(&self.counts);
        let of = |what| counts.get(&(Place::Server, what)).map_or(0, |count| count.held);
        (of(Counted::Sessions), of(Counted::Jobs))
    }

    /// What is in use around `holder`.
    pub fn usage(&self, holder: &Holder) -> UsageCounts {
        let counts = lock(&self.counts);
        let count = |place: Place| {
            let of = |what| counts.get(&(place.clone(), what)).map_or(0, |count| count.held);
            (of(Counted::Sessions), of(Counted::Jobs))
        };
        UsageCounts {
            server: count(Place::Server),
            tenant: count(Place::Tenant(holder.tenant.clone())),
            subject: count(Place::Subject(holder.tenant.clone(), holder.subject.clone())),
            session_jobs: holder.session.map_or(0, |id| count(Place::Session(id)).1),
        }
    }
}

impl Slot {
    /// Grants the slot under further claims, all of them or none: they count this slot and those that were granted before
    /// it. Claims on what it is not counted in are ignored.
    ///
    /// # Errors
    /// The first claim that does not allow one more; the slot stays as it is.
    pub fn grant(&mut self, claims: &[Claim]) -> Result<(), LimitExceeded> {
        let mut counts = lock(&self.counts);
        if self.granted {
            return Ok(());
        }
        check(&counts, &self.places, self.what, claims, |count| count.granted)?;
        for place in &self.places {
            counts.entry((place.clone(), self.what)).or_default().granted += 1;
        }
        drop(counts);
        self.granted = true;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        for place in self.places.drain(..) {
            if let Entry::Occupied(mut entry) = counts.entry((place, self.what)) {
                let count = entry.get_mut();
                count.held = count.held.saturating_sub(1);
                count.granted = count.granted.saturating_sub(u32::from(self.granted));
                if count.held == 0 {
                    entry.remove();
                }
            }
        }
    }
}

fn check(
    counts: &Counts,
    places: &[Place],
    what: Counted,
    claims: &[Claim],
    counted: impl Fn(&Count) -> u32,
) -> Result<(), LimitExceeded> {
    for claim in claims.iter().filter(|claim| claim.what == what) {
        let Some(place) = places.iter().find(|place| is_in(place, &claim.scope)) else { continue };
        if counts.get(&(place.clone(), what)).map_or(0, &counted) >= claim.max {
            let (whose, limit) = (whose(&claim.scope), limit(claim));
            return Err(LimitExceeded { whose, limit, value: claim.max.into() });
        }
    }
    Ok(())
}

fn is_in(place: &Place, scope: &Scope) -> bool {
    match (place, scope) {
        (Place::Server, Scope::Server)
        | (Place::Tenant(_), Scope::Tenant)
        | (Place::Subject(..), Scope::Subject)
        | (Place::Session(_), Scope::Session) => true,
        (Place::Group(_, group), Scope::Group(name)) => **group == **name,
        (Place::Server | Place::Tenant(_) | Place::Subject(..) | Place::Group(..) | Place::Session(_), _) => {
            false
        }
    }
}

const fn whose(scope: &Scope) -> Whose {
    match scope {
        Scope::Server => Whose::Server,
        Scope::Tenant | Scope::Subject | Scope::Group(_) | Scope::Session => Whose::Caller,
    }
}

fn limit(claim: &Claim) -> String {
    let what = match claim.what {
        Counted::Sessions => "sessions",
        Counted::Jobs => "jobs",
    };
    let of = match &claim.scope {
        Scope::Server => "the server".to_owned(),
        Scope::Tenant => "the tenant".to_owned(),
        Scope::Subject => "the subject".to_owned(),
        Scope::Group(name) => format!("the group {name:?}"),
        Scope::Session => "the session".to_owned(),
    };
    format!("{what} of {of}")
}

fn places(holder: &Holder) -> Vec<Place> {
    let tenant = || holder.tenant.clone();
    let mut places =
        vec![Place::Server, Place::Tenant(tenant()), Place::Subject(tenant(), holder.subject.clone())];
    for group in &holder.groups {
        let place = Place::Group(tenant(), group.clone());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.extend(holder.session.map(Place::Session));
    places
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(subject: &str) -> Holder {
        Holder { tenant: "t".into(), subject: subject.into(), groups: vec!["g".into()], session: None }
    }

    fn most(scope: Scope, max: u32) -> Claim {
        Claim { scope, what: Counted::Sessions, max }
    }

    #[test]
    fn a_hundred_at_once_for_one_slot_give_exactly_one() {
        let slots = Slots::default();
        let barrier = std::sync::Barrier::new(100);
        let won: Vec<Slot> = std::thread::scope(|scope| {
            let claim = || {
                barrier.wait();
                slots.claim(&holder("s"), Counted::Sessions, &[most(Scope::Subject, 1)]).ok()
            };
            let threads: Vec<_> = (0..100).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(slots.usage(&holder("s")).subject, (1, 0));
        drop(won);
        assert!(slots.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn a_claim_that_fails_takes_nothing_in_any_scope() {
        let slots = Slots::default();
        let _first = slots.claim(&holder("a"), Counted::Sessions, &[]).unwrap();
        let refused = slots.claim(
            &holder("b"),
            Counted::Sessions,
            &[most(Scope::Subject, 1), most(Scope::Group("g".to_owned()), 1)],
        );
        assert_eq!(refused.unwrap_err().limit, "sessions of the group \"g\"");
        assert_eq!(slots.usage(&holder("b")).subject, (0, 0));
        assert_eq!(slots.usage(&holder("b")).server, (1, 0));
    }

    #[test]
    fn a_limit_says_whose_it_is() {
        let slots = Slots::default();
        let whose = |scope| {
            slots.claim(&holder("a"), Counted::Sessions, &[most(scope, 0)]).map(drop).unwrap_err().whose
        };
        assert_eq!(whose(Scope::Server), Whose::Server);
        for own in [Scope::Tenant, Scope::Subject, Scope::Group("g".to_owned())] {
            assert_eq!(whose(own), Whose::Caller);
        }
    }

    #[test]
    fn zero_is_none_at_all() {
        let slots = Slots::default();
        assert!(slots.claim(&holder("a"), Counted::Sessions, &[most(Scope::Server, 0)]).is_err());
    }

    #[test]
    fn of_two_under_review_for_one_place_exactly_one_is_granted() {
        let slots = Slots::default();
        let [mut first, mut second] =
            [(), ()].map(|()| slots.claim(&holder("a"), Counted::Sessions, &[]).unwrap());
        assert!(first.grant(&[most(Scope::Subject, 1)]).is_ok());
        assert!(second.grant(&[most(Scope::Subject, 1)]).is_err());
        drop(first);
        assert!(second.grant(&[most(Scope::Subject, 1)]).is_ok());
        drop(second);
        assert!(slots.counts.lock().unwrap().is_empty());
    }
}

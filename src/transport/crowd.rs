//! Connections counted by tenant: one tenant's must not take every place at the door.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{Failure, Whose};

/// How many connections each tenant has. Only tenants with one are in the table.
#[derive(Debug, Default)]
pub struct Crowd {
    // Held for one look-up, never across an await.
    counts: Mutex<HashMap<Arc<str>, u32>>,
}

/// A tenant's place for one connection on which one of its callers has shown itself. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    tenant: Arc<str>,
}

impl Crowd {
    /// A place for one more of the tenant, of which there may be `most`; `None` is as many as the server takes.
    ///
    /// # Errors
    /// [`Failure::LimitExceeded`]
    pub(super) fn seat(self: &Arc<Self>, tenant: &Arc<str>, most: Option<u32>) -> Result<Seat, Failure> {
        let mut counts = self.counts();
        let count = counts.entry(tenant.clone()).or_default();
        if let Some(most) = most.filter(|most| *count >= *most) {
            if *count == 0 {
                counts.remove(tenant);
            }
            ::metrics::counter!("execgate_connections_refused_total", "why" => "tenant").increment(1);
            let limit = "connections of the tenant".to_owned();
            return Err(Failure::LimitExceeded { whose: Whose::Caller, limit, value: most.into() });
        }
        *count = count.saturating_add(1);
        Ok(Seat { crowd: self.clone(), tenant: tenant.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn is_of(&self, tenant: &str) -> bool {
        *self.tenant == *tenant
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.crowd.counts().entry(self.tenant.clone()) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_places_and_another_has_its_own() {
        let crowd = Arc::new(Crowd::default());
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let first = crowd.seat(&a, Some(1)).unwrap();
        assert!(crowd.seat(&a, Some(1)).is_err());
        assert!(crowd.seat(&b, Some(1)).is_ok());
        assert!(crowd.seat(&a, None).is_ok());
        drop(first);
        assert!(crowd.seat(&a, Some(1)).is_ok());
        assert!(crowd.seat(&a, Some(0)).is_err(), "0 is none");
        assert!(crowd.counts().is_empty(), "who has none costs nothing");
    }
}

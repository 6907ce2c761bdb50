//! One-use tickets: what a browser, which cannot set headers on a WebSocket, shows instead of its token.
//!
//! A ticket is 256 random bits, good once and for half a minute, so that one found in a log or a history is worth
//! nothing. It stands for the credential it was asked with, and falls with it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use crate::domain::{Failure, Whose};

use super::{Identified, TokenDigest};

/// How long a ticket is good for.
pub(in crate::transport) const VALID: Duration = Duration::from_secs(30);
/// Tickets that wait to be used; each is a few hundred bytes.
const MOST: usize = 4096;
/// Of these, for the callers of one tenant: they must not use up what others need.
const MOST_OF_TENANT: usize = MOST / 4;
/// Of these, for one (tenant, subject): one caller must not use up what the others of its tenant need.
const MOST_OF_ONE: usize = 64;

/// The tickets given out.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    // Held for one step, never across an await.
    table: Mutex<HashMap<[u8; 32], (Identified, Instant)>>,
}

impl Tickets {
    /// A fresh ticket.
    ///
    /// # Errors
    /// [`Failure::LimitExceeded`] when too many wait to be used, [`Failure::Internal`] without randomness.
    pub(super) fn issue(&self, identified: &Identified) -> Result<String, Failure> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)
            .map_err(|e| Failure::Internal(format!("the kernel gave no randomness: {e}")))?;
        let (text, now) = (URL_SAFE_NO_PAD.encode(bits), Instant::now());
        let mut table = self.table();
        table.retain(|_, (_, until)| now < *until);
        let caller = &identified.principal;
        let others = || table.values().map(|(other, _)| &other.principal);
        let of_one = others().filter(|other| other.is_same_owner(caller)).count();
        let of_tenant = others().filter(|other| other.tenant == caller.tenant).count();
        for (whose, held, most, of) in [
            (Whose::Caller, of_one, MOST_OF_ONE, "subject"),
            (Whose::Caller, of_tenant, MOST_OF_TENANT, "tenant"),
            (Whose::Server, table.len(), MOST, "server"),
        ] {
            if held >= most {
                let limit = format!("tickets of the {of} that wait to be used");
                return Err(Failure::LimitExceeded { whose, limit, value: most as u64 });
            }
        }
        table.insert(TokenDigest::of(&text).0, (identified.clone(), now + VALID));
        Ok(text)
    }

    /// What the ticket stands for. It is used up, whatever comes of it.
    pub(super) fn redeem(&self, text: &str) -> Option<Identified> {
        let (identified, until) = self.table().remove(&TokenDigest::of(text).0)?;
        (Instant::now() < until).then_some(identified)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Identified, Instant)>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one ticket of a query string.
pub(super) fn of_query(query: &str) -> Option<&str> {
    let mut tickets = query.split('&').filter_map(|pair| pair.strip_prefix("ticket="));
    tickets.next().filter(|ticket| ticket.len() <= 64 && tickets.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::domain::{Authority, Principal};

    use super::super::Proof;
    use super::*;

    fn caller(tenant: &str, subject: usize) -> Identified {
        let principal = Arc::new(Principal {
            tenant: tenant.into(),
            subject: subject.to_string().into(),
            groups: Vec::new(),
            attributes: BTreeMap::new(),
            authority: Authority::Caller,
        });
        Identified { principal, until: None, proof: Proof::Token(TokenDigest::of("t")) }
    }

    fn refused(outcome: Result<String, Failure>) -> (bool, u64) {
        match outcome {
            Err(Failure::LimitExceeded { whose, value, .. }) => (whose == Whose::Caller, value),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_a_tenant_and_the_server_have_so_many_tickets_that_wait_and_no_tenant_has_all() {
        let tickets = Tickets::default();
        for tenant in ["a", "b", "c", "d"] {
            for subject in 0..MOST_OF_TENANT / MOST_OF_ONE {
                for _ in 0..MOST_OF_ONE {
                    tickets.issue(&caller(tenant, subject)).unwrap();
                }
                assert_eq!(refused(tickets.issue(&caller(tenant, subject))), (true, MOST_OF_ONE as u64));
            }
            assert_eq!(refused(tickets.issue(&caller(tenant, 99))), (true, MOST_OF_TENANT as u64));
        }
        assert_eq!(refused(tickets.issue(&caller("e", 0))), (false, MOST as u64));
        tokio::time::advance(VALID).await;
        tickets.issue(&caller("e", 0)).unwrap();
    }
}

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

use super::{Identified, TokenDigest};

/// How long a ticket is good for.
pub(in crate::transport) const VALID: Duration = Duration::from_secs(30);
/// Tickets that wait to be used; each is a few hundred bytes.
const MOST: usize = 4096;
/// Of these, for one (tenant, subject): one caller must not use up all.
const MOST_OF_ONE: usize = 64;

/// The tickets given out.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    // Held for one step, never across an await.
    table: Mutex<HashMap<[u8; 32], (Identified, Instant)>>,
}

impl Tickets {
    /// A fresh ticket; `None` when there are too many, or no randomness.
    pub(super) fn issue(&self, identified: &Identified) -> Option<String> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).ok()?;
        let (text, now) = (URL_SAFE_NO_PAD.encode(bits), Instant::now());
        let mut table = self.table();
        table.retain(|_, (_, until)| now < *until);
        let same = |other: &Identified| other.principal.is_same_owner(&identified.principal);
        let own = table.values().filter(|(other, _)| same(other)).count();
        if table.len() >= MOST || own >= MOST_OF_ONE {
            return None;
        }
        table.insert(TokenDigest::of(&text).0, (identified.clone(), now + VALID));
        Some(text)
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

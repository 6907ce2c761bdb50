//! Who is calling: static tokens, signed tokens (JWT), client certificates, and one-use tickets for browsers.
//!
//! One place knows all of them, so that a reload replaces them whole and every connection can ask whether what it was
//! admitted with still stands. A wrong credential costs its source; a missing one costs nothing, for nothing was tried.
//! No secret is kept: tokens and tickets as digests, JWTs as what they say, without the signature. What a caller was admitted
//! with is kept as long as its connection, or a session of it, and looked at again whenever the rules change: it must still be
//! accepted, and give the same principal.

mod certificate;
mod jwt;
mod penalty;
mod ticket;

pub use certificate::{Authorities, CertificateName};
pub use jwt::{Jwt, JwtKey, KeyFailure, TenantOf};

pub(super) use certificate::Certificate;
pub(super) use ticket::VALID;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::domain::{Authority, Failure, Principal};
use crate::session::Admission;

use penalty::Penalties;
use ticket::Tickets;

/// Longest `Authorization` value looked at, bytes: anything longer is no token of ours.
const MAX_VALUE: usize = 8192;

/// SHA-256 of a token. The token itself is never kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenDigest(redacted)")
    }
}

/// A token that is accepted, and whose it is.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The token's digest.
    pub digest: TokenDigest,
    /// Who shows it.
    pub principal: Arc<Principal>,
}

/// Groups that give authority beyond one's own sessions.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    /// Members see and end everything.
    pub admin: Vec<String>,
    /// Members see and end everything of their tenant.
    pub tenant_admin: Vec<String>,
}

impl Roles {
    /// What the groups give.
    pub fn authority(&self, groups: &[Arc<str>]) -> Authority {
        let is_in = |named: &[String]| groups.iter().any(|group| named.iter().any(|name| **name == **group));
        match (is_in(&self.admin), is_in(&self.tenant_admin)) {
            (true, _) => Authority::Admin,
            (false, true) => Authority::TenantAdmin,
            (false, false) => Authority::Caller,
        }
    }
}

/// What happens to a connection whose credential expired or was revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// It is closed with 4003, and its sessions end.
    #[default]
    End,
    /// Its calls are refused; what runs goes on until the client leaves.
    Refuse,
}

/// Every credential that is accepted; replaced whole by a reload.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Static tokens.
    pub tokens: Vec<Credential>,
    /// Signed tokens.
    pub jwt: Option<Jwt>,
    /// Client certificates, by a name in them.
    pub certificates: Vec<CertificateName>,
    /// Who vouches for them.
    pub authorities: Option<Authorities>,
    /// What an expiry in mid-connection does.
    pub on_expiry: OnExpiry,
}

/// What a caller was admitted with.
#[derive(Debug, Clone)]
enum Proof {
    Token(TokenDigest),
    Jwt(jwt::Unsigned),
    Certificate(Arc<Certificate>),
}

/// A caller that has shown who it is.
#[derive(Debug, Clone)]
pub(super) struct Identified {
    pub(super) principal: Arc<Principal>,
    /// When the credential ends by itself.
    until: Option<Instant>,
    proof: Proof,
}

/// What a request shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Option<&'a str>,
    pub(super) certificate: Option<&'a Arc<Certificate>>,
    pub(super) source: IpAddr,
}

/// Why nobody was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// No credential, or a wrong one: which is not told.
    Nobody,
    /// Too many wrong ones from this source, and what is shown now was not right from there before.
    Penalised(Duration),
}

/// The gate: what is accepted now, the tickets given out, and the sources that have failed.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<Credentials>,
    changes: watch::Sender<u64>,
    tickets: Tickets,
    penalties: Penalties,
}

impl Access {
    /// A gate with these credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            rules: ArcSwap::from_pointee(credentials),
            changes: watch::Sender::new(0),
            tickets: Tickets::default(),
            penalties: Penalties::default(),
        }
    }

    /// Replaces every credential at once; connections whose own is gone are ended.
    pub fn replace(&self, credentials: Credentials) {
        self.rules.store(Arc::new(credentials));
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Who shows this. A bearer token goes before a ticket, and a ticket before the certificate; a wrong one is never
    /// made good by the next.
    ///
    /// # Errors
    /// [`Unknown`]
    pub(super) fn identify(&self, shown: &Shown<'_>) -> Result<Identified, Unknown> {
        let penalty = self.penalties.check(shown.source).err();
        let rules = self.rules.load();
        let found = if shown.headers.contains_key(header::AUTHORIZATION) {
            bearer(shown.headers).and_then(|token| match penalty {
                None => self.admit(&rules, shown.source, token),
                Some(_) => self.admit_penalised(&rules, shown.source, token),
            })
        } else if let Some(ticket) = shown.query.and_then(ticket::of_query) {
            self.tickets.redeem(ticket).filter(|identified| stands(&rules, identified))
        } else {
            match shown.certificate {
                None => return Err(Unknown::Nobody),
                Some(certificate) => by_certificate(&rules, certificate),
            }
        };
        match (found, penalty) {
            (Some(identified), _) => Ok(identified),
            (None, Some(left)) => Err(Unknown::Penalised(left)),
            (None, None) => {
                self.penalties.failed(shown.source);
                ::metrics::counter!("execgate_authentication_failures_total").increment(1);
                Err(Unknown::Nobody)
            }
        }
    }

    fn admit(&self, rules: &Credentials, source: IpAddr, token: &str) -> Option<Identified> {
        let digest = TokenDigest::of(token);
        let found = by_token(rules, &digest, token)?;
        self.penalties.admitted(source, digest);
        Some(found)
    }

    /// A penalty is there so that nobody guesses a token, not to keep out who has one: others may share the source. What was
    /// right from there before is looked at; of the rest only what is signed, which nobody guesses, and of that only so much.
    fn admit_penalised(&self, rules: &Credentials, source: IpAddr, token: &str) -> Option<Identified> {
        let digest = TokenDigest::of(token);
        if self.penalties.knows(source, digest) {
            return by_token(rules, &digest, token);
        }
        let may_be_signed = rules.jwt.is_some() && token.bytes().filter(|byte| *byte == b'.').count() == 2;
        if !may_be_signed || !self.penalties.may_verify() {
            return None;
        }
        let found = by_signature(rules, token)?;
        self.penalties.admitted(source, digest);
        Some(found)
    }

    /// A ticket that a browser of the caller can use once, within [`ticket::VALID`].
    ///
    /// # Errors
    /// What [`Tickets::issue`] says.
    pub(super) fn ticket(&self, identified: &Identified) -> Result<String, Failure> {
        self.tickets.issue(identified)
    }

    /// Watches over what the caller was admitted with.
    pub(super) fn standing(self: &Arc<Self>, identified: Identified) -> Standing {
        Standing { access: self.clone(), identified }
    }
}

/// What a connection was admitted with, and whether it still stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    access: Arc<Access>,
    identified: Identified,
}

impl Standing {
    /// Completes when the credential has expired or was revoked.
    pub(super) async fn over(self) {
        let mut changes = self.access.changes.subscribe();
        loop {
            if !stands(&self.access.rules.load(), &self.identified) {
                return;
            }
            let expired = async {
                match self.identified.until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expired => return,
                // The gate outlives its connections; were it gone, nothing would be accepted.
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What is to happen then.
    pub(super) fn on_expiry(&self) -> OnExpiry {
        self.access.rules.load().on_expiry
    }
}

impl Admission for Standing {
    fn stands(&self) -> bool {
        is_accepted(&self.access.rules.load(), &self.identified)
    }
}

/// Whether the credential would be accepted again, for the same principal.
fn stands(rules: &Credentials, identified: &Identified) -> bool {
    identified.until.is_none_or(|until| Instant::now() < until) && is_accepted(rules, identified)
}

/// The same, its time aside.
fn is_accepted(rules: &Credentials, identified: &Identified) -> bool {
    let again = match &identified.proof {
        Proof::Token(digest) => by_digest(rules, digest).map(|known| known.principal.clone()),
        Proof::Jwt(said) => rules.jwt.as_ref().and_then(|jwt| jwt.again(said)).map(Arc::new),
        Proof::Certificate(certificate) => by_certificate(rules, certificate).map(|again| again.principal),
    };
    again.is_some_and(|principal| principal == identified.principal)
}

/// The one bearer token of the request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|v| v.len() <= MAX_VALUE)?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What is no static token is read as a JWT when JWTs are accepted.
fn by_token(rules: &Credentials, digest: &TokenDigest, token: &str) -> Option<Identified> {
    let Some(known) = by_digest(rules, digest) else { return by_signature(rules, token) };
    Some(Identified { principal: known.principal.clone(), until: None, proof: Proof::Token(known.digest) })
}

fn by_signature(rules: &Credentials, token: &str) -> Option<Identified> {
    let signed = rules.jwt.as_ref()?.read(token)?;
    let (principal, proof) = (Arc::new(signed.principal), Proof::Jwt(signed.proof));
    Some(Identified { principal, until: Some(from_now(signed.until)), proof })
}

/// Every static token is compared, whichever matches, so that time tells nothing.
fn by_digest<'a>(rules: &'a Credentials, shown: &TokenDigest) -> Option<&'a Credential> {
    let same = |known: &Credential| bool::from(shown.0.ct_eq(&known.digest.0));
    rules.tokens.iter().fold(None, |found, known| if same(known) { Some(known) } else { found })
}

fn by_certificate(rules: &Credentials, certificate: &Arc<Certificate>) -> Option<Identified> {
    let known = by_name(rules, &certificate.names)?;
    if !certificate.is_vouched_for_by(rules.authorities.as_ref()?) {
        return None;
    }
    let proof = Proof::Certificate(certificate.clone());
    Some(Identified { principal: known.principal.clone(), until: Some(from_now(certificate.until)), proof })
}

fn by_name<'a>(rules: &'a Credentials, names: &[String]) -> Option<&'a CertificateName> {
    rules.certificates.iter().find(|known| names.contains(&known.name))
}

/// The moment by a clock that does not jump.
fn from_now(at: SystemTime) -> Instant {
    /// Beyond this, an expiry is never: adding it to the clock must not overflow.
    const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
    Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
}

#[cfg(test)]
mod tests;

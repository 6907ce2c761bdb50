//! Signed tokens (JWT, RFC 7519; best practices of RFC 8725).
//!
//! A key verifies one algorithm, named beside it: a token cannot choose. Keys come from the operator's files alone;
//! a token that points to a key, or brings one, is refused. `exp`, `nbf`, `iss`, `aud` and the subject must be there and
//! of the right type, a tenant must be a name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::domain::Principal;

use super::Roles;

/// Longest subject, group or attribute, bytes.
const MAX_TEXT: usize = 256;
/// Most groups of one token.
const MAX_GROUPS: usize = 64;
/// Shortest secret of an HMAC key, bytes (RFC 7518 section 3.2: as long as the hash).
const MIN_SECRET: usize = 32;

/// Which signed tokens are accepted, and what they say about their bearer.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The keys.
    pub keys: Vec<JwtKey>,
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must name one of these.
    pub audience: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// Where the tenant is found.
    pub tenant: TenantOf,
    /// The claim that is the subject.
    pub subject: String,
    /// The claim that lists the groups.
    pub groups: String,
    /// Claims that policies see as attributes.
    pub attributes: Vec<String>,
    /// `jti` of tokens that are refused before they expire.
    pub revoked: BTreeSet<String>,
    /// What groups give.
    pub roles: Roles,
}

/// Where the tenant is found.
#[derive(Debug, Clone)]
pub enum TenantOf {
    /// Every token is of this tenant.
    Fixed(String),
    /// The claim that names it.
    Claim(String),
}

/// A key and the one algorithm it verifies.
#[derive(Clone)]
pub struct JwtKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, algorithm) = (&self.id, &self.algorithm);
        f.debug_struct("JwtKey").field("id", id).field("algorithm", algorithm).finish_non_exhaustive()
    }
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFailure {
    /// Which algorithm it is for is not said.
    #[error("the key {0:?} does not say its algorithm; give it \"alg\", or the token could choose")]
    NoAlgorithm(String),
    /// An algorithm that signs nothing, or that is not known.
    #[error("{0:?} is no algorithm for signatures; use EdDSA, ES256, ES384, RS256, PS256 or HS256")]
    Algorithm(String),
    /// A secret that can be guessed.
    #[error("the secret has {0} bytes; make one of at least 32: head -c 32 /dev/urandom | base64")]
    Short(usize),
    /// Not what it should be.
    #[error("not a key for {algorithm}: {error}")]
    Bad {
        /// What it should be for.
        algorithm: String,
        /// What the library says.
        error: String,
    },
}

impl JwtKey {
    /// What a token names it by (`kid`).
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// A key from a file: a PEM public key, or for HMAC the secret itself.
    ///
    /// # Errors
    /// [`KeyFailure`]
    pub fn from_file(id: &str, algorithm: &str, bytes: &[u8]) -> Result<Self, KeyFailure> {
        let algorithm_of: Algorithm =
            algorithm.parse().map_err(|_| KeyFailure::Algorithm(algorithm.to_owned()))?;
        let bad = |e: jsonwebtoken::errors::Error| KeyFailure::Bad {
            algorithm: algorithm.to_owned(),
            error: e.to_string(),
        };
        let key = match algorithm_of {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let secret = bytes.trim_ascii();
                if secret.len() < MIN_SECRET {
                    return Err(KeyFailure::Short(secret.len()));
                }
                DecodingKey::from_secret(secret)
            }
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(bytes).map_err(bad)?,
            Algorithm::EdDSA => DecodingKey::from_ed_pem(bytes).map_err(bad)?,
            _ => DecodingKey::from_rsa_pem(bytes).map_err(bad)?,
        };
        Ok(Self {
            id: Some(id.to_owned()),
            algorithm: algorithm_of,
            key,
            fingerprint: Sha256::digest(bytes).into(),
        })
    }

    /// A key of a JWKS (RFC 7517). An elliptic key's curve names its algorithm; any other must say it.
    ///
    /// # Errors
    /// [`KeyFailure`]
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyFailure> {
        let id = jwk.common.key_id.clone();
        let name = || id.clone().unwrap_or_default();
        let by_curve = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => Some(Algorithm::ES256),
                EllipticCurve::P384 => Some(Algorithm::ES384),
                _ => None,
            },
            AlgorithmParameters::OctetKeyPair(_) => Some(Algorithm::EdDSA),
            _ => None,
        };
        let said = match jwk.common.key_algorithm {
            Some(said) => {
                Some(Algorithm::try_from(said).map_err(|_| KeyFailure::Algorithm(said.to_string()))?)
            }
            None => None,
        };
        let algorithm = said.or(by_curve).ok_or_else(|| KeyFailure::NoAlgorithm(name()))?;
        if let AlgorithmParameters::OctetKey(secret) = &jwk.algorithm
            && secret.value.len() * 3 / 4 < MIN_SECRET
        {
            return Err(KeyFailure::Short(secret.value.len() * 3 / 4));
        }
        let key = DecodingKey::from_jwk(jwk)
            .map_err(|e| KeyFailure::Bad { algorithm: format!("{algorithm:?}"), error: e.to_string() })?;
        let fingerprint = Sha256::digest(format!("{:?}", jwk.algorithm)).into();
        Ok(Self { id, algorithm, key, fingerprint })
    }
}

/// A token that was verified.
pub(super) struct Signed {
    pub(super) principal: Principal,
    pub(super) until: SystemTime,
    pub(super) proof: Unsigned,
}

/// What a verified token said, and the key that proved it. Without the signature it is no token, and nobody can use it.
#[derive(Clone)]
pub(super) struct Unsigned {
    /// Header and claims as they were written; with the signature they were no longer than a header field may be.
    text: Arc<str>,
    key: [u8; 32],
}

impl std::fmt::Debug for Unsigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsigned").finish_non_exhaustive()
    }
}

/// The claims every token must have, each of its one type, and the rest.
#[derive(Deserialize)]
struct Claims {
    exp: u64,
    nbf: u64,
    iss: String,
    aud: Audience,
    jti: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, Claim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// A claim as far as it can matter here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Claim {
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Switch(bool),
    Other(serde::de::IgnoredAny),
}

impl Claim {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if (1..=MAX_TEXT).contains(&text.len()) => Some(text),
            Self::Text(_) | Self::Texts(_) | Self::Number(_) | Self::Switch(_) | Self::Other(_) => None,
        }
    }

    fn shown(&self) -> Option<String> {
        match self {
            Self::Text(_) => self.text().map(str::to_owned),
            Self::Number(number) => Some(number.to_string()),
            Self::Switch(switch) => Some(switch.to_string()),
            Self::Texts(_) | Self::Other(_) => None,
        }
    }
}

impl Jwt {
    /// Verifies a token; `None` for every fault alike.
    pub(super) fn read(&self, token: &str) -> Option<Signed> {
        match self.verified(token) {
            Ok(signed) => Some(signed),
            Err(why) => {
                tracing::debug!(why, "a JWT was refused");
                None
            }
        }
    }

    /// Whom a token that was verified before would name now, its time aside.
    pub(super) fn again(&self, proof: &Unsigned) -> Option<Principal> {
        let header = jsonwebtoken::decode_header(&*proof.text).ok()?;
        self.key(header.kid.as_deref(), header.alg).filter(|key| key.fingerprint == proof.key)?;
        self.bearer(&jsonwebtoken::dangerous::insecure_decode_claims(&*proof.text).ok()?).ok()
    }

    fn verified(&self, token: &str) -> Result<Signed, &'static str> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| "no JWT, or an algorithm that is none")?;
        let brings_a_key =
            header.jku.is_some() || header.x5u.is_some() || header.jwk.is_some() || header.x5c.is_some();
        if brings_a_key || header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err("its header names a key, an extension or an encryption");
        }
        let key = self.key(header.kid.as_deref(), header.alg).ok_or("no key with this id and algorithm")?;
        let data = jsonwebtoken::decode::<Claims>(token, &key.key, &self.validation(key.algorithm)).map_err(
            |_| "its signature, time, issuer or audience is wrong, or a claim is missing or of another type",
        )?;
        let (claims, said) = (data.claims, token.rsplit_once('.').map_or("", |(said, _)| said));
        let ends = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        let until = ends.and_then(|ends| ends.checked_add(self.leeway)).ok_or("it never ends")?;
        // The library counts whole seconds, and takes a token in the second in which it ends.
        if until <= SystemTime::now() {
            return Err("it has expired");
        }
        let proof = Unsigned { text: format!("{said}.").into(), key: key.fingerprint };
        Ok(Signed { principal: self.bearer(&claims)?, until, proof })
    }

    /// The key with the token's id; without an id, the only key there is.
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&JwtKey> {
        let found = match (id, self.keys.as_slice()) {
            (Some(_), keys) => keys.iter().find(|key| key.id.as_deref() == id),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        found.filter(|key| key.algorithm == algorithm)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audience);
        validation.validate_nbf = true;
        validation.leeway = self.leeway.as_secs();
        validation
    }

    /// All that does not depend on the signature and the time.
    fn bearer(&self, claims: &Claims) -> Result<Principal, &'static str> {
        if claims.iss != self.issuer || claims.nbf > claims.exp {
            return Err("its issuer is another, or it ends before it begins");
        }
        if !claims.aud.names().iter().any(|name| self.audience.contains(name)) {
            return Err("its audience is another");
        }
        if claims.jti.as_ref().is_some_and(|id| self.revoked.contains(id)) {
            return Err("it was revoked");
        }
        let text = |claim: &str| claims.others.get(claim).and_then(Claim::text);
        let tenant = match &self.tenant {
            TenantOf::Fixed(tenant) => tenant.as_str(),
            TenantOf::Claim(claim) => text(claim).filter(|t| is_name(t)).ok_or("its tenant is no name")?,
        };
        let subject = text(&self.subject).filter(|text| Principal::is_subject(text));
        let subject = subject.ok_or("it has no subject, or one with control characters")?;
        let groups = self.groups_of(claims)?;
        let shown = |name: &String| Some((name.clone(), claims.others.get(name)?.shown()?));
        Ok(Principal {
            tenant: tenant.into(),
            subject: subject.into(),
            authority: self.roles.authority(&groups),
            groups,
            attributes: self.attributes.iter().filter_map(shown).collect(),
        })
    }

    fn groups_of(&self, claims: &Claims) -> Result<Vec<Arc<str>>, &'static str> {
        match claims.others.get(&self.groups) {
            None => Ok(Vec::new()),
            Some(Claim::Texts(groups)) if groups.len() <= MAX_GROUPS => {
                let fit = groups.iter().all(|group| (1..=MAX_TEXT).contains(&group.len()));
                if fit {
                    Ok(groups.iter().map(|g| g.as_str().into()).collect())
                } else {
                    Err("a group is too long")
                }
            }
            Some(_) => Err("its groups are no list of texts"),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

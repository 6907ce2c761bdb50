//! Who may connect: tokens, keys and certificates, from the configuration and the files it names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::config::guard::{self, Holds};
use crate::config::{self, JwtTable, OnExpiryWord, Raw};
use crate::domain::{Authority, Principal};
use crate::transport::{
    self, Authorities, CertificateName, Credential, Credentials, Jwt, JwtKey, OnExpiry, Pem, Roles, TenantOf,
    TlsFiles, TokenDigest,
};

use super::SetupFailure;
use super::people::invoker;

/// How far an issuer's clock may be off when nothing else is said.
const LEEWAY: std::time::Duration = std::time::Duration::from_secs(30);

/// The files that are read for a setup.
#[derive(Default)]
pub(super) struct Files {
    digests: Sha256,
    /// What is in them and no good, yet harmless.
    pub(super) warnings: Vec<String>,
}

impl Files {
    fn read(&mut self, section: &'static str, path: &Path, holds: Holds) -> Result<Vec<u8>, SetupFailure> {
        let bytes = guard::read(path, holds, guard::MOST)
            .map_err(|failure| SetupFailure::File { section, failure })?;
        self.digests.update(Sha256::digest(&bytes));
        Ok(bytes)
    }

    /// Stands for what was read, in order.
    pub(super) fn digest(self) -> [u8; 32] {
        self.digests.finalize().into()
    }
}

/// # Errors
/// A file of keys that cannot be used.
pub(super) fn credentials(
    raw: &Raw,
    token: Option<&str>,
    authorities: Option<Authorities>,
    files: &mut Files,
) -> Result<Credentials, SetupFailure> {
    let roles =
        Roles { admin: raw.auth.admin_groups.clone(), tenant_admin: raw.auth.tenant_admin_groups.clone() };
    let mut tokens: Vec<_> = raw
        .auth
        .token
        .values()
        .filter_map(|table| {
            let principal = principal(&roles, &table.tenant, &table.subject, &table.groups);
            Some(Credential { digest: digest(&table.sha256)?, principal })
        })
        .collect();
    tokens.extend(token.map(|token| {
        let own = principal(&roles, "local", &invoker().user, &[]);
        let principal = Arc::new(Principal { authority: Authority::Admin, ..Principal::clone(&own) });
        Credential { digest: TokenDigest::of(token), principal }
    }));
    let certificates = raw.auth.mtls.values().map(|table| CertificateName {
        name: table.name.clone(),
        principal: principal(&roles, &table.tenant, &table.subject, &table.groups),
    });
    Ok(Credentials {
        tokens,
        certificates: certificates.collect(),
        authorities,
        jwt: raw.auth.jwt.as_ref().map(|table| jwt(table, &roles, files)).transpose()?,
        on_expiry: match raw.auth.on_expiry {
            OnExpiryWord::End => OnExpiry::End,
            OnExpiryWord::Refuse => OnExpiry::Refuse,
        },
    })
}

fn principal(roles: &Roles, tenant: &str, subject: &str, groups: &[String]) -> Arc<Principal> {
    let groups: Vec<Arc<str>> = groups.iter().map(|group| group.as_str().into()).collect();
    Arc::new(Principal {
        tenant: tenant.into(),
        subject: subject.into(),
        authority: roles.authority(&groups),
        groups,
        attributes: BTreeMap::new(),
    })
}

/// 64 hexadecimal digits, which the configuration has checked.
fn digest(text: &str) -> Option<TokenDigest> {
    let mut digest = [0; 32];
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(TokenDigest(digest))
}

fn jwt(table: &JwtTable, roles: &Roles, files: &mut Files) -> Result<Jwt, SetupFailure> {
    let bad = |path: &Path, what: String| SetupFailure::Keys { path: path.to_owned(), what };
    let mut keys: Vec<JwtKey> = Vec::new();
    if let Some(path) = &table.jwks {
        let set = config::keys::jwks(&files.read("auth.jwt", path, Holds::Public)?);
        let set = set.map_err(|e| bad(path, e.to_string()))?;
        for (_, jwk) in &set.verify {
            keys.push(JwtKey::from_jwk(jwk).map_err(|e| bad(path, e.to_string()))?);
        }
        let places: Vec<_> = set.verify.iter().map(|(place, _)| *place).collect();
        told_apart(&keys, &places, keys.len() + table.key.len()).map_err(|what| bad(path, what))?;
        let skipped = set.skipped.iter();
        files
            .warnings
            .extend(skipped.map(|why| format!("auth.jwt.jwks: {}: left out: {why}", path.display())));
    }
    for (id, key) in &table.key {
        if keys.iter().any(|known| known.id() == Some(id)) {
            let what =
                format!("its kid {id:?} is in the JWKS too, and the token names no file; give each its own");
            return Err(bad(&key.file, what));
        }
        let holds = if key.algorithm.starts_with("HS") { Holds::Secret } else { Holds::Public };
        let made = JwtKey::from_file(id, &key.algorithm, &files.read("auth.jwt", &key.file, holds)?);
        keys.push(made.map_err(|e| bad(&key.file, e.to_string()))?);
    }
    let claim = |named: &Option<String>, usual: &str| named.clone().unwrap_or_else(|| usual.to_owned());
    Ok(Jwt {
        keys,
        issuer: table.issuer.clone(),
        audience: table.audience.clone(),
        leeway: table.leeway.map_or(LEEWAY, |leeway| leeway.0),
        tenant: match &table.tenant {
            Some(tenant) => TenantOf::Fixed(tenant.clone()),
            None => TenantOf::Claim(claim(&table.tenant_claim, "tenant")),
        },
        subject: claim(&table.subject_claim, "sub"),
        groups: claim(&table.groups_claim, "groups"),
        attributes: table.attributes.clone(),
        revoked: table.revoked.iter().cloned().collect(),
        roles: roles.clone(),
    })
}

/// A token names its key by `kid`; only a key that is alone can do without.
///
/// # Errors
/// Which key no token could name.
fn told_apart(keys: &[JwtKey], places: &[usize], all: usize) -> Result<(), String> {
    let remedy = "give each key of several a \"kid\" of its own, or no token can name it";
    for (at, (key, place)) in keys.iter().zip(places).enumerate() {
        match key.id() {
            None if all > 1 => return Err(format!("key {place} of it has no \"kid\"; {remedy}")),
            Some(id) if keys.iter().take(at).any(|earlier| earlier.id() == Some(id)) => {
                return Err(format!("the \"kid\" {id:?} is there twice; {remedy}"));
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

/// What TLS is spoken with, and who vouches for client certificates.
///
/// # Errors
/// A certificate or key that cannot be used.
pub(super) fn tls(
    raw: &Raw,
    files: &mut Files,
) -> Result<(Option<Arc<transport::ServerConfig>>, Option<Authorities>), SetupFailure> {
    let table = &raw.server.tls;
    if !table.is_on() {
        return Ok((None, None));
    }
    let mut pem = |path: &Path, holds| {
        Ok::<_, SetupFailure>(Pem { path: path.to_owned(), text: files.read("server.tls", path, holds)? })
    };
    let client_ca = Some(&table.client_ca).filter(|path| !path.as_os_str().is_empty());
    let files = TlsFiles {
        cert: pem(&table.cert, Holds::Public)?,
        key: pem(&table.key, Holds::Secret)?,
        client_ca: client_ca.map(|path| pem(path, Holds::Public)).transpose()?,
    };
    let (config, authorities) = transport::load_tls(&files)?;
    Ok((Some(config), authorities))
}

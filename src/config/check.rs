//! What must hold between keys, and what must not be on an address that others can reach.

mod least;

use std::fmt::Display;

use crate::domain::Principal;

use super::raw::{IdentityOf, JwtTable, Raw, TenantLimits};
use super::{Auto, Cap, ConfigFailure, Time};

/// Profiles that need no table.
const BUILT_IN: [&str; 2] = ["base", "offline"];

/// Most roots of one profile: each is opened at every start of a job that has it.
const MAX_ROOTS: usize = 64;

/// # Errors
/// The first rule that is broken.
pub(super) fn whole(raw: &Raw) -> Result<(), ConfigFailure> {
    names(raw)?;
    tokens(raw)?;
    certificates(raw)?;
    raw.auth.jwt.iter().try_for_each(jwt)?;
    raw.tenant
        .iter()
        .try_for_each(|(name, tenant)| tenant.identity.as_ref().map_or(Ok(()), |i| identity(name, i)))?;
    raw.policy.iter().try_for_each(|(name, policy)| match &policy.sha256 {
        Some(digest) if !is_digest(digest) => {
            refuse(format!("policy.{name}.sha256: must be 64 hexadecimal digits"))
        }
        Some(_) | None => Ok(()),
    })?;
    numbers(raw)?;
    least::numbers(raw)?;
    least::names(raw)?;
    admin_door(raw)?;
    profiles(raw)?;
    public(raw)
}

fn refuse<T>(message: impl Display) -> Result<T, ConfigFailure> {
    Err(ConfigFailure::Contradiction(message.to_string()))
}

fn names(raw: &Raw) -> Result<(), ConfigFailure> {
    let tenants = raw.tenant.keys().map(|n| ("tenant", n)).filter(|(_, n)| *n != "*");
    let policies = raw.policy.keys().map(|n| ("policy", n));
    let profiles = raw.profile.keys().map(|n| ("profile", n));
    let tokens = raw.auth.token.keys().map(|n| ("auth.token", n));
    let of_tokens = raw.auth.token.values().map(|t| ("auth.token.*.tenant", &t.tenant));
    let certificates = raw.auth.mtls.values().map(|c| ("auth.mtls.*.tenant", &c.tenant));
    let of_all = raw.auth.jwt.iter().filter_map(|jwt| jwt.tenant.as_ref()).map(|n| ("auth.jwt.tenant", n));
    let configured = tenants.chain(policies).chain(profiles).chain(tokens);
    for (table, name) in configured.chain(of_tokens).chain(certificates).chain(of_all) {
        if !is_name(name) {
            return refuse(format!("{table}: {name:?} is no name; use a-z, 0-9 and -, at most 63"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn tokens(raw: &Raw) -> Result<(), ConfigFailure> {
    for (name, token) in &raw.auth.token {
        if !is_digest(&token.sha256) {
            return refuse(format!(
                "auth.token.{name}.sha256: must be the 64 hexadecimal digits of: printf %s \"$TOKEN\" | sha256sum"
            ));
        }
        subject(&format!("auth.token.{name}"), &token.subject)?;
    }
    Ok(())
}

fn subject(table: &str, subject: &str) -> Result<(), ConfigFailure> {
    if Principal::is_subject(subject) {
        return Ok(());
    }
    refuse(format!("{table}.subject: 1 to {} bytes, without control characters", Principal::MAX_SUBJECT))
}

fn certificates(raw: &Raw) -> Result<(), ConfigFailure> {
    const KINDS: [&str; 4] = ["cn:", "dns:", "uri:", "email:"];
    let tls = &raw.server.tls;
    if tls.is_on() == tls.key.as_os_str().is_empty() {
        return refuse("server.tls: cert and key go together");
    }
    if !tls.client_ca.as_os_str().is_empty() && !tls.is_on() {
        return refuse("server.tls.client_ca: client certificates need server.tls.cert and key");
    }
    if !raw.auth.mtls.is_empty() && tls.client_ca.as_os_str().is_empty() {
        return refuse("auth.mtls: client certificates are asked for only with server.tls.client_ca");
    }
    for (name, table) in &raw.auth.mtls {
        if !KINDS.iter().any(|kind| table.name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty())) {
            return refuse(format!(
                "auth.mtls.{name}.name: say which kind of name: cn:, dns:, uri: or email: and the name"
            ));
        }
        subject(&format!("auth.mtls.{name}"), &table.subject)?;
    }
    Ok(())
}

fn jwt(jwt: &JwtTable) -> Result<(), ConfigFailure> {
    if jwt.issuer.is_empty() || jwt.audience.is_empty() {
        return refuse("auth.jwt: issuer and audience say which tokens are meant for this server; name both");
    }
    if jwt.jwks.is_none() && jwt.key.is_empty() {
        return refuse("auth.jwt: no key; give jwks, or [auth.jwt.key.KID]");
    }
    match (&jwt.tenant, &jwt.tenant_claim) {
        (Some(_), None) | (None, Some(_)) => {}
        (Some(_), Some(_)) | (None, None) => {
            return refuse("auth.jwt: either tenant (for every token), or tenant_claim");
        }
    }
    least::claims(jwt)?;
    if jwt.leeway.is_some_and(|leeway| leeway.0 > std::time::Duration::from_secs(300)) {
        return refuse("auth.jwt.leeway: at most 5m; a clock further off than that needs mending");
    }
    Ok(())
}

fn identity(tenant: &str, identity: &IdentityOf) -> Result<(), ConfigFailure> {
    if [identity.uid, identity.gid].contains(&Some(u32::MAX)) {
        return refuse(format!("tenant.{tenant}.identity: {} is no id, but means \"unchanged\"", u32::MAX));
    }
    if let Some(home) = identity.home.as_ref().filter(|home| !home.is_absolute()) {
        return refuse(format!("tenant.{tenant}.identity.home: {home:?} is not absolute"));
    }
    match (&identity.user, identity.uid, identity.gid) {
        (Some(_), None, None) if identity.groups.is_none() => Ok(()),
        (None, Some(_), Some(_)) => Ok(()),
        _ => refuse(format!("tenant.{tenant}.identity: either `user`, or `uid` and `gid` (and `groups`)")),
    }
}

fn ceilings(raw: &Raw, tenant: &str, limits: &TenantLimits) -> Result<(), ConfigFailure> {
    let connections = u32::try_from(raw.limits.connections).unwrap_or(u32::MAX);
    for (key, own, all) in [
        ("connections", limits.connections, connections),
        ("sessions", limits.sessions, raw.limits.sessions),
        ("jobs", limits.jobs, raw.limits.jobs),
    ] {
        if let Some(Cap::At(own)) = own
            && own > all
        {
            return refuse(format!(
                "tenant.{tenant}.limits.{key}: {own} is more than limits.{key} = {all} gives to all; lower it, or raise that"
            ));
        }
    }
    let no_time = |cap: Option<Cap<Time>>| cap == Some(Cap::At(Time(std::time::Duration::ZERO)));
    let none = [
        ("wall", no_time(limits.wall)),
        ("cpu", no_time(limits.cpu)),
        ("memory", limits.memory.is_some_and(|cap| cap.limit().is_some_and(|size| size.0 == 0))),
        ("processes", limits.processes == Some(Cap::At(0))),
    ];
    if let Some((key, _)) = none.iter().find(|(_, none)| *none) {
        return refuse(format!(
            "tenant.{tenant}.limits.{key}: 0 lets no job run; leave the key out, or disable the tenant's policies"
        ));
    }
    if limits.nice.is_some_and(|nice| nice > 19) {
        return refuse(format!("tenant.{tenant}.limits.nice: 0 to 19"));
    }
    Ok(())
}

fn profiles(raw: &Raw) -> Result<(), ConfigFailure> {
    for (name, profile) in &raw.profile {
        if name == "base" {
            return refuse(
                "profile.base: every job has it, and nothing about it can be chosen; use another name",
            );
        }
        let roots = profile.read.iter().chain(&profile.write).flatten();
        if let Some(root) = roots.clone().find(|root| !root.is_absolute() && !root.starts_with("~")) {
            return refuse(format!(
                "profile.{name}: {root:?} is neither absolute nor below ~ (the job's home)"
            ));
        }
        if roots.count() > MAX_ROOTS {
            return refuse(format!("profile.{name}: at most {MAX_ROOTS} roots"));
        }
    }
    for (tenant, table) in &raw.tenant {
        let named = table.confine.iter().flatten();
        if let Some(unknown) = named
            .into_iter()
            .find(|name| !BUILT_IN.contains(&name.as_str()) && !raw.profile.contains_key(*name))
        {
            return refuse(format!("tenant.{tenant}.confine: there is no [profile.{unknown}]"));
        }
    }
    Ok(())
}

fn numbers(raw: &Raw) -> Result<(), ConfigFailure> {
    if !(0..=19).contains(&raw.jobs.nice) {
        return refuse("jobs.nice: 0 to 19");
    }
    if let Some(path) = raw.jobs.path.iter().find(|p| !p.is_absolute()) {
        return refuse(format!(
            "jobs.path: {path:?} is not absolute; a relative entry would run what a client put there"
        ));
    }
    if raw.limits.ping.0 >= raw.limits.dead_after.0 {
        return refuse("limits.dead_after: must be longer than limits.ping, or every peer is taken for dead");
    }
    if raw.limits.ended_jobs < raw.limits.ended_jobs_per_session {
        return refuse("limits.ended_jobs: must not be below limits.ended_jobs_per_session");
    }
    for (key, size) in [
        ("streams.ring", raw.streams.ring),
        ("streams.ring_max", raw.streams.ring_max),
        ("streams.frame", raw.streams.frame),
        ("streams.stdin", raw.streams.stdin),
    ] {
        if !(4096..=16 << 20).contains(&size.0) {
            return refuse(format!("{key}: 4KiB to 16MiB"));
        }
    }
    raw.tenant
        .iter()
        .filter_map(|(name, t)| Some((name, t.limits.as_ref()?)))
        .try_for_each(|(name, limits)| ceilings(raw, name, limits))?;
    if raw.limits.requests_per_second == 0 || raw.limits.outstanding == 0 {
        return refuse(
            "limits.requests_per_second, limits.outstanding: at least 1, or no client could say anything",
        );
    }
    Ok(())
}

fn admin_door(raw: &Raw) -> Result<(), ConfigFailure> {
    let text = &raw.server.admin_listen;
    match text.parse::<std::net::SocketAddr>() {
        _ if text.is_empty() => Ok(()),
        Ok(address) if address.ip().is_loopback() => Ok(()),
        Ok(_) => refuse(format!(
            "server.admin_listen: {text} can be reached by others, and asks nobody who he is; use 127.0.0.1"
        )),
        Err(_) => refuse(format!(
            "server.admin_listen: {text:?} is no address and port, such as \"127.0.0.1:7172\""
        )),
    }
}

/// # Errors
/// That the address can be reached by others: without TLS, credentials and commands would travel in the clear.
fn public(raw: &Raw) -> Result<(), ConfigFailure> {
    let listen = raw.server.listen;
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let mut missing = Vec::new();
    if !raw.server.tls.is_on() && raw.server.trusted_proxies.is_empty() {
        missing.push("server.tls (or server.trusted_proxies, which speak TLS for it)");
    }
    if !raw.auth.is_configured() {
        missing.push("an [auth.token.NAME], [auth.jwt] or [auth.mtls.NAME] table");
    }
    if raw.server.hosts.is_empty() {
        missing.push("a name in server.hosts");
    }
    if !raw.policy.values().any(|policy| policy.enabled.unwrap_or(true)) {
        missing.push("a [policy.NAME] table that is enabled");
    }
    let identities = raw.tenant.values().any(|t| t.identity.is_some());
    if nix::unistd::geteuid().is_root() && !identities && raw.jobs.allow_root != Auto::Set(true) {
        missing.push("a [tenant.NAME.identity] for jobs to run as");
    }
    if missing.is_empty() {
        return Ok(());
    }
    refuse(format!(
        "server.listen: {listen} can be reached by others, and that needs {}; or listen on 127.0.0.1",
        missing.join(", ")
    ))
}

//! What is too little to serve anybody with, and names that nobody could ever send: refused, with what would do.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::audit;
use crate::config::raw::{JwtTable, Raw};
use crate::config::{Auto, ConfigFailure, Size, Time};
use crate::stream;

use super::refuse;

/// Shortest wait for what a peer is to do, and shortest time between pings: below, a slow line is taken for a dead one, and
/// pings for a flood.
const LEAST_TIME: Time = Time(Duration::from_millis(100));

/// Smallest message: below, hardly a command fits.
const LEAST_MESSAGE: Size = Size(1 << 10);

/// Smallest header block: what the HTTP library takes at least.
const LEAST_HEADER_BYTES: Size = Size(8 << 10);

/// Fewest headers: a browser's own, which come with every request of its.
const LEAST_HEADERS: usize = 20;

/// Least memory to be held below: the gateway has more than this resident before anybody has come.
const LEAST_MEMORY: Size = Size(24 << 20);

/// Smallest share of the decision log: its longest line.
const LEAST_SHARE: Size = Size(audit::MAX_LINE as u64);

/// Claims that are read for what they are, and are not there for anything else.
const REGISTERED: [&str; 5] = ["exp", "nbf", "iss", "aud", "jti"];

/// # Errors
/// The first key that is below its least value.
pub(super) fn numbers(raw: &Raw) -> Result<(), ConfigFailure> {
    let (limits, streams) = (&raw.limits, &raw.streams);
    for (key, time) in [
        ("limits.ping", limits.ping),
        ("limits.first_byte", limits.first_byte),
        ("limits.header_time", limits.header_time),
        ("limits.handshake", limits.handshake),
        ("streams.stall", streams.stall),
        ("jobs.gate", raw.jobs.gate),
    ] {
        if time < LEAST_TIME {
            return refuse(format!("{key}: {time} leaves nobody the time to answer; at least {LEAST_TIME}"));
        }
    }
    for (key, size, least) in [
        ("limits.message", limits.message, LEAST_MESSAGE),
        ("limits.header_bytes", limits.header_bytes, LEAST_HEADER_BYTES),
    ] {
        if size < least {
            return refuse(format!(
                "{key}: no client could make itself understood in {size}; at least {least}"
            ));
        }
    }
    for (key, number, least) in [
        ("limits.headers", limits.headers, LEAST_HEADERS),
        ("limits.connections", limits.connections, 1),
        ("limits.unauthenticated", limits.unauthenticated, 1),
        ("limits.rate_buckets", limits.rate_buckets, 1),
        ("breaker.failures", raw.breaker.failures, 1),
        ("policies.pool", raw.policies.pool.or(1), 1),
    ] {
        if number < least {
            return refuse(format!("{key}: with {number} nobody is served; at least {least}"));
        }
    }
    if let Auto::Set(memory) = limits.memory
        && memory < LEAST_MEMORY
    {
        return refuse(format!(
            "limits.memory: the gateway itself needs more than {memory}, and would admit nobody; at least {LEAST_MEMORY}, or \"auto\""
        ));
    }
    let share = raw.audit.tenant_per_minute;
    if share < LEAST_SHARE {
        return refuse(format!(
            "audit.tenant_per_minute: no decision fits into {share}, and every tenant would be refused; at least {LEAST_SHARE}"
        ));
    }
    rings(raw)
}

fn rings(raw: &Raw) -> Result<(), ConfigFailure> {
    let streams = &raw.streams;
    if streams.ring > streams.ring_max {
        return refuse(format!(
            "streams.ring: {} is more than streams.ring_max = {} lets a client ask for; lower it, or raise that",
            streams.ring, streams.ring_max
        ));
    }
    let bytes = |size: Size| u32::try_from(size.0).unwrap_or(u32::MAX);
    let settings = stream::Settings { stdin_bytes: bytes(streams.stdin), ..stream::Settings::default() };
    let job = settings.job(bytes(streams.ring));
    // Three quarters are one tenant's; a round number is easier to read.
    let least = Size((job.saturating_mul(4) / 3 / 1024 + 1) * 1024);
    if streams.budget < least {
        return refuse(format!(
            "streams.budget: no job fits into {}, for one takes {} and a tenant gets three quarters; at least {least}, or lower \
             streams.ring",
            streams.budget,
            Size(job)
        ));
    }
    Ok(())
}

/// # Errors
/// The first name that no `Host` and no `Origin` header could ever equal.
pub(super) fn names(raw: &Raw) -> Result<(), ConfigFailure> {
    for host in &raw.server.hosts {
        if let Some(why) = no_host(host) {
            return refuse(format!("server.hosts: {host:?} {why}"));
        }
    }
    for origin in &raw.server.origins {
        if !is_origin(origin) {
            return refuse(format!(
                "server.origins: {origin:?} is never sent by a browser, and would match nothing; write scheme and host in lower case, \
                 and the port unless it is the usual one, with nothing behind: \"https://console.example\""
            ));
        }
    }
    Ok(())
}

/// Why no request can name this host, and what to write.
fn no_host(host: &str) -> Option<&'static str> {
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if host.parse::<Ipv6Addr>().is_ok() || inside.is_some_and(|inside| inside.parse::<Ipv6Addr>().is_err()) {
        return Some("would match nothing; an IPv6 address stands in brackets, as in \"[2001:db8::1]\"");
    }
    let is_of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if inside.is_some() || (!host.is_empty() && host.bytes().all(is_of_name)) {
        return None;
    }
    Some("would match nothing; write the name alone, without scheme, port, path or \"*\": \"gate.example\"")
}

/// Whether a browser sends it like that (RFC 6454 section 6.2): a scheme, a host, and a port that is not the usual one.
fn is_origin(origin: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "://",
    };
    let is_of_scheme =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    let is_of_authority = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"/?#@*".contains(&b);
    !scheme.is_empty()
        && scheme.bytes().all(is_of_scheme)
        && !authority.is_empty()
        && authority.bytes().all(is_of_authority)
        && !authority.ends_with(usual)
}

/// # Errors
/// The first key that names a claim which is never there to be shown.
pub(super) fn claims(jwt: &JwtTable) -> Result<(), ConfigFailure> {
    let named = [
        ("tenant_claim", &jwt.tenant_claim),
        ("subject_claim", &jwt.subject_claim),
        ("groups_claim", &jwt.groups_claim),
    ];
    let named = named.into_iter().filter_map(|(key, claim)| Some((key, claim.as_ref()?)));
    let shown = jwt.attributes.iter().map(|claim| ("attributes", claim));
    match named.chain(shown).find(|(_, claim)| REGISTERED.contains(&claim.as_str())) {
        None => Ok(()),
        Some((key, claim)) => refuse(format!(
            "auth.jwt.{key}: {claim:?} says when and for whom a token is good, and is empty here; name a claim about its bearer"
        )),
    }
}

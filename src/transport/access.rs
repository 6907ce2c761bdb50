//! `Host` and `Origin`: which names this server answers to, and which pages may speak to it.
//!
//! A foreign `Host` is how DNS rebinding shows; a foreign `Origin` is how a page on another site shows (RFC 6455
//! section 10.2). An absent `Origin` is fine: only browsers send one.

use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::proxy::Network;

/// Names this server answers to, pages that may speak to it, and proxies whose word is taken. Replaced whole by a reload.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Origins that browsers may connect from, besides the host they were served from.
    pub origins: Vec<String>,
    /// Names this server answers to, besides loopback names when it listens on loopback.
    pub hosts: Vec<String>,
    /// It listens on loopback only.
    pub loopback: bool,
    /// It speaks TLS itself.
    pub tls: bool,
    /// Peers whose `X-Forwarded-For` is believed.
    pub proxies: Vec<Network>,
    /// Whether anybody but a trusted proxy may speak without TLS.
    pub plain_only_from_proxies: bool,
}

impl Names {
    /// Whether a trusted proxy may be on this host.
    pub fn trusts_loopback(&self) -> bool {
        self.proxies.iter().any(Network::holds_loopback)
    }
}

/// Why a request was turned away: the status and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

fn refused(status: StatusCode, message: impl Into<String>) -> Refused {
    Refused { status, message: message.into() }
}

/// Checks `Host` and `Origin`.
///
/// # Errors
/// 421 for a name this server does not answer to, 403 for a page that may not speak to it.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, names: &Names) -> Result<(), Refused> {
    let authority = host(headers, uri)?;
    if !answers_to(name_of(&authority), names) {
        let message = format!("this server does not answer to {authority:?}; add the name to server.hosts");
        return Err(refused(StatusCode::MISDIRECTED_REQUEST, message));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    if origins.next().is_some() || !may_speak(origin, &authority, names) {
        let message = format!("pages from {origin:?} may not connect; add the origin to server.origins");
        return Err(refused(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

fn host(headers: &HeaderMap, uri: &Uri) -> Result<String, Refused> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|v| v.to_str().ok());
    if hosts.next().is_some() {
        return Err(refused(StatusCode::BAD_REQUEST, "more than one Host header"));
    }
    let authority = uri.authority().map(|a| a.as_str()).or(host);
    let authority = authority
        .filter(|a| !a.is_empty())
        .ok_or_else(|| refused(StatusCode::BAD_REQUEST, "the Host header is missing"))?;
    // What stands before an @ is a name and a password (RFC 9110 section 4.2.4), and not to be repeated to anybody.
    if authority.contains('@') {
        let message = "credentials in an address end up in logs; send a token as `Authorization: Bearer`";
        return Err(refused(StatusCode::BAD_REQUEST, message));
    }
    Ok(authority.to_ascii_lowercase())
}

/// The authority without its port; an IPv6 address keeps its brackets.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => authority,
    }
}

fn answers_to(name: &str, names: &Names) -> bool {
    let loopback = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    (names.loopback && loopback) || names.hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
}

/// Exactly the origin this page was served from, or exactly one on the list.
fn may_speak(origin: &str, authority: &str, names: &Names) -> bool {
    // Whoever is on the way can make a page of http://HOST. Without TLS of our own a proxy may speak it for us.
    let schemes: &[&str] = if names.tls { &["https://"] } else { &["https://", "http://"] };
    schemes.iter().any(|scheme| origin.strip_prefix(scheme) == Some(authority))
        || names.origins.iter().any(|allowed| allowed == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            origins: vec!["https://console.example".to_owned()],
            hosts: vec!["gate.example".to_owned()],
            loopback: true,
            ..Names::default()
        }
    }

    fn status(host: Option<&str>, origin: Option<&str>) -> u16 {
        status_of(&names(), host, origin)
    }

    fn status_of(names: &Names, host: Option<&str>, origin: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        check(&headers, &Uri::from_static("/v1/ws"), names).map_or_else(|r| r.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_foreign_host_is_misdirected() {
        for host in ["localhost:7171", "127.0.0.1", "[::1]:7171", "gate.example", "GATE.example:443"] {
            assert_eq!(status(Some(host), None), 200, "{host}");
        }
        for host in ["evil.example", "gate.example.evil", "127.0.0.1.evil.example", "127.0.0.2"] {
            assert_eq!(status(Some(host), None), 421, "{host}");
        }
        assert_eq!(status(None, None), 400);
        assert_eq!(status(Some("ada:abc@localhost"), None), 400);
    }

    #[test]
    fn a_plain_page_of_the_same_name_is_foreign_where_tls_is_spoken() {
        for (tls, plain) in [(true, 403), (false, 200)] {
            let of = |origin| status_of(&Names { tls, ..names() }, Some("gate.example"), Some(origin));
            assert_eq!((of("https://gate.example"), of("http://gate.example")), (200, plain), "TLS: {tls}");
            assert_eq!((of("https://console.example"), of("http://console.example")), (200, 403));
        }
        let listed = Names { tls: true, origins: vec!["http://gate.example".to_owned()], ..names() };
        assert_eq!(status_of(&listed, Some("gate.example"), Some("http://gate.example")), 200);
    }

    #[test]
    fn an_origin_must_be_exactly_this_host_or_listed() {
        for origin in ["http://localhost:7171", "https://console.example"] {
            assert_eq!(status(Some("localhost:7171"), Some(origin)), 200, "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://localhost:7172",
            "http://localhost",
            "http://localhost:7171.evil.example",
            "HTTPS://console.example",
            "https://console.example.evil",
            "https://console.example:443",
        ] {
            assert_eq!(status(Some("localhost:7171"), Some(origin)), 403, "{origin}");
        }
    }
}

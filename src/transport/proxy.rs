//! Trusted proxies: whose word about the client's address is taken.
//!
//! `X-Forwarded-For` is read from the right, for each proxy adds the peer it saw; the first address that is no trusted
//! proxy's is the client's. From anybody else the header means nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

/// The header (conventional).
const FORWARDED: &str = "x-forwarded-for";

/// Most addresses of the header that are looked at: a longer way is none that a request takes.
const MOST_HOPS: usize = 16;

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// From `10.0.0.0/8`, `2001:db8::/32`, or one address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse().ok()?, Some(prefix.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let prefix: u8 = prefix.unwrap_or(most);
        let network = (prefix <= most).then_some(Self { address, prefix })?;
        // Peers are compared as what they are, and so are networks: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
        Some(match (address.to_canonical(), prefix.checked_sub(96)) {
            (address @ IpAddr::V4(_), Some(prefix)) if most == 128 => Self { address, prefix },
            _ => network,
        })
    }

    /// Whether a loopback address is in it.
    pub(super) fn holds_loopback(&self) -> bool {
        let usual = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        self.address.to_canonical().is_loopback() || usual.iter().any(|address| self.contains(*address))
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u32| {
            let drop = bits - u32::from(self.prefix);
            a.checked_shr(drop).unwrap_or(0) == b.checked_shr(drop).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Whether the address is a trusted proxy's.
pub(super) fn is_trusted(address: IpAddr, proxies: &[Network]) -> bool {
    proxies.iter().any(|network| network.contains(address))
}

/// The client's address: the peer's own, unless a trusted proxy names another.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let mut client = peer;
    // As bytes: a client may put what is no text in front of what a proxy appends, and must not take that away by it.
    let values = headers.get_all(FORWARDED).iter().rev();
    let hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(MOST_HOPS) {
        if !is_trusted(client, proxies) {
            break;
        }
        // What is no address was said by nobody we trust to say one: the proxy that passed it on stands for it.
        let Some(address) = address_of(hop) else { break };
        client = address;
    }
    client
}

/// An address as proxies write it: alone, or with the port the client spoke from.
fn address_of(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let alone = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    alone.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen<V: AsRef<[u8]>>(peer: &str, forwarded: &[V]) -> String {
        let proxies = [Network::parse("10.0.0.0/8").unwrap(), Network::parse("::1").unwrap()];
        let mut headers = HeaderMap::new();
        forwarded.iter().for_each(|value| {
            headers.append(FORWARDED, HeaderValue::from_bytes(value.as_ref()).unwrap());
        });
        client(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn only_a_listed_peer_may_name_another_client() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.9"]), "192.0.2.1");
        assert_eq!(seen("10.1.2.3", &["198.51.100.9"]), "198.51.100.9");
        assert_eq!(seen::<&str>("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn what_the_client_put_in_front_is_not_believed() {
        assert_eq!(seen("10.1.2.3", &["127.0.0.1, 198.51.100.9, 10.9.9.9"]), "198.51.100.9");
        assert_eq!(seen("10.1.2.3", &["203.0.113.1", "198.51.100.9"]), "198.51.100.9");
        assert_eq!(seen("10.1.2.3", &["evil, 198.51.100.9"]), "198.51.100.9");
        assert_eq!(seen("10.1.2.3", &["198.51.100.9, evil"]), "10.1.2.3");
        assert_eq!(seen("::1", &["2001:db8::7"]), "2001:db8::7");
    }

    #[test]
    fn what_is_no_text_takes_nothing_away_from_what_the_proxy_appended() {
        let spoilt: &[u8] = b"\xe9, 203.0.113.7";
        assert_eq!(seen("10.1.2.3", &[spoilt]), "203.0.113.7");
        assert_eq!(seen("10.1.2.3", &[b"10.9.9.9", spoilt]), "203.0.113.7");
        assert_eq!(seen("10.1.2.3", &[spoilt, b"10.9.9.9"]), "203.0.113.7");
        assert_eq!(seen("10.1.2.3", &[b"198.51.100.9", &b"\xe9"[..]]), "10.1.2.3");
        assert_eq!(seen("10.1.2.3", &[b"198.51.100.9", &b"203.0.113.7\xe9"[..]]), "10.1.2.3");
    }

    #[test]
    fn an_address_may_come_with_its_port() {
        assert_eq!(seen("10.1.2.3", &["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(seen("10.1.2.3", &["203.0.113.7:4711, 10.9.9.9:80"]), "203.0.113.7");
        assert_eq!(seen("::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(seen("::1", &["[2001:db8::7]"]), "2001:db8::7");
        for wrong in
            ["203.0.113.7:", "203.0.113.7:99999", "[203.0.113.7", "[2001:db8::7]x", "unknown", "_hidden"]
        {
            assert_eq!(seen("10.1.2.3", &[wrong]), "10.1.2.3", "{wrong}");
        }
    }

    #[test]
    fn a_network_is_an_address_and_a_prefix() {
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "example.org"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("203.0.113.9".parse().unwrap()));
        assert!(!Network::parse("203.0.113.8").unwrap().contains("203.0.113.9".parse().unwrap()));
        assert!(Network::parse("10.0.0.0/8").unwrap().contains("::ffff:10.1.1.1".parse().unwrap()));
        for mapped in ["::ffff:10.0.0.0/104", "::ffff:10.1.1.1"] {
            let mapped = Network::parse(mapped).unwrap();
            for address in ["10.1.1.1", "::ffff:10.1.1.1"] {
                assert!(mapped.contains(address.parse().unwrap()), "{address} in {mapped:?}");
            }
            assert!(!mapped.contains("11.1.1.1".parse().unwrap()));
        }
    }
}

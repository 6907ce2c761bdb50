//! Identifiers: opaque, server-made, 128 random bits each.
//!
//! An id is `prefix_` and 32 lower-case hex digits; anything else is not an id. Randomness comes from the
//! caller, so that this room stays free of IO.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The text is not an id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// Makes the id from 128 random bits.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{:032x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let digits = text.strip_prefix(concat!($prefix, "_")).ok_or(NotAnId)?;
                parse_hex(digits).map(Self)
            }
        }
    };
}

id!(
    /// A session, as clients name it.
    SessionId,
    "s"
);
id!(
    /// A job, as clients name it.
    JobId,
    "j"
);
id!(
    /// One decision of the policies: carried in the result, the error, the log and the span.
    DecisionId,
    "d"
);
id!(
    /// One WebSocket connection. Never leaves the server except in logs.
    ConnectionId,
    "c"
);

fn parse_hex(digits: &str) -> Result<u128, NotAnId> {
    let exact = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !exact {
        return Err(NotAnId);
    }
    u128::from_str_radix(digits, 16).map_err(|_| NotAnId)
}

/// Names one request in every answer and log line: the client's own if well-formed, else made here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Longest request id taken from a client, in bytes.
    pub const MAX: usize = 128;

    /// Makes an id from 128 random bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(format!("r_{bits:032x}").into())
    }

    /// Takes the client's id when it is 1..=128 bytes of `[A-Za-z0-9._:/+=-]`.
    pub fn from_client(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/+=-".contains(&b);
        let well_formed = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(allowed);
        well_formed.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        let id = JobId::from_bits(0x2a);
        assert_eq!(id.to_string(), "j_0000000000000000000000000000002a");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn near_misses_are_not_ids() {
        for text in [
            "",
            "j_",
            "s_0000000000000000000000000000002a",
            "j_0000000000000000000000000000002A",
            "j_+000000000000000000000000000002a",
            "j_0000000000000000000000000000002a0",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(NotAnId), "{text:?}");
        }
    }

    #[test]
    fn a_request_id_from_a_client_must_be_well_formed() {
        assert!(RequestId::from_client("abc-1.2:3").is_some());
        for text in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(RequestId::from_client(text).is_none(), "{text:?}");
        }
    }
}

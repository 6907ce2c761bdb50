//! Who calls, and from where.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The authenticated caller. Sessions belong to its (tenant, subject).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Tenant name, `[a-z0-9-]{1,63}`.
    pub tenant: Arc<str>,
    /// Subject within the tenant.
    pub subject: Arc<str>,
    /// Groups the credential names, in its order.
    pub groups: Vec<Arc<str>>,
    /// Further facts the credential carries; free-form, for policies.
    pub attributes: BTreeMap<String, String>,
    /// What beyond its own sessions the caller may see and end.
    pub authority: Authority,
}

impl Principal {
    /// Longest subject, bytes.
    pub const MAX_SUBJECT: usize = 256;

    /// Whether the text can be a subject: 1 to [`Self::MAX_SUBJECT`] bytes, none of which ends a line or steers a terminal, for it is
    /// shown among others.
    pub fn is_subject(text: &str) -> bool {
        (1..=Self::MAX_SUBJECT).contains(&text.len()) && !text.contains(char::is_control)
    }

    /// Whether both name the same owner of sessions: same tenant and same subject.
    pub fn is_same_owner(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.subject == other.subject
    }

    /// Whether `self` may list, observe and kill what `owner` owns.
    pub fn may_administer(&self, owner: &Self) -> bool {
        match self.authority {
            Authority::Admin => true,
            Authority::TenantAdmin => self.tenant == owner.tenant,
            Authority::Caller => false,
        }
    }
}

/// How far the caller's sight goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Its own sessions only.
    Caller,
    /// Every session of its tenant: may list, observe and kill.
    TenantAdmin,
    /// Every session, and the admin methods.
    Admin,
}

/// Where a request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The peer's address, after trusted proxies.
    pub address: IpAddr,
    /// How it speaks to us.
    pub transport: Transport,
}

/// The way a request reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// JSON-RPC over a WebSocket.
    WebSocket,
    /// One HTTP request.
    Http,
}

impl Transport {
    /// The word policies and logs see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
        }
    }
}

//! Everything a gateway is built from: the settings of each room.

use std::net::SocketAddr;
use std::time::Duration;

use crate::transport::Credential;
use crate::{audit, policy, quota, session, transport, warden};

/// The settings of each room, and what belongs to none.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Who may connect.
    pub credentials: Vec<Credential>,
    /// Refuse to start where containment is best effort.
    pub require_exact: bool,
    /// From the signal to TERM for the jobs.
    pub drain_grace: Duration,
    /// The rooms' own.
    pub policy: policy::Settings,
    /// The rooms' own.
    pub quota: quota::Settings,
    /// The rooms' own.
    pub warden: warden::Settings,
    /// The rooms' own.
    pub audit: audit::Settings,
    /// The rooms' own.
    pub session: session::Settings,
    /// The rooms' own.
    pub transport: transport::Settings,
}

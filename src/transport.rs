//! HTTP and WebSocket: who may connect, and the two halves of each socket.
//!
//! ```text
//! accept ──first byte, headers──> router ──host, credential, origin──> upgrade ──> reader ══ one task, owns reading
//!                                                                          └──> writer ══ one task, owns writing
//! ```
//!
//! The reader decodes and answers; it never writes. The writer alone writes, and never waits for the reader. Both
//! end when either does. Everything a client sends is bounded before it is built, and everything sent to a client is
//! either an answer to one of its bounded outstanding requests or is read from a ring when the socket has room.
//!
//! The only room that knows axum and hyper.

mod access;
mod auth;
mod body;
mod caller;
mod connection;
mod crowd;
mod dispatch;
mod doorstep;
mod exec;
mod follower;
mod fragments;
mod health;
mod jobs;
mod listener;
mod metrics;
mod patience;
mod proxy;
mod reader;
mod refusal;
mod router;
mod sessions;
mod tickets;
mod tls;
mod upgrade;
mod views;
mod writer;

pub use access::Names;
pub use auth::{
    Access, Authorities, CertificateName, Credential, Credentials, Jwt, JwtKey, KeyFailure, OnExpiry, Roles,
    TenantOf, TokenDigest,
};
pub use crowd::Crowd;
pub use health::{Components, Health, Pulse};
pub use listener::{Bound, Door, bind};
pub use metrics::Render;
pub use proxy::Network;
pub use router::Gateway;
pub use tls::{Pem, Tls, TlsFailure, TlsFiles, load as load_tls};
pub use tokio_rustls::rustls::ServerConfig;

use std::time::Duration;

/// Bounds and names of the front door.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most connections at once; each costs a task pair and its buffers.
    pub max_connections: usize,
    /// Most of them that have not yet shown who they are; one too many shows out the one that waited longest. At most half.
    pub max_unauthenticated: usize,
    /// From accept to the first byte: a silent peer holds a place.
    pub first_byte: Duration,
    /// From the first byte, or the answer before it, to the end of a request's headers (slowloris).
    pub headers: Duration,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// Largest header block, bytes.
    pub max_header_bytes: usize,
    /// Most headers.
    pub max_headers: usize,
    /// Largest message from a client, bytes.
    pub max_message: usize,
    /// Requests being answered on one connection.
    pub max_outstanding: usize,
    /// Requests a second on one connection, sustained; bursts of twice as many pass.
    pub requests_per_second: u32,
    /// Between two pings.
    pub ping_every: Duration,
    /// A peer that shows no sign of life for this long is gone.
    pub dead_after: Duration,
    /// A viewer without a window that takes nothing for this long is ended, and so is a peer that takes none of its HTTP answer.
    pub stall: Duration,
    /// Kernel send buffer of each socket, bytes: small, so that an interrupt acts at once under a flood.
    pub send_buffer: usize,
    /// Largest stream payload of one frame, bytes.
    pub frame: usize,
}

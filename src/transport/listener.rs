//! Accepting sockets, with the time limits that a plain HTTP server does not have.
//!
//! A peer has `first_byte` to say anything and `headers` to finish its headers; the number of connections is bounded, as is
//! that of those who have not yet shown who they are. When file descriptors run out, one that is kept in reserve is given
//! up for long enough to take waiting peers in and turn them away: they see the end at once instead of silence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use futures_util::FutureExt as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Names;
use super::auth::Certificate;
use super::caller::Peer;
use super::doorstep::{Doorstep, Guest};
use super::{Settings, Tls, proxy};

/// Pause after a failed accept: long enough for a descriptor to come free, short enough not to be felt.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; the kernel drops what is beyond.
const BACKLOG: u32 = 1024;

/// Least time between two lines about failing accepts.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// A peer that neither acknowledges nor answers the kernel's probes is gone after about `dead_after`: so many probes.
const PROBES: u32 = 4;

/// How a door of the server is kept.
#[derive(Debug, Clone)]
pub struct Door {
    /// Bounds.
    pub settings: Arc<Settings>,
    /// Whose plain text is listened to.
    pub names: Arc<ArcSwap<Names>>,
    /// TLS, where it is spoken.
    pub tls: Option<Arc<Tls>>,
    /// Who comes in here sees what admins see of health and metrics.
    pub admin: bool,
}

/// A bound listener.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Binds the address.
///
/// # Errors
/// What the kernel says: in use, not ours, not permitted.
pub fn bind(address: SocketAddr) -> std::io::Result<Bound> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

impl Bound {
    /// Serves until `stop`; connections already open live on. Owned by the server; the tasks of the connections are
    /// the tracker's.
    pub async fn serve(self, router: Router, door: Door, tracker: TaskTracker, stop: CancellationToken) {
        let step = Doorstep::new(door.settings.max_connections, door.settings.max_unauthenticated);
        let mut shortage = Shortage::new();
        for number in 0.. {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    shortage.relieve(&self.listener, &error);
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(guest) = step.arrive(number) else {
                ::metrics::counter!("execgate_connections_refused_total", "why" => "full").increment(1);
                tracing::debug!(%peer, "no place for another connection");
                continue;
            };
            let (router, door) = (router.clone(), door.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = door.converse(socket, peer, router, guest.clone()) => {}
                    () = guest.shown_out() => tracing::debug!(%peer, "shown out: too many have not said who they are"),
                }
            });
        }
    }
}

/// What is done while descriptors are short.
struct Shortage {
    /// Held so that it can be given up; `None` when it could not be had back yet.
    reserve: Option<std::fs::File>,
    complained: Option<Instant>,
    shed: u64,
}

impl Shortage {
    fn new() -> Self {
        Self { reserve: reserve(), complained: None, shed: 0 }
    }

    /// Turns waiting peers away with the reserve, when descriptors are what is short.
    fn relieve(&mut self, listener: &TcpListener, error: &std::io::Error) {
        let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
        if matches!(errno, Some(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE)) {
            self.reserve = None;
            for _ in 0..BACKLOG {
                let Some(Ok(turned_away)) = listener.accept().now_or_never() else { break };
                drop(turned_away);
                self.shed += 1;
            }
            self.reserve = reserve();
        }
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(%error, shed = self.shed, "accept failed; trying again");
        }
    }
}

fn reserve() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

impl Door {
    /// Speaks with one peer until it is upgraded, done or late.
    async fn converse(&self, socket: TcpStream, peer: SocketAddr, router: Router, guest: Guest) {
        let router = router.layer(axum::Extension(ConnectInfo(peer))).layer(axum::Extension(guest));
        let settings = &self.settings;
        if timeout(settings.first_byte, socket.readable()).await.is_err() || !self.may_speak_plainly(peer) {
            return;
        }
        tune(&socket, settings);
        let Some(tls) = &self.tls else {
            return speak(socket, peer, self.peer(None), router, settings).await;
        };
        match timeout(settings.handshake, tls.acceptor().accept(socket)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.and_then(|der| Certificate::read(der)).map(Arc::new);
                speak(stream, peer, self.peer(certificate), router, settings).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    fn peer(&self, certificate: Option<Arc<Certificate>>) -> Peer {
        Peer { certificate, admin_door: self.admin }
    }

    /// Without TLS on an address that others can reach, only a trusted proxy, which speaks TLS for us, is listened to:
    /// anybody else would send a credential in the clear.
    fn may_speak_plainly(&self, peer: SocketAddr) -> bool {
        let names = self.names.load();
        let spoken = self.admin || self.tls.is_some() || !names.plain_only_from_proxies;
        let may = spoken || proxy::is_trusted(peer.ip(), &names.proxies);
        if !may {
            tracing::debug!(%peer, "no trusted proxy, and this address speaks no TLS");
        }
        may
    }
}

/// Speaks HTTP on a socket or within TLS.
async fn speak<S>(stream: S, peer: SocketAddr, known: Peer, router: Router, settings: &Settings)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = router.layer(axum::Extension(known));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.headers)
        .max_buf_size(settings.max_header_bytes)
        .max_headers(settings.max_headers)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// No delay, a small send buffer, and probes by the kernel, so that a peer that vanished without a word is noticed even
/// where nothing is sent to it. A peer that is gone already makes these fail, and the next step says so.
fn tune(socket: &TcpStream, settings: &Settings) {
    use rustix::net::sockopt;
    let _ = socket.set_nodelay(true);
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::SndBuf, &settings.send_buffer);
    let half = (settings.dead_after / 2).max(Duration::from_secs(2));
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, half);
    let _ = sockopt::set_tcp_keepintvl(socket, (half / PROBES).max(Duration::from_secs(1)));
    let _ = sockopt::set_tcp_keepcnt(socket, PROBES);
}

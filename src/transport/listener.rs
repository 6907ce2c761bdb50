//! Accepting sockets, with the time limits that a plain HTTP server does not have.
//!
//! A peer has `first_byte` to say anything, `headers` to ask the next thing, and `stall` to take some of what it is answered;
//! the number of connections is bounded, as is that of those who have not yet shown who they are. When file descriptors run out, one that is kept in reserve is given
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
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::{Failure, Whose};

use super::access::Names;
use super::auth::Certificate;
use super::caller::Peer;
use super::doorstep::{Doorstep, Guest};
use super::patience::Patient;
use super::router::fresh_request_id;
use super::{Settings, Tls, proxy, refusal};

/// Pause after a failed accept: long enough for a descriptor to come free, short enough not to be felt.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; the kernel drops what is beyond.
const BACKLOG: u32 = 1024;

/// Least time between two lines about failing accepts.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// A peer that neither acknowledges nor answers the kernel's probes is gone after about `dead_after`: so many probes.
const PROBES: u32 = 4;

/// Peers that are told at the same time that there is no place for them; beyond, the socket is closed without a word.
const MOST_TURNED_AWAY: usize = 32;

/// How long telling one may take.
const TURNING_AWAY: Duration = Duration::from_secs(1);

/// How a door of the server is kept.
#[derive(Debug, Clone)]
pub struct Door {
    /// Bounds; a reload changes them for those who come after it.
    pub settings: Arc<ArcSwap<Settings>>,
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
        let step = Arc::new(Doorstep::default());
        let farewells = Arc::new(Semaphore::new(MOST_TURNED_AWAY));
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
            let bounds = door.settings.load();
            let Some(guest) = step.arrive(number, bounds.max_connections, bounds.max_unauthenticated) else {
                ::metrics::counter!("execgate_connections_refused_total", "why" => "full").increment(1);
                tracing::debug!(%peer, "no place for another connection");
                if let Ok(permit) = farewells.clone().try_acquire_owned() {
                    let door = door.clone();
                    tracker.spawn(async move {
                        // Whoever is slow to hear it has heard enough.
                        let _ = timeout(TURNING_AWAY, door.turn_away(socket, peer)).await;
                        drop(permit);
                    });
                }
                continue;
            };
            drop(bounds);
            let (router, door, stop) = (router.clone(), door.clone(), stop.clone());
            tracker.spawn(async move {
                tokio::select! {
                    () = door.converse(socket, peer, router, guest.clone(), &stop) => {}
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
    async fn converse(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        router: Router,
        guest: Guest,
        stop: &CancellationToken,
    ) {
        let router = router.layer(axum::Extension(ConnectInfo(peer))).layer(axum::Extension(guest));
        let settings = &*self.settings.load_full();
        // A server that shuts down waits for nobody who has asked for nothing.
        let spoke = stop.run_until_cancelled(timeout(settings.first_byte, socket.peek(&mut [0]))).await;
        if !matches!(spoke, Some(Ok(_))) || !self.may_speak_plainly(peer) {
            return;
        }
        tune(&socket, settings);
        let (socket, waits) = Patient::new(socket);
        tokio::select! {
            () = self.answer(socket, peer, router, settings, stop) => {}
            () = waits.too_long(settings.stall) => {
                ::metrics::counter!("execgate_viewers_stalled_total").increment(1);
                tracing::info!(%peer, "takes none of its answers: ending the connection");
            }
        }
    }

    /// Answers what is asked, within TLS where that is spoken.
    async fn answer(
        &self,
        socket: Patient,
        peer: SocketAddr,
        router: Router,
        settings: &Settings,
        stop: &CancellationToken,
    ) {
        let Some(tls) = &self.tls else {
            return speak(socket, peer, self.peer(None), router, settings, stop).await;
        };
        let shaken = timeout(settings.handshake, tls.acceptor().accept(socket));
        match stop.run_until_cancelled(shaken).await {
            None => {}
            Some(Ok(Ok(stream))) => {
                let shown = stream.get_ref().1.peer_certificates();
                let certificate = shown.and_then(Certificate::read).map(Arc::new);
                speak(stream, peer, self.peer(certificate), router, settings, stop).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "no TLS handshake"),
            Some(Err(_)) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    /// Tells a peer there is no place for that it is so, once it has asked for something: 503 with Retry-After. Without
    /// that it would see a reset, and take the server for broken.
    async fn turn_away(&self, socket: TcpStream, peer: SocketAddr) {
        if !self.may_speak_plainly(peer) {
            return;
        }
        let most = self.settings.load().max_connections;
        let full = Failure::LimitExceeded {
            whose: Whose::Server,
            limit: "connections of the server".to_owned(),
            value: u64::try_from(most).unwrap_or(u64::MAX),
        };
        let answer = refusal::raw(&full, &fresh_request_id());
        // A peer that is gone needs no answer.
        let _ = match &self.tls {
            None => say(socket, &answer).await,
            Some(tls) => match tls.acceptor().accept(socket).await {
                Ok(stream) => say(stream, &answer).await,
                Err(error) => Err(error),
            },
        };
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

/// Answers whatever is asked by this, and reads on to the end: closing over unread bytes would reset the socket, and the
/// reset overtake the answer.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) -> std::io::Result<()> {
    let mut asked = [0; 4096];
    if stream.read(&mut asked).await? == 0 {
        return Ok(());
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut asked).await? > 0 {}
    Ok(())
}

/// Speaks HTTP on a socket or within TLS. Once the server stops, a connection that is kept alive between two requests ends.
async fn speak<S>(
    stream: S,
    peer: SocketAddr,
    known: Peer,
    router: Router,
    settings: &Settings,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = router.layer(axum::Extension(known));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.headers)
        .max_buf_size(settings.max_header_bytes)
        .max_headers(settings.max_headers)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
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

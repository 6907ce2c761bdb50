//! Accepting sockets, with the time limits that a plain HTTP server does not have.
//!
//! A peer has `first_byte` to say anything and `headers` to finish its headers; the number of connections is bounded;
//! running out of file descriptors delays accepting and ends nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Names;
use super::auth::Certificate;
use super::caller::Peer;
use super::{Settings, Tls, proxy};

/// Pause after a failed accept: long enough for a descriptor to come free, short enough not to be felt.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; the kernel drops what is beyond.
const BACKLOG: u32 = 1024;

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
        let places = Arc::new(Semaphore::new(door.settings.max_connections));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed; trying again");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                ::metrics::counter!("execgate_connections_refused_total", "why" => "full").increment(1);
                tracing::debug!(%peer, "no place for another connection");
                continue;
            };
            let (router, door) = (router.clone(), door.clone());
            let place = Place(Arc::new(place));
            tracker.spawn(async move { door.converse(socket, peer, router, place).await });
        }
    }
}

/// A connection's place among all of them. Handed to whoever goes on with the socket after an upgrade.
#[derive(Debug, Clone)]
pub(super) struct Place(#[expect(dead_code, reason = "it counts by being held")] Arc<OwnedSemaphorePermit>);

impl Door {
    /// Speaks with one peer until it is upgraded, done or late.
    async fn converse(&self, socket: TcpStream, peer: SocketAddr, router: Router, place: Place) {
        let router = router.layer(axum::Extension(ConnectInfo(peer))).layer(axum::Extension(place));
        let settings = &self.settings;
        if timeout(settings.first_byte, socket.readable()).await.is_err() || !self.may_speak_plainly(peer) {
            return;
        }
        // The two options make things quicker; a peer that is gone already makes them fail, and the next step says so.
        let _ = socket.set_nodelay(true);
        let _ =
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &settings.send_buffer);
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

//! Accepting sockets, with the time limits that a plain HTTP server does not have.
//!
//! A peer has `first_byte` to say anything and `headers` to finish its headers; the number of connections is bounded;
//! running out of file descriptors delays accepting and ends nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;

/// Pause after a failed accept: long enough for a descriptor to come free, short enough not to be felt.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; the kernel drops what is beyond.
const BACKLOG: u32 = 1024;

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
    pub async fn serve(
        self,
        router: Router,
        settings: Arc<Settings>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(settings.max_connections));
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
                tracing::debug!(%peer, "no place for another connection");
                continue;
            };
            let (router, settings) = (router.clone(), settings.clone());
            let place = Place(Arc::new(place));
            tracker.spawn(async move { converse(socket, peer, router, &settings, place).await });
        }
    }
}

/// A connection's place among all of them. Handed to whoever goes on with the socket after an upgrade.
#[derive(Debug, Clone)]
pub(super) struct Place(#[expect(dead_code, reason = "it counts by being held")] Arc<OwnedSemaphorePermit>);

/// Speaks HTTP with one peer until it is upgraded, done or late.
async fn converse(socket: TcpStream, peer: SocketAddr, router: Router, settings: &Settings, place: Place) {
    if timeout(settings.first_byte, socket.readable()).await.is_err() {
        return;
    }
    // The two options make things quicker; a peer that is gone already makes them fail, and the next step says so.
    let _ = socket.set_nodelay(true);
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &settings.send_buffer);
    let service = TowerToHyperService::new(
        router.layer(axum::Extension(ConnectInfo(peer))).layer(axum::Extension(place)),
    );
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.headers)
        .max_buf_size(settings.max_header_bytes)
        .max_headers(settings.max_headers)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

//! A socket whose peer may not read.
//!
//! The HTTP library waits for ever until an answer is taken. So the socket, below TLS, where what the kernel took is seen, notes
//! since when it takes nothing; who speaks HTTP on it watches that. Once it is a WebSocket nobody does: one whose viewers have
//! windows may stall for as long as it lives.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A socket that notes since when a write waits.
#[derive(Debug)]
pub(super) struct Patient {
    socket: TcpStream,
    waits: watch::Sender<Option<Instant>>,
}

/// Since when the peer has taken nothing of what is written to it; `None` while nothing waits.
#[derive(Debug)]
pub(super) struct Waits(watch::Receiver<Option<Instant>>);

impl Patient {
    /// The socket, and what is known of its peer.
    pub(super) fn new(socket: TcpStream) -> (Self, Waits) {
        let (waits, watched) = watch::channel(None);
        (Self { socket, waits }, Waits(watched))
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        self.waits.send_if_modified(|since| {
            let waits = written.is_pending();
            let changed = waits != since.is_some();
            if changed {
                *since = waits.then(Instant::now);
            }
            changed
        });
    }
}

impl Waits {
    /// Completes when the peer has taken nothing for this long.
    pub(super) async fn too_long(mut self, most: Duration) {
        loop {
            let since = *self.0.borrow_and_update();
            let over = async {
                match since {
                    Some(since) => sleep(most.saturating_sub(since.elapsed())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                // A socket that is gone keeps nobody waiting.
                changed = self.0.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

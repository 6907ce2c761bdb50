//! One WebSocket: its two halves, what they share, and how it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::domain::ConnectionId;
use crate::session::{Caller, Core, Job, Leash, Link, Session};

use crate::stream::{View, ViewKind};

use super::Settings;
use super::auth::Standing;
use super::follower::Follower;
use super::reader::Reader;
use super::router::Gateway;
use super::upgrade::Socket;
use super::writer::{Followers, Out, Writer};

/// How long the writer may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// How stream data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// In binary frames.
    Binary,
    /// Inside JSON.
    Json,
}

/// What both halves of a socket share.
pub(super) struct Connection {
    pub(super) core: Arc<Core>,
    pub(super) settings: Arc<Settings>,
    pub(super) caller: Caller,
    pub(super) plane: Plane,
    pub(super) link: Arc<Link>,
    /// Wakes the writer.
    pub(super) wake: Arc<Notify>,
    pub(super) followers: Followers,
    /// The session of calls that name none, made by the first of them, and anew when it has ended by itself or was taken over.
    // Held while the session is opened, on purpose: concurrent calls wait for it.
    pub(super) default_session: AsyncMutex<Option<Arc<Session>>>,
    pub(super) life: Life,
    /// Ends both halves.
    pub(super) cancel: CancellationToken,
    /// What a half ended the connection for.
    failed: OnceLock<Close>,
}

/// How a connection closes whose credential stands no more.
pub(super) const UNAUTHENTICATED: Close = (4003, "the credential expired or was revoked");

/// The code and reason a connection closes with (RFC 6455 section 7.4).
pub(super) type Close = (u16, &'static str);

/// When the peer last showed that it lives.
#[derive(Debug)]
pub(super) struct Life {
    start: Instant,
    last_ms: AtomicU64,
}

impl Life {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    /// It does.
    pub(super) fn touch(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(super) fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

impl Connection {
    /// Ends the connection for this; the first reason stands.
    pub(super) fn fail(&self, close: Close) {
        // A second reason changes nothing.
        let _ = self.failed.set(close);
        self.cancel.cancel();
    }

    /// What the connection was ended for, if a half of it did.
    pub(super) fn failed(&self) -> Option<Close> {
        self.failed.get().copied()
    }

    /// What the connection is over for.
    pub(super) fn failure(&self) -> Close {
        self.failed().unwrap_or((1011, "the connection broke"))
    }

    /// Has the connection hear of the job's state and end, and get none of its output, from when it was let go `held` times on;
    /// false when it follows the job already, or the job has all the viewers it may have.
    pub(super) fn mute(&self, job: Arc<Job>, held: u32) -> bool {
        let view = View { from: &[], kind: ViewKind::Muted, plane: self.plane.of_stream(), window: None };
        let Ok(viewer) = job.output.view(view, self.wake.clone()) else { return false };
        self.link.while_owning(job.card.session, |owns| {
            let mut table = self.followers.lock();
            if table.find(job.card.id).is_some_and(|follower| !follower.has_closed()) {
                return false;
            }
            let mut follower = Follower::new(job.clone(), table.fresh_channel(), viewer, true, &self.wake);
            follower.may_write(owns, &self.wake);
            follower.hold(held);
            table.list.push(follower);
            true
        })
    }
}

impl Plane {
    /// The same to the stream room.
    pub(super) const fn of_stream(self) -> crate::stream::Plane {
        match self {
            Self::Binary => crate::stream::Plane::Binary,
            Self::Json => crate::stream::Plane::Text,
        }
    }
}

/// Counts a connection for as long as it is held.
struct Counted;

impl Counted {
    fn new() -> Self {
        ::metrics::gauge!("execgate_connections").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ::metrics::gauge!("execgate_connections").decrement(1.0);
    }
}

/// Serves one upgraded socket to its end.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    caller: Caller,
    standing: Standing,
    plane: Plane,
    socket: Socket,
) {
    let mut bits = [0; 16];
    if getrandom::fill(&mut bits).is_err() {
        return;
    }
    let id = ConnectionId::from_bits(u128::from_ne_bytes(bits));
    let wake = Arc::new(Notify::new());
    let connection = Arc::new(Connection {
        core: gateway.core.clone(),
        settings: gateway.settings.load_full(),
        caller,
        plane,
        link: Link::new(id, wake.clone(), Arc::new(standing.clone())),
        wake,
        followers: Followers::default(),
        default_session: AsyncMutex::default(),
        life: Life::new(),
        cancel: CancellationToken::new(),
        failed: OnceLock::new(),
    });
    let principal = &connection.caller.principal;
    tracing::info!(connection = %id, tenant = %principal.tenant, subject = %principal.subject, ?plane, "connected");

    let _counted = Counted::new();
    let (sink, stream) = socket.split();
    let (out, queue) = mpsc::channel(connection.settings.max_outstanding + 1);
    let writer = Writer::new(connection.clone(), sink, queue);
    let mut writing = gateway.tracker.spawn({
        let cancel = connection.cancel.clone();
        async move {
            let sink = writer.run().await;
            cancel.cancel();
            sink
        }
    });
    let mut reader = Reader::new(connection.clone(), stream, out.clone(), gateway.stop.clone());
    // A request that breaks breaks this task.
    let _leash = Leash::new(connection.link.clone(), gateway.tracker.clone());
    let _ends_writer = connection.cancel.clone().drop_guard();
    let (code, reason) = reader.run(standing).await;

    if code == UNAUTHENTICATED.0 {
        connection.link.end_sessions("expired").await;
    }
    // Who hears the goodbye may come back at once, and must not find himself still there.
    connection.link.close().await;
    let goodbye = async {
        // A writer that is gone has nobody left to say it to.
        let _ = out.send(Out::Close(code, reason)).await;
        (&mut writing).await
    };
    match timeout(GOODBYE, goodbye).await {
        Ok(Ok(sink)) => reader.linger(sink).await,
        // It broke: there is nothing to be read to its end.
        Ok(Err(_)) => {}
        Err(_) => writing.abort(),
    }
    let followers = std::mem::take(&mut connection.followers.lock().list);
    followers.into_iter().for_each(|follower| follower.viewer.break_off());
    tracing::info!(connection = %id, code, reason, "disconnected");
}

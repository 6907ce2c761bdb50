//! A connection as sessions see it: a name, a waker, what it owns, and a short list of news.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::domain::{ConnectionId, EndReason, SessionId};

use super::{Job, Session};

/// What a connection was admitted with, as sessions see it: who admitted it knows whether that is still good.
pub trait Admission: std::fmt::Debug + Send + Sync {
    /// Whether it would be accepted again, for the same principal; its time aside.
    fn stands(&self) -> bool;
}

/// What a connection must be told besides the answers to its requests.
#[derive(Debug, Clone)]
pub enum News {
    /// A job of a session it owns, started by a request of an earlier owner.
    Follow(Arc<Job>),
    /// Another connection took the session over.
    Lost(SessionId),
    /// The session is gone.
    Closed {
        /// Which.
        session: SessionId,
        /// Why: `closed`, `expired`, `idle`, `disconnect`, `shutdown`, `server_fault`.
        reason: &'static str,
    },
}

/// The sessions' end of one connection. The list of news is bounded by what the connection owns: each session
/// adds at most one `Lost` or `Closed`, each job at most one `Follow`.
#[derive(Debug)]
pub struct Link {
    id: ConnectionId,
    wake: Arc<Notify>,
    /// A session that is left outlives the connection, not what the connection was admitted with.
    pub(super) admission: Arc<dyn Admission>,
    // Not a channel: a session must never wait for a slow connection, and a full channel would lose news. Held for
    // one push or one take.
    desk: Mutex<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    news: Vec<News>,
    owned: Vec<Arc<Session>>,
    closed: bool,
}

/// Holds a link for as long as its connection lives. Dropping it, however that comes, is the disconnect.
#[derive(Debug)]
pub struct Leash {
    /// What it holds.
    pub link: Arc<Link>,
    tracker: TaskTracker,
}

impl Leash {
    /// Holds the link; the disconnect is a task of the tracker.
    pub const fn new(link: Arc<Link>, tracker: TaskTracker) -> Self {
        Self { link, tracker }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let link = self.link.clone();
        self.tracker.spawn(async move { link.close().await });
    }
}

impl Link {
    /// Makes the link of one connection; `wake` is notified when there is news.
    pub fn new(id: ConnectionId, wake: Arc<Notify>, admission: Arc<dyn Admission>) -> Arc<Self> {
        Arc::new(Self { id, wake, admission, desk: Mutex::default() })
    }

    /// The connection.
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// What is notified when there is something for the connection.
    pub(super) const fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }

    /// Takes all news so far, oldest first.
    pub fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut self.desk().news)
    }

    /// Marks the connection as gone and disconnects every session it owns. A session that would become its own
    /// from now on is disconnected at once.
    pub async fn close(self: &Arc<Self>) {
        let owned = {
            let mut desk = self.desk();
            desk.closed = true;
            std::mem::take(&mut desk.owned)
        };
        for session in owned {
            session.disconnect(self).await;
        }
    }

    /// Ends every session the connection owns, detachable ones too: its credential stands no more.
    pub async fn end_sessions(&self, word: &'static str) {
        let owned = self.desk().owned.clone();
        for session in owned {
            session.end(EndReason::Disconnect, word).await;
        }
    }

    /// Whether the connection owns the session.
    pub fn owns(&self, session: SessionId) -> bool {
        self.while_owning(session, |owns| owns)
    }

    /// Acts on whether the connection owns the session, which does not change meanwhile.
    pub fn while_owning<T>(&self, session: SessionId, act: impl FnOnce(bool) -> T) -> T {
        let desk = self.desk();
        act(desk.owned.iter().any(|s| s.card.id == session))
    }

    /// Notes that the connection owns the session; false when the connection is gone.
    #[must_use]
    pub(super) fn own(&self, session: Arc<Session>) -> bool {
        let mut desk = self.desk();
        if !desk.closed {
            // Nor is it told that it lost what it has again.
            desk.news.retain(|news| !matches!(news, News::Lost(lost) if *lost == session.card.id));
            desk.owned.push(session);
        }
        !desk.closed
    }

    /// Adds news; `Lost` and `Closed` end the ownership.
    pub(super) fn tell(&self, news: News) {
        let mut desk = self.desk();
        match &news {
            News::Lost(session) | News::Closed { session, .. } => {
                desk.owned.retain(|s| s.card.id != *session)
            }
            News::Follow(_) => {}
        }
        if !desk.closed {
            desk.news.push(news);
        }
        drop(desk);
        self.wake.notify_one();
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

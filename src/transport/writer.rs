//! The writing half of a socket.
//!
//! One task, the only one that writes. Answers and news go first; then every followed job gives one message a round,
//! until nobody has more; then what was gathered is flushed and the task sleeps until it is woken. It waits for nobody
//! but the socket, so nobody who sends to it can wait for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::domain::{JobId, SessionId};
use crate::rpc::event;
use crate::session::{Drain, News};
use crate::stream::ViewKind;

use super::connection::Connection;
use super::follower::{Follower, text};
use super::upgrade::Socket;

/// How long a peer may take to read our goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long the ends of jobs may take to be told before the last frame.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the reader hands to the writer.
#[derive(Debug)]
pub(super) enum Out {
    /// An answer; a notification has none. It comes after the `job.closed` of every job in `after`, and lets go of the followers
    /// of those in `follow`.
    Answer { text: Option<String>, follow: Vec<JobId>, after: Vec<JobId> },
    /// The last frame.
    Close(u16, &'static str),
}

impl Out {
    /// A text that waits for nothing.
    pub(super) const fn text(text: String) -> Self {
        Self::Answer { text: Some(text), follow: Vec::new(), after: Vec::new() }
    }
}

/// The jobs a connection follows, shared by its two halves: the writer gives out messages, the reader applies
/// acknowledgements. Held for one such step, never across an await; a queue instead would let unread output delay
/// the acknowledgements that allow it to go on.
#[derive(Debug, Default)]
pub(super) struct Followers {
    inner: Mutex<Table>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) list: Vec<Follower>,
    last_channel: u32,
}

impl Table {
    /// A channel that was never used on this connection.
    pub(super) fn fresh_channel(&mut self) -> u32 {
        self.last_channel = self.last_channel.wrapping_add(1);
        self.last_channel
    }

    /// The follower of the job; the one that is still to tell its end before one that only keeps answers.
    pub(super) fn find(&mut self, job: JobId) -> Option<&mut Follower> {
        self.list.iter_mut().filter(|f| f.id() == job).min_by_key(|f| f.has_closed())
    }
}

impl Followers {
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a follower has to give out.
enum Step {
    Message(Message),
    Answer(Out),
}

/// Why nothing more is written.
#[derive(Debug)]
enum Ended {
    /// The socket is of no more use.
    Gone,
    /// A viewer without a window took nothing for too long.
    Stalled,
}

/// Told to a peer whose viewer stalled, should it still read.
const STALLED: (u16, &str) = (1013, "a viewer without a window stalled");

pub(super) struct Writer {
    connection: Arc<Connection>,
    sink: SplitSink<Socket, Message>,
    queue: mpsc::Receiver<Out>,
    drain: watch::Receiver<Drain>,
    last_ping: Instant,
}

impl Writer {
    pub(super) fn new(
        connection: Arc<Connection>,
        sink: SplitSink<Socket, Message>,
        queue: mpsc::Receiver<Out>,
    ) -> Self {
        let drain = connection.core.drain();
        Self { connection, sink, queue, drain, last_ping: Instant::now() }
    }

    /// Runs until the connection ends, and gives its half of the socket back. Owned by the connection's task.
    pub(super) async fn run(mut self) -> SplitSink<Socket, Message> {
        let ended = loop {
            if let Err(ended) = self.turn().await {
                break ended;
            }
        };
        match ended {
            Ended::Gone => {}
            Ended::Stalled => self.connection.fail(STALLED),
        }
        if let Some((code, reason)) = self.connection.failed() {
            self.close(code, reason).await;
        }
        self.sink
    }

    /// What is due by the clock, one round, and when that gave nothing, a flush and a rest. A busy socket is pinged like any
    /// other: else a client that reads a flood would be taken for dead.
    async fn turn(&mut self) -> Result<(), Ended> {
        if self.connection.cancel.is_cancelled() {
            return Err(Ended::Gone);
        }
        if self.until_ping().is_zero() {
            self.last_ping = Instant::now();
            self.put(Message::Ping(Bytes::new())).await?;
        }
        if self.drain.has_changed().unwrap_or(false) {
            let state = *self.drain.borrow_and_update();
            self.announce_drain(state).await?;
        }
        if self.round().await? {
            tokio::task::consume_budget().await;
            return Ok(());
        }
        self.flush().await?;
        let (wake, until_ping) = (self.connection.wake.clone(), self.until_ping());
        tokio::select! {
            out = self.queue.recv() => match out {
                Some(out) => self.put_out(out).await,
                None => Err(Ended::Gone),
            },
            () = wake.notified() => Ok(()),
            () = sleep(until_ping) => Ok(()),
            Ok(()) = self.drain.changed() => {
                let state = *self.drain.borrow_and_update();
                self.announce_drain(state).await
            }
            () = self.connection.cancel.cancelled() => Err(Ended::Gone),
        }
    }

    /// What is left of the time between two pings.
    fn until_ping(&self) -> Duration {
        self.connection.settings.ping_every.saturating_sub(self.last_ping.elapsed())
    }

    /// One round: every answer and all news, then one message of each job. Says whether there may be more.
    async fn round(&mut self) -> Result<bool, Ended> {
        let mut busy = false;
        while let Ok(out) = self.queue.try_recv() {
            self.put_out(out).await?;
            busy = true;
        }
        for news in self.connection.link.take_news() {
            self.put_news(news).await?;
            busy = true;
        }
        let mut at = 0;
        while let Some(step) = self.step(&mut at) {
            busy |= step.is_some();
            match step {
                Some(Step::Message(message)) => self.put(message).await?,
                Some(Step::Answer(out)) => self.put_out(out).await?,
                None => {}
            }
        }
        Ok(busy)
    }

    /// The next message of the follower at `at`, which then moves on; `None` past the last.
    fn step(&self, at: &mut usize) -> Option<Option<Step>> {
        let mut table = self.connection.followers.lock();
        let follower = table.list.get_mut(*at)?;
        let message = follower.next(self.connection.plane, self.connection.settings.frame);
        let message = message.map(Step::Message).or_else(|| follower.unpark().map(Step::Answer));
        if follower.is_done() {
            table.list.swap_remove(*at);
        } else {
            *at += 1;
        }
        Some(message)
    }

    async fn put_out(&mut self, out: Out) -> Result<(), Ended> {
        match out {
            Out::Answer { .. } => {
                let Some((answer, follow)) = self.park_or_go_on(out) else { return Ok(()) };
                if let Some(answer) = answer {
                    self.put(text(answer)).await?;
                }
                let mut table = self.connection.followers.lock();
                follow.into_iter().for_each(|job| {
                    table.find(job).into_iter().for_each(Follower::let_go);
                });
                Ok(())
            }
            Out::Close(code, reason) => {
                // What happened before the goodbye is told before it.
                for news in self.connection.link.take_news() {
                    self.put_news(news).await?;
                }
                // A peer that does not take it goes without.
                if let Ok(told) = timeout(LAST_WORDS, self.tell_ended()).await {
                    told?;
                }
                self.close(code, reason).await;
                Err(Ended::Gone)
            }
        }
    }

    /// Tells all there is to tell of the jobs that have ended; what is left in their pipes may still be on its way.
    async fn tell_ended(&mut self) -> Result<(), Ended> {
        loop {
            while let Some(step) = self.step_of_ended() {
                match step {
                    Step::Message(message) => self.put(message).await?,
                    Step::Answer(Out::Answer { text: Some(answer), .. }) => self.put(text(answer)).await?,
                    Step::Answer(_) => {}
                }
            }
            let ended = |f: &Follower| f.job.state().closed.is_some();
            if self.connection.followers.lock().list.iter().all(|f| f.has_closed() || !ended(f)) {
                return Ok(());
            }
            self.flush().await?;
            self.connection.wake.notified().await;
        }
    }

    fn step_of_ended(&self) -> Option<Step> {
        let (plane, most) = (self.connection.plane, self.connection.settings.frame);
        let mut table = self.connection.followers.lock();
        let mut ended = table.list.iter_mut().filter(|f| f.job.state().closed.is_some());
        ended.find_map(|follower| {
            follower.next(plane, most).map(Step::Message).or_else(|| follower.unpark().map(Step::Answer))
        })
    }

    /// Parks the answer with the first job whose `job.closed` must come before it; else what is to be sent, and what to let go.
    fn park_or_go_on(&self, out: Out) -> Option<(Option<String>, Vec<JobId>)> {
        let Out::Answer { text, follow, after } = out else { return None };
        let mut table = self.connection.followers.lock();
        let waited = after.iter().copied().find(|job| table.find(*job).is_some_and(|f| !f.has_closed()));
        match waited.and_then(|job| table.find(job)) {
            Some(follower) => {
                follower.park(Out::Answer { text, follow, after });
                None
            }
            None => Some((text, follow)),
        }
    }

    /// The last frame. A peer that does not read our goodbye goes without.
    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        let goodbye = async {
            // Where the peer said goodbye first, ours is the library's answer, and only needs to be sent.
            let _ = self.sink.send(Message::Close(Some(frame))).await;
            self.sink.close().await
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    async fn put_news(&mut self, news: News) -> Result<(), Ended> {
        match news {
            News::Follow(job) => {
                // It may follow the job already; then it has been told, or will be.
                self.connection.mute(job, 0);
                Ok(())
            }
            News::Lost(session) => match self.demote(session) {
                true => self.put(text(event::session_lost(session))).await,
                // It has it again.
                false => Ok(()),
            },
            News::Closed { session, reason } => self.put(text(event::session_closed(session, reason))).await,
        }
    }

    /// The viewers of a lost session go on as observers, and what it views nothing of it hears no more of. False when the
    /// connection has taken it back by now.
    fn demote(&self, session: SessionId) -> bool {
        self.connection.link.while_owning(session, |owns| {
            let mut table = self.connection.followers.lock();
            let lost = |f: &&mut Follower| !owns && f.job.card.session == session;
            for follower in table.list.iter_mut().filter(lost) {
                match follower.viewer.kind() {
                    ViewKind::Write => follower.viewer.become_kind(ViewKind::Observe),
                    ViewKind::Muted => follower.quit(),
                    ViewKind::Observe => {}
                }
                follower.may_write(false, &self.connection.wake);
            }
            !owns
        })
    }

    async fn announce_drain(&mut self, state: Drain) -> Result<(), Ended> {
        match state {
            Drain::Draining { deadline } => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.put(text(event::draining(left))).await
            }
            Drain::Open | Drain::Leaving | Drain::Ending => Ok(()),
        }
    }

    /// Hands a message to the socket; waits while its buffers are full.
    async fn put(&mut self, message: Message) -> Result<(), Ended> {
        let connection = self.connection.clone();
        guarded(&connection, self.sink.feed(message)).await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let connection = self.connection.clone();
        guarded(&connection, self.sink.flush()).await
    }
}

/// Waits for a write, but no longer than the peer lives and, when a viewer without a window is stalled, no longer than
/// its patience. A write that was held up and then went through is a sign of life.
async fn guarded(
    connection: &Connection,
    write: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), Ended> {
    let mut write = std::pin::pin!(write);
    if let std::task::Poll::Ready(done) = futures_util::poll!(&mut write) {
        return done.map_err(|_| Ended::Gone);
    }
    let impatient = connection.followers.lock().list.iter().any(|f| !f.windowed);
    tokio::select! {
        done = write => {
            connection.life.touch();
            done.map_err(|_| Ended::Gone)
        }
        () = sleep(connection.settings.stall), if impatient => {
            ::metrics::counter!("execgate_viewers_stalled_total").increment(1);
            tracing::info!(connection = %connection.link.id(), "a viewer without a window stalled: ending the connection");
            Err(Ended::Stalled)
        }
        () = connection.cancel.cancelled() => Err(Ended::Gone),
    }
}

//! The output of one job: where pumps put bytes and viewers take them.
//!
//! Behind a lock, not a task: a task would copy every chunk once more and put a queue between the pipe and the viewers,
//! and the write viewer's place must be known at the moment of reading, else bytes it has not got are overwritten. The
//! lock is held for one copy of at most [`CHUNK`] bytes (the kernel's or ours) and never across an await.

use std::io::{self, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::domain::StreamName;

use super::budget::Share;
use super::lane::{Flow, Stock};
use super::settings::Settings;
use super::source::{PerSource, Plumbing, Source};
use super::state::{Debt, Room, State};

/// Most bytes read at once: what a pipe holds, and what a viewer hands out at once. Larger keeps others from the lock.
pub(super) const CHUNK: usize = 64 * 1024;

/// How long a job whose starter wants to view it may be held back until that view has come. It takes one wake-up of the
/// starter's task, and that nobody comes is [told](Output::change_hands); this is for what nobody thought of. Long beside
/// any wake-up on a busy machine: once it is over, bytes are lost to the viewer.
const SEATING: Duration = Duration::from_secs(30);

/// What happens when a ring is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Lossless for the write viewer: reading stops and the job waits. As [`Overflow::Ring`] when there is none.
    Block,
    /// The newest bytes take the place of the oldest; the job never waits.
    Ring,
}

/// What a job's output was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How it is connected.
    pub plumbing: Plumbing,
    /// What happens when a ring is full.
    pub overflow: Overflow,
    /// Bytes kept of each stream; from [`Settings::ring_for`].
    pub ring_bytes: u32,
    /// Most bytes over all streams; `None` is unlimited.
    pub limit: Option<u64>,
    /// Most viewers at once.
    pub viewers: usize,
    /// Longest wait for an observer that reads along; from [`Settings::courtesy`].
    pub courtesy: Duration,
}

/// What is there of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: StreamName,
    /// Offset of the oldest byte kept.
    pub oldest: u64,
    /// Offset of the next byte to come: all that was produced.
    pub next: u64,
}

/// Why the wait for a dead leader's pipes is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every stream reached its end.
    Ended,
    /// A descendant holds a pipe and has been silent.
    Idle,
    /// A descendant holds a pipe and has printed for too long.
    Deadline,
}

/// What came of one attempt to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// Bytes came.
    Bytes,
    /// The end of the stream.
    End,
    /// There is no room.
    NoRoom,
    /// There is none for so long: others have that long to take what is in it.
    Polite(Duration),
    /// The limit is used up and there is more.
    OverLimit,
}

/// The output of one job. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells a pump that there may be room.
    room: PerSource<Notify>,
    /// Tells the job task that a pump came on, was blocked or ended.
    progress: Notify,
    /// Tells whoever waits for the viewers that one came on or went, or that a stream ended.
    read_out: Notify,
    over_limit: CancellationToken,
    terms: Terms,
}

impl Output {
    /// An output that nothing was read of yet.
    pub fn new(terms: Terms) -> Self {
        let capacity = usize::try_from(terms.ring_bytes.max(Settings::RING_LEAST)).unwrap_or(usize::MAX);
        let state = State {
            stock: Stock::new(terms.plumbing, capacity),
            viewers: Vec::new(),
            overflow: terms.overflow,
            courtesy: terms.courtesy,
            allowance: terms.limit,
            awaited: None,
            share: None,
            owed: Debt::None,
            next_seat: 0,
        };
        let shared = Shared {
            state: Mutex::new(state),
            room: PerSource::new(|_| Notify::new()),
            progress: Notify::new(),
            read_out: Notify::new(),
            over_limit: CancellationToken::new(),
            terms,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Keeps the job's part of the budget for as long as its rings are kept.
    pub fn hold(&self, share: Share) {
        self.lock().share = Some(share);
    }

    /// A write viewer is on its way and is to get every byte from the first on: a `block` job's ring overwrites nothing until
    /// it has come, or [`SEATING`] is over; and a job that ends before is kept whole for it.
    pub fn await_writer(&self) {
        self.lock().awaited = Some(Instant::now() + SEATING);
    }

    /// What it was granted.
    pub fn terms(&self) -> &Terms {
        &self.shared.terms
    }

    /// The oldest and the next offset of each stream.
    pub fn status(&self) -> Vec<StreamStatus> {
        let state = self.lock();
        let of = |source: &Source| {
            let ring = state.stock.ring(*source);
            StreamStatus { stream: source.name(), oldest: ring.oldest(), next: ring.next() }
        };
        self.shared.terms.plumbing.sources().iter().map(of).collect()
    }

    /// The newest bytes of a stream, at most `bytes`; empty for a stream the job has not.
    pub fn tail(&self, stream: StreamName, bytes: usize) -> Vec<u8> {
        let Some(source) = self.shared.terms.plumbing.source(stream) else { return Vec::new() };
        let state = self.lock();
        let ring = state.stock.ring(source);
        let count = (ring.next() - ring.oldest()).min(bytes as u64);
        let mut out = Vec::new();
        state.stock.copy(source, ring.next() - count, count, &mut out);
        out
    }

    /// Somebody will read all that the rings hold at the end: until the debt is [forgiven](Output::forgive) they are kept whole.
    pub fn owe(&self) {
        self.lock().owe();
    }

    /// Nobody will come for what is owed: his session is over, or the job is forgotten.
    pub fn forgive(&self) {
        {
            let mut state = self.lock();
            state.owed = Debt::Forgiven;
            state.awaited = None;
            state.changed();
        }
        self.shared.read_out.notify_waiters();
    }

    /// Once every stream has ended, no ring grows any more: gives the part of the budget back that was never needed.
    pub fn settle(&self) {
        let mut state = self.lock();
        let held = (state.stock.rings() + state.stock.runs.allocated()) as u64;
        if let Some(share) = &mut state.share {
            share.shrink(held);
        }
    }

    /// After the end of the job: keeps the newest `bytes` of each stream and gives the rest of the memory back, as soon as every
    /// stream is at its end and no viewer has anything left to get: all are through or gone.
    pub async fn keep_tail(&self, bytes: u32) {
        loop {
            let changed = self.shared.read_out.notified();
            if self.shrink_to_tail(bytes) {
                return;
            }
            changed.await;
        }
    }

    /// Does nothing and returns false while a stream is not at its end or a viewer is not through.
    #[must_use]
    pub(super) fn shrink_to_tail(&self, bytes: u32) -> bool {
        let mut state = self.lock();
        let ended = self.shared.terms.plumbing.sources().iter().all(|source| state.stock.ended(*source));
        if !ended || !state.is_read_out() {
            return false;
        }
        state.stock.shrink(usize::try_from(bytes).unwrap_or(usize::MAX));
        state.share = None;
        true
    }

    /// Cancelled once the job has printed more than its limit, as far as that is read.
    pub fn over_limit(&self) -> &CancellationToken {
        &self.shared.over_limit
    }

    /// After the leader's exit: waits for the ends of the streams, and where a descendant holds a pipe, for new bytes
    /// only as long as `settings` say. Time in which a pump waits for room does not count. For one caller at a time.
    pub async fn drain(&self, settings: &Settings) -> Drained {
        let mut left = settings.drain_total;
        loop {
            match self.flow() {
                Flow::Ended => return Drained::Ended,
                Flow::Blocked => self.shared.progress.notified().await,
                Flow::Reading => {
                    let started = Instant::now();
                    let wait = settings.drain_idle.min(left);
                    if timeout(wait, self.shared.progress.notified()).await.is_err() {
                        return if left <= settings.drain_idle { Drained::Deadline } else { Drained::Idle };
                    }
                    left = left.saturating_sub(started.elapsed());
                }
            }
        }
    }

    /// What the pumps do, taken together.
    fn flow(&self) -> Flow {
        let state = self.lock();
        let flows =
            || self.shared.terms.plumbing.sources().iter().map(|source| state.stock.lanes.get(*source).flow);
        if flows().all(|flow| flow == Flow::Ended) {
            Flow::Ended
        } else if flows().any(|flow| flow == Flow::Blocked) {
            Flow::Blocked
        } else {
            Flow::Reading
        }
    }

    /// Lets `read` put bytes into the ring of `source`.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn fill(
        &self,
        source: Source,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<Filled> {
        let mut state = self.lock();
        let most = match state.room(source) {
            Room::Bytes(most) => most,
            Room::Polite(left) => return Ok(Filled::Polite(left)),
            Room::Awaited(left) => {
                self.set_flow(&mut state, source, Flow::Blocked);
                return Ok(Filled::Polite(left));
            }
            Room::Full => {
                self.set_flow(&mut state, source, Flow::Blocked);
                return Ok(Filled::NoRoom);
            }
        };
        self.set_flow(&mut state, source, Flow::Reading);
        let most =
            state.allowance.map_or(most, |bytes| most.min(usize::try_from(bytes).unwrap_or(usize::MAX)));
        if most == 0 {
            return self.probe(read);
        }
        let taken = state.stock.lanes.get_mut(source).ring.fill(most, read)?;
        if taken == 0 {
            return Ok(Filled::End);
        }
        state.allowance = state.allowance.map(|bytes| bytes.saturating_sub(taken as u64));
        state.stock.appended(source);
        state.changed();
        self.shared.progress.notify_one();
        Ok(Filled::Bytes)
    }

    /// With nothing left of the limit: is there more, or is this the end?
    fn probe(&self, read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>) -> io::Result<Filled> {
        let mut byte = [0];
        if read(&mut [IoSliceMut::new(&mut byte)])? == 0 {
            return Ok(Filled::End);
        }
        self.shared.over_limit.cancel();
        Ok(Filled::OverLimit)
    }

    /// Waits until there may be room for `source`.
    pub(super) async fn room(&self, source: Source) {
        self.shared.room.get(source).notified().await;
    }

    /// No byte of `source` will come any more.
    pub(super) fn end(&self, source: Source) {
        let mut state = self.lock();
        self.set_flow(&mut state, source, Flow::Ended);
        state.changed();
        self.shared.read_out.notify_waiters();
    }

    fn set_flow(&self, state: &mut State, source: Source, flow: Flow) {
        let lane = state.stock.lanes.get_mut(source);
        if lane.flow != flow {
            lane.flow = flow;
            self.shared.progress.notify_one();
        }
    }

    /// The write viewer came on, or there is another or none: whoever waits looks again.
    pub(super) fn viewers_changed(&self) {
        for source in self.shared.terms.plumbing.sources() {
            self.shared.room.get(*source).notify_one();
        }
        self.shared.read_out.notify_waiters();
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.lock().stock.rings()
    }

    #[cfg(test)]
    pub(super) fn is_blocked(&self, source: Source) -> bool {
        self.lock().stock.lanes.get(source).flow == Flow::Blocked
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

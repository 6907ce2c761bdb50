//! The handle of one viewer, polled by the one task that writes to its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BufMut;
use tokio::sync::Notify;

use crate::domain::{StreamName, StreamTotals};

use super::credit::{BeyondSent, Window};
use super::cursor::{Cursor, Item, Plane, ViewKind, Waker};
use super::lane::Stock;
use super::output::{CHUNK, Output};
use super::source::Source;
use super::state::State;

/// What a new viewer wants.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The first byte of each stream; 0 for a stream not named.
    pub from: &'a [(StreamName, u64)],
    /// What it may do.
    pub kind: ViewKind,
    /// What its bytes travel in.
    pub plane: Plane,
    /// Bytes in flight per stream; without one it is bounded by its socket alone.
    pub window: Option<Window>,
}

/// Why there is no such viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There are as many viewers as there may be.
    #[error("the job has {most} viewers")]
    Full {
        /// The limit.
        most: usize,
    },
    /// The job has no such output stream.
    #[error("the job has no output stream {}", .0.as_str())]
    NoSuchStream(StreamName),
    /// The job has not printed so much.
    #[error("{} starts at {asked} but has only {produced} bytes", .stream.as_str())]
    BeyondProduced {
        /// The stream.
        stream: StreamName,
        /// The offset asked for.
        asked: u64,
        /// What there is.
        produced: u64,
    },
}

/// Why an ack was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The job has no such output stream.
    #[error("the job has no output stream {}", .0.as_str())]
    NoSuchStream(StreamName),
    /// More than was sent.
    #[error(transparent)]
    BeyondSent(#[from] BeyondSent),
}

/// One reader of a job's output. Dropping it gives its place back and lets a job go on that it held back.
#[derive(Debug)]
pub struct Viewer {
    output: Output,
    number: u64,
    awake: Arc<AtomicBool>,
}

impl Output {
    /// A viewer of this output; `wake` is notified whenever [`Viewer::next`] may have something. A write viewer takes the
    /// place of the one there is, which goes on as an observer: who may be the writer is decided by the caller, and one
    /// whose connection is dying must not stand in the way of its owner's next.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub fn view(&self, view: View<'_>, wake: Arc<Notify>) -> Result<Viewer, ViewError> {
        let awake = Arc::new(AtomicBool::new(true));
        let waker = Waker { wake: Arc::clone(&wake), awake: Arc::clone(&awake) };
        let number = {
            let mut state = self.lock();
            let most = self.terms().viewers;
            if state.viewers.len() >= most {
                return Err(ViewError::Full { most });
            }
            let starts = self.starts(&state, view.from)?;
            if view.kind == ViewKind::Write {
                state.displace_writer(None);
            }
            let mut cursor = Cursor::new(view.kind, view.plane, waker);
            cursor.place(&state.stock, |source| start(&starts, source), view.window);
            state.seat(cursor)
        };
        wake.notify_one();
        self.viewers_changed();
        Ok(Viewer { output: self.clone(), number, awake })
    }

    /// The job is another's from now on, or waits for its owner: no write viewer is awaited, the one that `leaving` wakes
    /// observes, and what it has not got is owed to the next owner until the debt is [forgiven](Output::forgive).
    pub fn change_hands(&self, leaving: Option<&Arc<Notify>>) {
        let mut state = self.lock();
        let State { stock, viewers, .. } = &mut *state;
        let writer = viewers.iter_mut().map(|seat| &mut seat.cursor).find(|c| c.kind == ViewKind::Write);
        let owed = match writer {
            None => true,
            Some(cursor) if leaving.is_some_and(|wake| cursor.waker.is_of(wake)) => {
                let lacks = cursor.lacks(stock);
                cursor.kind = ViewKind::Observe;
                cursor.waker.wake();
                lacks
            }
            // The next owner's, who came first.
            Some(_) => false,
        };
        state.awaited = None;
        if owed {
            state.owe();
        }
        drop(state);
        self.viewers_changed();
    }

    fn starts(&self, state: &State, from: &[(StreamName, u64)]) -> Result<Vec<(Source, u64)>, ViewError> {
        let plumbing = self.terms().plumbing;
        let check = |&(stream, asked): &(StreamName, u64)| {
            let source = plumbing.source(stream).ok_or(ViewError::NoSuchStream(stream))?;
            let produced = state.stock.ring(source).next();
            if asked > produced {
                return Err(ViewError::BeyondProduced { stream, asked, produced });
            }
            Ok((source, asked))
        };
        from.iter().map(check).collect()
    }
}

fn start(starts: &[(Source, u64)], source: Source) -> u64 {
    starts.iter().find(|(named, _)| *named == source).map_or(0, |(_, offset)| *offset)
}

impl Viewer {
    /// The next thing for this viewer, at most `max` bytes of it, which are appended to `out`. Never waits.
    ///
    /// `None` when there is nothing now or no place in `out`. `wake` is notified only after a `None`: ask until then before
    /// waiting for it.
    pub fn next(&mut self, max: usize, out: &mut impl BufMut) -> Option<Item> {
        let max = max.min(CHUNK).min(out.remaining_mut());
        if max == 0 || !self.awake.load(Ordering::Acquire) {
            return None;
        }
        let item = self.with(|cursor, stock| cursor.take(stock, max as u64, out))?;
        if item.is_some() {
            self.output.viewers_changed();
        }
        item
    }

    /// The client consumed everything of `stream` below `offset`, and may have named another window. One below an
    /// earlier one is ignored.
    ///
    /// # Errors
    /// See [`AckError`]; the protocol closes with 1002 on [`AckError::BeyondSent`].
    pub fn ack(&mut self, stream: StreamName, offset: u64, window: Option<Window>) -> Result<(), AckError> {
        let source = self.output.terms().plumbing.source(stream).ok_or(AckError::NoSuchStream(stream))?;
        let acked = self.with(|cursor, _| {
            let acked = cursor.credit_mut(source).ack(offset, window);
            cursor.waker.wake();
            acked
        });
        self.output.viewers_changed();
        acked.unwrap_or(Ok(())).map_err(AckError::from)
    }

    /// Moves the viewer as if it were new; its totals go on. The ends of the streams are told again.
    ///
    /// # Errors
    /// See [`ViewError`]; the viewer stays as it was.
    pub fn reposition(&mut self, view: View<'_>) -> Result<(), ViewError> {
        {
            let mut state = self.output.lock();
            let starts = self.output.starts(&state, view.from)?;
            self.take_kind(&mut state, view.kind);
            let State { stock, viewers, .. } = &mut *state;
            if let Some(seat) = viewers.iter_mut().find(|seat| seat.number == self.number) {
                seat.cursor.plane = view.plane;
                seat.cursor.place(stock, |source| start(&starts, source), view.window);
                seat.cursor.waker.wake();
            }
        }
        self.output.viewers_changed();
        Ok(())
    }

    /// Changes what the viewer may do: to an observer when its session was taken over, to the writer when it takes over.
    /// Its place stays.
    pub fn become_kind(&mut self, kind: ViewKind) {
        {
            let mut state = self.output.lock();
            self.take_kind(&mut state, kind);
        }
        self.output.viewers_changed();
    }

    /// Its connection broke. What the write viewer has not got is owed to its owner, should he come back: the ring is kept
    /// until then, or until the debt is [forgiven](Output::forgive).
    pub fn break_off(self) {
        let mut state = self.output.lock();
        let seat = state.viewers.iter().find(|seat| seat.number == self.number);
        if seat.is_some_and(|s| s.cursor.kind == ViewKind::Write && s.cursor.lacks(&state.stock)) {
            state.owe();
        }
    }

    fn take_kind(&self, state: &mut State, kind: ViewKind) {
        if kind == ViewKind::Write {
            state.displace_writer(Some(self.number));
        }
        if let Some(seat) = state.viewers.iter_mut().find(|seat| seat.number == self.number) {
            seat.cursor.kind = kind;
            seat.cursor.waker.wake();
        }
    }

    /// What it may do.
    pub fn kind(&self) -> ViewKind {
        self.with(|cursor, _| cursor.kind).unwrap_or(ViewKind::Muted)
    }

    /// Every stream ended and this viewer was told: it has everything it will ever get.
    pub fn is_through(&self) -> bool {
        self.with(|cursor, stock| cursor.is_through(stock)).unwrap_or(true)
    }

    /// It was given everything, but has not acknowledged all of it, and may come back.
    pub fn is_unsure(&self) -> bool {
        let state = self.output.lock();
        let seat = state.viewers.iter().find(|seat| seat.number == self.number);
        seat.is_some_and(|seat| state.is_unsure(&seat.cursor))
    }

    /// Bytes of each stream: produced by the job, delivered to and dropped for this viewer.
    pub fn totals(&self) -> Vec<(StreamName, StreamTotals)> {
        let sources = self.output.terms().plumbing.sources();
        let of = |cursor: &mut Cursor, stock: &Stock| {
            sources.iter().map(|source| (source.name(), cursor.totals(stock, *source))).collect()
        };
        self.with(of).unwrap_or_default()
    }

    /// The output it reads.
    pub const fn output(&self) -> &Output {
        &self.output
    }

    fn with<T>(&self, act: impl FnOnce(&mut Cursor, &Stock) -> T) -> Option<T> {
        let mut state = self.output.lock();
        let State { stock, viewers, .. } = &mut *state;
        let seat = viewers.iter_mut().find(|seat| seat.number == self.number)?;
        Some(act(&mut seat.cursor, stock))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.output.lock().viewers.retain(|seat| seat.number != self.number);
        self.output.viewers_changed();
    }
}

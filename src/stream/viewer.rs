//! One reader of a job's output: a cursor over the rings, its credit, and its totals.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use crate::domain::{GapReason, StreamName, StreamTotals};

use super::credit::Credit;
use super::order::Run;
use super::output::{Output, STREAMS, Shared};

/// Where a view begins, and how far it may run ahead.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The first byte wanted of each stream; 0 where none is named.
    pub from: BTreeMap<StreamName, u64>,
    /// Bytes of each stream that may be unacknowledged; `None` leaves it to the socket.
    pub window: Option<u32>,
}

/// What a viewer gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Bytes, appended to the caller's buffer.
    Data {
        /// Of this stream.
        stream: StreamName,
        /// The first one's offset.
        offset: u64,
        /// How many.
        length: usize,
    },
    /// Bytes it will never get.
    Gap {
        /// Of this stream.
        stream: StreamName,
        /// The first one.
        from: u64,
        /// One past the last.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// The end of a stream, once.
    Eof {
        /// Of this stream.
        stream: StreamName,
        /// Its length.
        offset: u64,
    },
}

/// An acknowledgement of bytes that were never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckBeyondSent;

/// A cursor over a job's output. Dropping it ends the view.
#[derive(Debug)]
pub struct Viewer {
    output: Arc<Output>,
    id: u64,
    muted: bool,
    /// Position in the common order.
    at: u64,
    streams: [Position; STREAMS],
    /// A gap before the first byte given out was there before the view.
    fresh: [bool; STREAMS],
}

#[derive(Debug)]
struct Position {
    /// The next byte of the stream.
    next: u64,
    begun_at: u64,
    dropped: u64,
    credit: Option<Credit>,
    ended: bool,
}

impl Position {
    fn new(from: u64, window: Option<u32>) -> Self {
        let credit = window.map(|window| Credit::new(window.into(), from));
        Self { next: from, begun_at: from, dropped: 0, credit, ended: false }
    }

    /// The first byte that is still needed: unacknowledged, where there is a window.
    fn needed(&self) -> u64 {
        self.credit.as_ref().map_or(self.next, Credit::acked)
    }
}

impl Viewer {
    pub(super) fn new(output: Arc<Output>, id: u64, start: &Start) -> Self {
        let mut viewer = Self::muted(output, id);
        viewer.muted = false;
        viewer.place(start);
        viewer
    }

    pub(super) fn muted(output: Arc<Output>, id: u64) -> Self {
        let streams = std::array::from_fn(|_| Position::new(0, None));
        Self { output, id, muted: true, at: 0, streams, fresh: [true; STREAMS] }
    }

    fn place(&mut self, start: &Start) {
        self.at = 0;
        self.fresh = [true; STREAMS];
        let output = self.output.clone();
        for (position, name) in self.streams.iter_mut().zip(output.streams()) {
            *position = Position::new(start.from.get(name).copied().unwrap_or(0), start.window);
        }
    }

    /// Moves the view; what was given out before counts no more.
    pub fn reposition(&mut self, start: &Start) {
        self.muted = false;
        self.place(start);
        self.tell_needs();
    }

    /// Whether it gets no bytes.
    pub const fn is_muted(&self) -> bool {
        self.muted
    }

    /// Whether this is the write viewer.
    pub fn is_writer(&self) -> bool {
        self.output.shared().writer.is_some_and(|(id, _)| id == self.id)
    }

    /// Becomes the write viewer, unless there is one.
    pub(super) fn hold_back(&self) {
        let needed = self.needed();
        let mut shared = self.output.shared();
        if shared.writer.is_none() {
            shared.writer = Some((self.id, needed));
        }
    }

    /// Becomes the write viewer; false when there is another.
    pub fn promote(&mut self) -> bool {
        self.hold_back();
        self.is_writer()
    }

    /// Goes on as an observer.
    pub fn demote(&mut self) {
        let mut shared = self.output.shared();
        if shared.writer.is_some_and(|(id, _)| id == self.id) {
            shared.writer = None;
            drop(shared);
            self.output.room_freed();
        }
    }

    /// The next item, appending its bytes, at most `most`, to `out`. `None` when there is nothing now, or no credit.
    pub fn next(&mut self, most: usize, out: &mut BytesMut) -> Option<Item> {
        let output = self.output.clone();
        let shared = output.shared();
        let item = if self.muted { None } else { self.advance(&shared, most, out) };
        let item = item.or_else(|| self.end(&shared));
        drop(shared);
        if item.is_some() {
            self.tell_needs();
        }
        item
    }

    /// Bytes the next item may hold, to size a buffer by.
    pub fn ready_hint(&self) -> usize {
        let behind = self.output.shared().order.total().saturating_sub(self.at);
        usize::try_from(behind).unwrap_or(usize::MAX)
    }

    fn advance(&mut self, shared: &Shared, most: usize, out: &mut BytesMut) -> Option<Item> {
        while let Some(run) = shared.order.beyond(self.at) {
            let ring = shared.rings.get(run.stream)?;
            let stream = *self.output.streams().get(run.stream)?;
            let position = self.streams.get_mut(run.stream)?;
            self.at = self.at.max(run.at);
            let here = (run.from + (self.at - run.at)).max(position.next);
            if here >= run.to {
                self.at = run.end();
                continue;
            }
            let available = here.max(ring.oldest().min(run.to));
            if available > position.next {
                let (from, to) = (position.next, available);
                self.at = run.at + (to - run.from);
                return Some(self.gap(run.stream, stream, from, to));
            }
            let credit = position.credit.as_ref().map_or(u64::MAX, |c| c.left(here));
            let length = (run.to - here).min(most as u64).min(credit);
            if length == 0 {
                return None;
            }
            let (head, tail) = ring.slices(here, here + length);
            out.extend_from_slice(head);
            out.extend_from_slice(tail);
            position.next = here + length;
            self.at = run_at(&run, position.next);
            if let Some(fresh) = self.fresh.get_mut(run.stream) {
                *fresh = false;
            }
            return Some(Item::Data {
                stream,
                offset: here,
                length: usize::try_from(length).unwrap_or(usize::MAX),
            });
        }
        self.lost_tail(shared)
    }

    /// Bytes that are gone together with their place in the order.
    fn lost_tail(&mut self, shared: &Shared) -> Option<Item> {
        let behind = self.streams.iter().zip(&shared.rings).position(|(p, ring)| p.next < ring.next())?;
        let stream = *self.output.streams().get(behind)?;
        let (from, to) = (self.streams.get(behind)?.next, shared.rings.get(behind)?.next());
        Some(self.gap(behind, stream, from, to))
    }

    fn gap(&mut self, index: usize, stream: StreamName, from: u64, to: u64) -> Item {
        let before = self.fresh.get_mut(index).is_some_and(std::mem::take);
        if let Some(position) = self.streams.get_mut(index) {
            position.next = to;
            position.dropped += to - from;
            if let Some(credit) = &mut position.credit {
                credit.gap(from, to);
            }
        }
        let reason = if before { GapReason::BeforeAttach } else { GapReason::Evicted };
        Item::Gap { stream, from, to, reason }
    }

    fn end(&mut self, shared: &Shared) -> Option<Item> {
        let streams = self.output.streams().iter().zip(&shared.rings).zip(&shared.ended);
        for (position, ((stream, ring), ended)) in self.streams.iter_mut().zip(streams) {
            let through = self.muted || position.next >= ring.next();
            if *ended && through && !position.ended {
                position.ended = true;
                return Some(Item::Eof { stream: *stream, offset: ring.next() });
            }
        }
        None
    }

    /// Every stream has ended and this viewer was told.
    pub fn is_through(&self) -> bool {
        self.streams.iter().zip(self.output.streams()).all(|(position, _)| position.ended)
    }

    /// Notes that everything of the stream before `offset` was consumed; may change the window.
    ///
    /// # Errors
    /// [`AckBeyondSent`], and nothing is noted.
    pub fn ack(&mut self, stream: StreamName, offset: u64, window: Option<u32>) -> Result<(), AckBeyondSent> {
        let Some(position) = self.output.index(stream).and_then(|i| self.streams.get_mut(i)) else {
            return Err(AckBeyondSent);
        };
        if offset > position.next {
            return Err(AckBeyondSent);
        }
        match &mut position.credit {
            Some(credit) => credit.ack(offset, window.map(u64::from)),
            None => position.credit = window.map(|window| Credit::new(window.into(), offset)),
        }
        self.tell_needs();
        Ok(())
    }

    /// What this viewer got of each stream.
    pub fn totals(&self) -> Vec<(StreamName, StreamTotals)> {
        let shared = self.output.shared();
        let total = |((position, name), ring): ((&Position, &StreamName), &super::ring::Ring)| {
            let given = if self.muted { 0 } else { position.next.saturating_sub(position.begun_at) };
            let delivered = given.saturating_sub(position.dropped);
            (*name, StreamTotals { produced: ring.next(), delivered, dropped: position.dropped })
        };
        self.streams.iter().zip(self.output.streams()).zip(&shared.rings).map(total).collect()
    }

    fn needed(&self) -> [u64; STREAMS] {
        let [first, second] = &self.streams;
        [first.needed(), second.needed()]
    }

    /// Tells the pumps what the write viewer still needs.
    fn tell_needs(&self) {
        let needed = self.needed();
        let mut shared = self.output.shared();
        let Some((id, before)) = &mut shared.writer else { return };
        if *id != self.id || *before == needed {
            return;
        }
        *before = needed;
        drop(shared);
        self.output.room_freed();
    }
}

/// The place in the order of a stream's byte within a run.
const fn run_at(run: &Run, offset: u64) -> u64 {
    run.at + (offset - run.from)
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.output.shared().remove_viewer(self.id);
        self.output.room_freed();
    }
}

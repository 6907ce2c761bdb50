//! All output of one job: a ring per stream, their common order, and who looks on.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::StreamName;

use super::Settings;
use super::order::Order;
use super::ring::Ring;
use super::viewer::{Start, Viewer};

/// What happens when a ring is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Reading stops until the write viewer has passed; the pipe fills and the job waits. Nothing is lost.
    #[default]
    Block,
    /// The newest bytes take the place of the oldest; the job never waits.
    Ring,
}

/// What a viewer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    /// The one viewer that holds a [`Overflow::Block`] job back.
    Write,
    /// Looks on, and is overtaken.
    Observe,
}

/// There is a write viewer already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken;

/// What of a stream can still be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The oldest byte still here.
    pub oldest: u64,
    /// One past the newest byte.
    pub next: u64,
    /// The stream has ended.
    pub ended: bool,
}

/// How a read into a ring went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    Bytes(usize),
    End,
    NoRoom,
}

/// Most streams of a job.
pub(super) const STREAMS: usize = 2;

/// All output of one job, shared by its pumps and viewers.
#[derive(Debug)]
pub struct Output {
    // A lock rather than a task: it is held for one read or one copy of at most a chunk, and a task would put a queue
    // and a second copy between the pipe and the socket. Never held across an await.
    shared: Mutex<Shared>,
    names: Vec<StreamName>,
    overflow: Overflow,
    chunk: usize,
    room: [Notify; STREAMS],
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rings: Vec<Ring>,
    pub(super) ended: [bool; STREAMS],
    pub(super) order: Order,
    wakers: Vec<(u64, Arc<Notify>)>,
    last_viewer: u64,
    /// The write viewer, and the bytes from which on it still needs each stream.
    pub(super) writer: Option<(u64, [u64; STREAMS])>,
}

impl Output {
    /// The output of a job with these streams (one or two).
    pub fn new(
        names: &[StreamName],
        overflow: Overflow,
        ring: Option<usize>,
        settings: &Settings,
    ) -> Arc<Self> {
        let most = ring.unwrap_or(settings.ring).clamp(super::MIN_BYTES, super::MAX_BYTES);
        let names: Vec<_> = names.iter().copied().take(STREAMS).collect();
        let shared = Shared {
            rings: names.iter().map(|_| Ring::new(most)).collect(),
            ended: [false; STREAMS],
            order: Order::default(),
            wakers: Vec::new(),
            last_viewer: 0,
            writer: None,
        };
        Arc::new(Self {
            shared: Mutex::new(shared),
            names,
            overflow,
            chunk: settings.chunk,
            room: Default::default(),
        })
    }

    /// The job's output streams.
    pub fn streams(&self) -> &[StreamName] {
        &self.names
    }

    /// What can still be had of each stream.
    pub fn extents(&self) -> Vec<(StreamName, Extent)> {
        let shared = self.shared();
        let extent = |(index, name): (usize, &StreamName)| {
            let ring = shared.rings.get(index)?;
            let ended = shared.ended.get(index).copied().unwrap_or(true);
            Some((*name, Extent { oldest: ring.oldest(), next: ring.next(), ended }))
        };
        self.names.iter().enumerate().filter_map(extent).collect()
    }

    /// Bytes produced so far over all streams.
    pub fn produced(&self) -> u64 {
        self.shared().order.total()
    }

    /// The last bytes of a stream, at most `most`.
    pub fn tail(&self, stream: StreamName, most: usize) -> Vec<u8> {
        let shared = self.shared();
        let Some(ring) = self.index(stream).and_then(|i| shared.rings.get(i)) else { return Vec::new() };
        let from = ring.next().saturating_sub(most as u64).max(ring.oldest());
        let (head, tail) = ring.slices(from, ring.next());
        [head, tail].concat()
    }

    /// Begins a view.
    ///
    /// # Errors
    /// [`Taken`] for a second write viewer.
    pub fn view(self: &Arc<Self>, kind: ViewKind, start: &Start, wake: Arc<Notify>) -> Result<Viewer, Taken> {
        let mut shared = self.shared();
        if kind == ViewKind::Write && shared.writer.is_some() {
            return Err(Taken);
        }
        let id = shared.add_waker(wake);
        drop(shared);
        let viewer = Viewer::new(self.clone(), id, start);
        if kind == ViewKind::Write {
            viewer.hold_back();
        }
        Ok(viewer)
    }

    /// Begins a view that gets no bytes and no gaps, only the ends of streams.
    pub fn mute(self: &Arc<Self>, wake: Arc<Notify>) -> Viewer {
        let id = self.shared().add_waker(wake);
        Viewer::muted(self.clone(), id)
    }

    /// Wakes everybody who looks on: something about the job has changed.
    pub fn wake(&self) {
        self.shared().wake();
    }

    /// Gives the rings' memory back but for the last `most` bytes of each, once nobody looks on. Called when the job is
    /// over; while there are viewers, the last of them to go does it.
    pub fn keep_tail(&self, most: usize) {
        let mut shared = self.shared();
        if shared.wakers.is_empty() {
            shared.rings.iter_mut().for_each(|ring| ring.shrink_to(most));
        }
    }

    /// Reads once from `fd` into the ring of the stream, as far as there is room.
    pub(super) fn fill(&self, stream: usize, fd: BorrowedFd<'_>) -> io::Result<Filled> {
        let mut guard = self.shared();
        let shared = &mut *guard;
        if !shared.make_place(stream, self.overflow) {
            return Ok(Filled::NoRoom);
        }
        let floor = shared.floor(stream, self.overflow);
        let Some(ring) = shared.rings.get_mut(stream) else { return Ok(Filled::End) };
        let from = ring.next();
        let room = ring.room(floor, self.chunk);
        if room.is_empty() {
            return Ok(Filled::NoRoom);
        }
        let n = rustix::io::read(fd, room)?;
        if n == 0 {
            return Ok(Filled::End);
        }
        ring.commit(n);
        shared.order.push(stream, from, n as u64);
        shared.forget_stale_runs();
        shared.wake();
        Ok(Filled::Bytes(n))
    }

    /// The stream has ended.
    pub(super) fn end(&self, stream: usize) {
        let mut shared = self.shared();
        if let Some(ended) = shared.ended.get_mut(stream) {
            *ended = true;
        }
        shared.wake();
    }

    /// Completes when there may be room in the ring again.
    pub(super) async fn room(&self, stream: usize) {
        match self.room.get(stream) {
            Some(room) => room.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn room_freed(&self) {
        self.room.iter().for_each(Notify::notify_one);
    }

    pub(super) fn index(&self, stream: StreamName) -> Option<usize> {
        self.names.iter().position(|name| *name == stream)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn remove_viewer(&mut self, id: u64) {
        self.wakers.retain(|(other, _)| *other != id);
        if self.writer.is_some_and(|(writer, _)| writer == id) {
            self.writer = None;
        }
    }

    fn add_waker(&mut self, wake: Arc<Notify>) -> u64 {
        self.last_viewer += 1;
        self.wakers.push((self.last_viewer, wake));
        self.last_viewer
    }

    fn wake(&self) {
        self.wakers.iter().for_each(|(_, wake)| wake.notify_one());
    }

    /// The first byte of the stream that must not be overwritten.
    fn floor(&self, stream: usize, overflow: Overflow) -> u64 {
        match (overflow, self.writer) {
            (Overflow::Block, Some((_, needed))) => needed.get(stream).copied().unwrap_or(u64::MAX),
            (Overflow::Block, None) | (Overflow::Ring, _) => u64::MAX,
        }
    }

    /// Makes place in the order index; false when the write viewer still needs all of it.
    fn make_place(&mut self, stream: usize, overflow: Overflow) -> bool {
        while !self.order.has_room(stream) {
            let Some(front) = self.order.front().copied() else { return true };
            if front.to > self.floor(front.stream, overflow) {
                return false;
            }
            self.order.pop_front();
            if let Some(ring) = self.rings.get_mut(front.stream) {
                ring.forget_before(front.to);
            }
        }
        true
    }

    fn forget_stale_runs(&mut self) {
        while let Some(front) = self.order.front()
            && self.rings.get(front.stream).is_some_and(|ring| front.to <= ring.oldest())
        {
            self.order.pop_front();
        }
    }
}

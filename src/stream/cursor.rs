//! One viewer's place in a job's output and what it gets next.
//!
//! Bytes leave in the order in which they were read across the streams. Where the next ones in that order lack credit,
//! nothing overtakes them. A gap is announced only when the viewer could go on behind it, so that what is evicted under a
//! stalled viewer adds up to one gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BufMut;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::{GapReason, StreamName, StreamTotals};

use super::credit::{Credit, Window};
use super::lane::Stock;
use super::order::Run;
use super::source::{PerSource, Source};
use super::text::incomplete_tail;

/// What a viewer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    /// The owner's: the only one that can hold the job back.
    Write,
    /// Looks on.
    Observe,
    /// Gets the end of each stream and the totals, no bytes.
    Muted,
}

/// What a viewer's bytes travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Binary frames: cut anywhere.
    Binary,
    /// JSON: the beginning of a character (at most 3 bytes) stays behind until the rest of it has come, unless the stream ends
    /// or credit cuts it. So text stays text, and offsets and totals count only what was handed out.
    Text,
}

/// The next thing a viewer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Bytes, appended to the buffer.
    Data {
        /// Of this stream.
        stream: StreamName,
        /// From this offset on.
        offset: u64,
        /// So many; never 0.
        bytes: usize,
    },
    /// `[from, to)` never comes.
    Gap {
        /// Of this stream.
        stream: StreamName,
        /// First byte missing.
        from: u64,
        /// First byte that is not.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// The stream ended here. After its last byte or gap, once.
    Eof {
        /// This stream.
        stream: StreamName,
        /// Its length.
        offset: u64,
    },
}

/// How a viewer's socket task is told to poll again.
#[derive(Debug, Clone)]
pub(super) struct Waker {
    pub(super) wake: Arc<Notify>,
    /// Something changed since the last poll that found nothing. Lets a task with a thousand viewers poll without a
    /// thousand locks.
    pub(super) awake: Arc<AtomicBool>,
}

impl Waker {
    pub(super) fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Whether it wakes whoever waits for `wake`.
    pub(super) fn is_of(&self, wake: &Arc<Notify>) -> bool {
        Arc::ptr_eq(&self.wake, wake)
    }
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) kind: ViewKind,
    pub(super) plane: Plane,
    pub(super) waker: Waker,
    /// The run it is in.
    run: u64,
    places: PerSource<Place>,
    pace: Pace,
}

/// Whether an observer reads along with the job.
///
/// ```text
/// Along ── held the pump up for the whole courtesy ──> Left
/// Left  ── has everything, and PROBATION is over ────> Along
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Along,
    Left { at: Instant },
}

/// How long an observer that was left behind is not waited for again. Bounds what a slow one costs the job to
/// courtesy / probation.
const PROBATION: Duration = Duration::from_secs(1);

/// Place in one stream.
#[derive(Debug)]
struct Place {
    credit: Credit,
    /// The oldest byte there was when the viewer came: what is missing below it was gone before.
    found: u64,
    totals: StreamTotals,
    end: End,
}

/// Whether the end of a stream was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    Told,
}

/// What a run holds for a viewer.
enum Step {
    /// Nothing more.
    Passed,
    /// Something, but no credit for it.
    Held,
    Gap {
        to: u64,
        reason: GapReason,
    },
    Data {
        bytes: u64,
    },
}

impl Cursor {
    pub(super) fn new(kind: ViewKind, plane: Plane, waker: Waker) -> Self {
        let place = |_| Place {
            credit: Credit::new(0, None),
            found: 0,
            totals: StreamTotals::default(),
            end: End::Ahead,
        };
        Self { kind, plane, waker, run: 0, places: PerSource::new(place), pace: Pace::Along }
    }

    /// Puts the viewer at `from`; what it was told and given before stays in its totals.
    pub(super) fn place(&mut self, stock: &Stock, from: impl Fn(Source) -> u64, window: Option<Window>) {
        self.run = 0;
        for source in stock.plumbing.sources() {
            let place = self.places.get_mut(*source);
            place.credit = place.credit.moved(from(*source), window);
            place.found = stock.ring(*source).oldest();
            place.end = End::Ahead;
        }
    }

    pub(super) const fn credit(&self, source: Source) -> &Credit {
        &self.places.get(source).credit
    }

    pub(super) const fn credit_mut(&mut self, source: Source) -> &mut Credit {
        &mut self.places.get_mut(source).credit
    }

    pub(super) fn totals(&self, stock: &Stock, source: Source) -> StreamTotals {
        StreamTotals { produced: stock.ring(source).next(), ..self.places.get(source).totals }
    }

    /// Every stream ended and the viewer was told.
    pub(super) fn is_through(&self, stock: &Stock) -> bool {
        stock.plumbing.sources().iter().all(|source| self.places.get(*source).end == End::Told)
    }

    /// It is the owner's, acknowledges what it gets, and has not acknowledged all that it was given: with its connection that may
    /// be lost.
    pub(super) fn is_unsure(&self, stock: &Stock) -> bool {
        let open = |source: &Source| self.places.get(*source).credit.is_open();
        self.kind == ViewKind::Write && stock.plumbing.sources().iter().any(open)
    }

    /// It has not, or may not have, everything.
    pub(super) fn lacks(&self, stock: &Stock) -> bool {
        !self.is_through(stock) || self.is_unsure(stock)
    }

    /// Takes the next thing, at most `max` bytes of it.
    pub(super) fn take(&mut self, stock: &Stock, max: u64, out: &mut impl BufMut) -> Option<Item> {
        self.end_of_stream(stock).or_else(|| self.next(stock, max, out))
    }

    fn next(&mut self, stock: &Stock, max: u64, out: &mut impl BufMut) -> Option<Item> {
        if self.kind == ViewKind::Muted {
            return self.found_nothing();
        }
        self.run = self.run.max(stock.runs.first());
        while let Some(run) = stock.runs.get(self.run) {
            match self.step(stock, run, max) {
                // The last run may grow: it is passed only when another follows.
                Step::Passed if stock.runs.is_last(self.run) => break,
                Step::Passed => self.run += 1,
                step @ (Step::Held | Step::Gap { .. } | Step::Data { .. }) => {
                    return self.apply(stock, run.source, step, out);
                }
            }
        }
        self.next_outside_runs(stock, max, out)
    }

    /// What is missing or left of a stream of which no run is ahead.
    fn next_outside_runs(&mut self, stock: &Stock, max: u64, out: &mut impl BufMut) -> Option<Item> {
        for source in stock.plumbing.sources() {
            let run = Run { source: *source, to: stock.ring(*source).next() };
            match self.step(stock, run, max) {
                Step::Passed => {}
                step @ (Step::Held | Step::Gap { .. } | Step::Data { .. }) => {
                    return self.apply(stock, *source, step, out);
                }
            }
        }
        self.found_nothing()
    }

    /// An observer that reads along: bytes it has not taken are worth a moment's wait.
    pub(super) fn reads_along(&self) -> bool {
        self.kind == ViewKind::Observe && self.pace == Pace::Along
    }

    /// It was waited for in vain.
    pub(super) fn leave_behind(&mut self) {
        self.pace = Pace::Left { at: Instant::now() };
    }

    fn found_nothing(&mut self) -> Option<Item> {
        self.pace = match self.pace {
            Pace::Left { at } if at.elapsed() < PROBATION => Pace::Left { at },
            Pace::Left { .. } | Pace::Along => Pace::Along,
        };
        self.waker.awake.store(false, Ordering::Release);
        None
    }

    fn end_of_stream(&mut self, stock: &Stock) -> Option<Item> {
        let muted = self.kind == ViewKind::Muted;
        stock.plumbing.sources().iter().find_map(|source| {
            let place = self.places.get_mut(*source);
            let offset = stock.ring(*source).next();
            let due =
                place.end == End::Ahead && stock.ended(*source) && (muted || place.credit.sent() == offset);
            due.then(|| {
                place.end = End::Told;
                Item::Eof { stream: source.name(), offset }
            })
        })
    }

    fn step(&self, stock: &Stock, run: Run, max: u64) -> Step {
        let place = self.places.get(run.source);
        let sent = place.credit.sent();
        if sent >= run.to {
            return Step::Passed;
        }
        let credit = place.credit.available().min(max);
        if credit == 0 {
            return Step::Held;
        }
        let oldest = stock.ring(run.source).oldest();
        if sent < place.found {
            return Step::Gap { to: place.found, reason: GapReason::BeforeAttach };
        }
        if sent < oldest {
            return Step::Gap { to: oldest, reason: GapReason::Evicted };
        }
        let there = run.to - sent;
        let bytes = match self.plane {
            Plane::Binary => there.min(credit),
            Plane::Text => whole_characters(stock, run, sent, there.min(credit)),
        };
        if bytes == 0 { Step::Passed } else { Step::Data { bytes } }
    }

    fn apply(&mut self, stock: &Stock, source: Source, step: Step, out: &mut impl BufMut) -> Option<Item> {
        let stream = source.name();
        let place = self.places.get_mut(source);
        let from = place.credit.sent();
        match step {
            Step::Passed => None,
            Step::Held => {
                self.waker.awake.store(false, Ordering::Release);
                None
            }
            Step::Gap { to, reason } => {
                place.credit.skip(to);
                place.totals.dropped += to - from;
                Some(Item::Gap { stream, from, to, reason })
            }
            Step::Data { bytes } => {
                stock.copy(source, from, bytes, out);
                place.credit.deliver(bytes);
                place.totals.delivered += bytes;
                Some(Item::Data { stream, offset: from, bytes: usize::try_from(bytes).unwrap_or_default() })
            }
        }
    }
}

/// How many of `bytes` from `from` on to hand out so that no character is torn; all of them where the cut is not ours to
/// choose: credit ends inside the only character, or the stream does.
fn whole_characters(stock: &Stock, run: Run, from: u64, bytes: u64) -> u64 {
    let ring = stock.ring(run.source);
    let end = from + bytes;
    if stock.ended(run.source) && end == ring.next() {
        return bytes;
    }
    let look = bytes.min(3);
    let mut last = [0; 3];
    ring.copy(end - look, usize::try_from(look).unwrap_or_default(), &mut last.as_mut_slice());
    let seen = last.get(..usize::try_from(look).unwrap_or_default()).unwrap_or_default();
    let whole = bytes - incomplete_tail(seen) as u64;
    let cut_by_credit = end < run.to;
    if whole == 0 && cut_by_credit { bytes } else { whole }
}

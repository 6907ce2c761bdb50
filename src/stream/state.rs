//! What the lock of an output protects, and the rule of how much may be read.

use std::time::Duration;

use tokio::time::Instant;

use super::budget::Share;
use super::cursor::{Cursor, ViewKind};
use super::lane::Stock;
use super::output::{CHUNK, Overflow};
use super::source::Source;

/// What may be read.
pub(super) enum Room {
    Bytes(usize),
    /// Nothing until the write viewer comes on.
    Full,
    /// Nothing for so long, unless observers come on.
    Polite(Duration),
    /// Nothing for so long, unless the write viewer that is awaited comes.
    Awaited(Duration),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stock: Stock,
    pub(super) viewers: Vec<Seat>,
    pub(super) overflow: Overflow,
    pub(super) courtesy: Duration,
    /// Bytes that may still come.
    pub(super) allowance: Option<u64>,
    /// Until when the write viewer that was announced is waited for.
    pub(super) awaited: Option<Instant>,
    /// Its part of the budget, until only the tail is kept.
    pub(super) share: Option<Share>,
    pub(super) owed: Debt,
    pub(super) next_seat: u64,
}

/// Whether somebody may come back for what he has not got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Debt {
    None,
    /// A write viewer's connection broke before it had everything, or the rings are to be read at the end.
    Owed,
    /// Nobody can come any more.
    Forgiven,
}

/// A viewer's cursor and the number that its handle knows it by.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) cursor: Cursor,
}

impl State {
    /// The write viewer, if any.
    pub(super) fn writer(&self) -> Option<&Cursor> {
        self.viewers.iter().map(|seat| &seat.cursor).find(|cursor| cursor.kind == ViewKind::Write)
    }

    /// Makes room for another write viewer: the one there is observes from now on, and nothing is owed but to the new one.
    pub(super) fn displace_writer(&mut self, except: Option<u64>) {
        if self.owed == Debt::Owed {
            self.owed = Debt::None;
        }
        self.awaited = None;
        let writer = |seat: &&mut Seat| seat.cursor.kind == ViewKind::Write && Some(seat.number) != except;
        for seat in self.viewers.iter_mut().filter(writer) {
            seat.cursor.kind = ViewKind::Observe;
            seat.cursor.waker.wake();
        }
    }

    pub(super) fn seat(&mut self, cursor: Cursor) -> u64 {
        let number = self.next_seat;
        self.next_seat += 1;
        self.viewers.push(Seat { number, cursor });
        number
    }

    /// What must not be overwritten: nothing, unless a write viewer is to get everything.
    fn floor(&self, source: Source) -> u64 {
        match (self.overflow, self.writer()) {
            (Overflow::Block, Some(cursor)) => {
                cursor.credit(source).passed(self.stock.ring(source).capacity())
            }
            (Overflow::Block, None) if self.still_awaited().is_some() => 0,
            (Overflow::Block, None) | (Overflow::Ring, _) => u64::MAX,
        }
    }

    /// How much longer the announced write viewer is waited for.
    fn still_awaited(&self) -> Option<Duration> {
        self.awaited
            .map(|until| until.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
    }

    /// What may be read of `source` now.
    pub(super) fn room(&mut self, source: Source) -> Room {
        let ordered = match self.stock.runs.in_the_way(source) {
            Some(run) => self.floor(run.source) >= run.to,
            None => true,
        };
        let bytes = if ordered { self.stock.ring(source).room(self.floor(source)).min(CHUNK) } else { 0 };
        if bytes > 0 {
            return self.politely(source, bytes);
        }
        match (self.overflow, self.writer(), self.still_awaited()) {
            (Overflow::Block, None, Some(left)) => Room::Awaited(left),
            _ => Room::Full,
        }
    }

    /// Holds back from `bytes` what observers that read along have not taken, as long as courtesy lasts.
    ///
    /// This is how several fast viewers of one flood lose nothing: scheduling alone sets them apart by more than a
    /// ring. It is no back-pressure: who does not take a fair piece in time is left behind.
    fn politely(&mut self, source: Source, bytes: usize) -> Room {
        let enough = bytes.min(self.stock.ring(source).capacity() / 4);
        let polite = self.polite_room(source).min(bytes);
        if polite >= enough {
            self.stock.lanes.get_mut(source).polite_since = None;
            return Room::Bytes(polite);
        }
        let since = *self.stock.lanes.get_mut(source).polite_since.get_or_insert_with(Instant::now);
        let left = self.courtesy.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Room::Polite(left);
        }
        let ring = self.stock.ring(source);
        for cursor in
            self.viewers.iter_mut().map(|seat| &mut seat.cursor).filter(|cursor| cursor.reads_along())
        {
            if ring.room(cursor.credit(source).sent()) < enough {
                cursor.leave_behind();
            }
        }
        self.stock.lanes.get_mut(source).polite_since = None;
        Room::Bytes(self.polite_room(source).min(bytes))
    }

    /// Bytes that can be read without taking one from an observer that reads along.
    fn polite_room(&self, source: Source) -> usize {
        if self.overflow == Overflow::Ring || self.courtesy.is_zero() {
            return usize::MAX;
        }
        let along = self.viewers.iter().map(|seat| &seat.cursor).filter(|cursor| cursor.reads_along());
        let slowest = along.map(|cursor| cursor.credit(source).sent()).min();
        slowest.map_or(usize::MAX, |sent| self.stock.ring(source).room(sent))
    }

    /// No viewer has anything left to get, nor will one come for anything.
    pub(super) fn is_read_out(&self) -> bool {
        self.owed != Debt::Owed
            && self.awaited.is_none()
            && self
                .viewers
                .iter()
                .all(|seat| seat.cursor.is_through(&self.stock) && !self.is_unsure(&seat.cursor))
    }

    /// Whether the viewer may come back for what it was given.
    pub(super) fn is_unsure(&self, cursor: &Cursor) -> bool {
        self.owed != Debt::Forgiven && cursor.is_unsure(&self.stock)
    }

    /// Somebody may come back.
    pub(super) fn owe(&mut self) {
        if self.owed != Debt::Forgiven {
            self.owed = Debt::Owed;
        }
    }

    /// Has every viewer look again.
    pub(super) fn changed(&mut self) {
        for seat in &mut self.viewers {
            seat.cursor.waker.wake();
        }
    }
}

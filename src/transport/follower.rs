//! What one connection has been told about one job.
//!
//! A follower compares the job's state with what it has told, and gives out the difference one message at a time, in
//! the order of the protocol: state and exit at once; output, gaps and ends in the order of the ring; `job.closed` last
//! and once. Nothing is queued for it, so a slow connection costs its window and no more.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use crate::domain::{GapReason, JobId};
use crate::rpc::{event, frame};
use crate::session::{Job, Pause};
use crate::stream::{Item, StdinWatch, View, ViewError, ViewKind, Viewer};

use super::connection::Plane;
use super::writer::Out;

/// A connection's view of a job.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) job: Arc<Job>,
    pub(super) channel: u32,
    pub(super) viewer: Viewer,
    /// A viewer that named a window may stall.
    pub(super) windowed: bool,
    told: Told,
    /// What it has been told of stdin credit.
    stdin: Option<StdinWatch>,
    /// `job.eof` of streams that ended before the job did: they come after `job.exited`.
    ends: VecDeque<Message>,
    /// Answers that must come first: until then it gives nothing out.
    held: u32,
    /// What must not come before `job.closed`.
    parked: VecDeque<Out>,
}

#[derive(Debug, Default)]
struct Told {
    paused: Option<Pause>,
    /// Its first byte.
    begun: bool,
    exited: bool,
    closed: bool,
}

impl Follower {
    pub(super) fn new(
        job: Arc<Job>,
        channel: u32,
        viewer: Viewer,
        windowed: bool,
        wake: &Arc<Notify>,
    ) -> Self {
        job.listen(wake);
        Self {
            job,
            channel,
            viewer,
            windowed,
            told: Told::default(),
            stdin: None,
            ends: VecDeque::new(),
            held: 0,
            parked: VecDeque::new(),
        }
    }

    /// Moves the view as if it were new.
    ///
    /// # Errors
    /// See [`ViewError`]; nothing has changed then.
    pub(super) fn reposition(&mut self, view: View<'_>) -> Result<(), ViewError> {
        self.viewer.reposition(view)?;
        self.windowed = view.window.is_some();
        self.ends.clear();
        Ok(())
    }

    /// Whether its connection may write to the job: then it hears of stdin credit.
    pub(super) fn may_write(&mut self, may: bool, wake: &Arc<Notify>) {
        let stdin = self.job.stdin.as_ref().filter(|_| may);
        self.stdin = stdin.map(|stdin| stdin.watch(wake));
    }

    pub(super) fn id(&self) -> JobId {
        self.job.card.id
    }

    /// `job.closed` is out, and every answer that waited for it; and an owner that could come back needs nothing again.
    pub(super) fn is_done(&self) -> bool {
        let comes_back = || self.job.card.detachable && self.viewer.is_unsure();
        self.told.closed && self.parked.is_empty() && !comes_back()
    }

    /// Gives nothing out until it was let go so many times more.
    pub(super) const fn hold(&mut self, times: u32) {
        self.held += times;
    }

    /// An answer that it waited for is out.
    pub(super) const fn let_go(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    /// `job.closed` is out.
    pub(super) const fn has_closed(&self) -> bool {
        self.told.closed
    }

    /// Keeps an answer until `job.closed` is out.
    pub(super) fn park(&mut self, out: Out) {
        self.parked.push_back(out);
    }

    /// Gives nothing more out but the answers that waited.
    pub(super) const fn quit(&mut self) {
        self.told.closed = true;
    }

    /// The next answer that waited for `job.closed`, once that is out.
    pub(super) fn unpark(&mut self) -> Option<Out> {
        if self.told.closed { self.parked.pop_front() } else { None }
    }

    /// The next message, if there is one now. At most `most` payload bytes.
    pub(super) fn next(&mut self, plane: Plane, most: usize) -> Option<Message> {
        if self.told.closed || self.held > 0 {
            return None;
        }
        self.state_change()
            .or_else(|| self.credit(plane))
            .or_else(|| self.end_of_stream())
            .or_else(|| self.output(plane, most))
            .or_else(|| self.closed())
    }

    fn state_change(&mut self) -> Option<Message> {
        let state = self.job.state();
        if state.exited.is_none() && state.paused != self.told.paused {
            self.told.paused = state.paused;
            return Some(text(event::state(self.id(), state.paused.map(|p| p.exact))));
        }
        let exited = state.exited.filter(|_| !self.told.exited)?;
        self.told.exited = true;
        Some(text(event::exited(self.id(), exited.status, exited.reason)))
    }

    fn credit(&mut self, plane: Plane) -> Option<Message> {
        let credit = self.stdin.as_mut()?.poll()?;
        let free = u32::try_from(credit.free).unwrap_or(u32::MAX);
        Some(match plane {
            Plane::Json => text(event::stdin_credit(self.id(), credit.offset, free)),
            Plane::Binary => binary(frame::stdin_credit(self.channel, credit.offset, free)),
        })
    }

    fn end_of_stream(&mut self) -> Option<Message> {
        if self.told.exited { self.ends.pop_front() } else { None }
    }

    fn output(&mut self, plane: Plane, most: usize) -> Option<Message> {
        match plane {
            Plane::Binary => self.output_frame(most),
            Plane::Json => self.output_text(most),
        }
    }

    fn output_frame(&mut self, most: usize) -> Option<Message> {
        // All that may come at once: growing on the way would copy it again.
        let mut buffer = BytesMut::with_capacity(frame::HEADER + most);
        buffer.resize(frame::HEADER, 0);
        Some(match self.viewer.next(most, &mut buffer)? {
            Item::Data { stream, offset, .. } => {
                self.begin();
                let header = frame::output_header(self.channel, stream, offset);
                if let Some(head) = buffer.first_chunk_mut() {
                    *head = header;
                }
                Message::Binary(buffer.freeze())
            }
            Item::Gap { stream, from, to, reason } => {
                count_gap(reason);
                binary(frame::gap(self.channel, stream, from, to, reason))
            }
            Item::Eof { stream, offset } => {
                self.ends.push_back(text(event::eof(self.id(), stream, offset)));
                if self.viewer.kind() == ViewKind::Muted {
                    return self.end_of_stream().or_else(|| self.output_frame(most));
                }
                binary(frame::last_output(self.channel, stream, offset))
            }
        })
    }

    /// The viewer never splits a character of a text; what is not text travels as bytes.
    fn output_text(&mut self, most: usize) -> Option<Message> {
        let id = self.id();
        let mut buffer = Vec::new();
        Some(text(match self.viewer.next(most, &mut buffer)? {
            Item::Data { stream, offset, .. } => {
                self.begin();
                match std::str::from_utf8(&buffer) {
                    Ok(data) => event::output_text(id, stream, offset, data),
                    Err(_) => event::output_bytes(id, stream, offset, &buffer),
                }
            }
            Item::Gap { stream, from, to, reason } => {
                count_gap(reason);
                event::gap(id, stream, from, to, reason)
            }
            Item::Eof { stream, offset } => {
                self.ends.push_back(text(event::eof(id, stream, offset)));
                return self.end_of_stream().or_else(|| self.output_text(most));
            }
        }))
    }

    /// Says how long the first byte took, once.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.told.begun, true) {
            tracing::debug!(stage = "first byte", job = %self.id(), took = ?self.job.since.elapsed(), "stage");
        }
    }

    fn closed(&mut self) -> Option<Message> {
        // By what was told, not by what is so: an exit since the look at it is told first.
        if !self.told.exited || !self.viewer.is_through() {
            return None;
        }
        // Looked at last: whether the output went over its limit is known once all of it is read.
        let closed = self.job.state().closed?;
        self.told.closed = true;
        let totals = self.viewer.totals();
        Some(text(event::closed(self.id(), closed.survivors, closed.reason, &closed.usage, &totals)))
    }
}

fn count_gap(reason: GapReason) {
    ::metrics::counter!("execgate_stream_gaps_total", "reason" => reason.as_str()).increment(1);
}

pub(super) fn text(text: String) -> Message {
    Message::Text(text.into())
}

fn binary(bytes: Vec<u8>) -> Message {
    Message::Binary(bytes.into())
}

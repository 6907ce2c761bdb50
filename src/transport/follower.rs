//! What one connection has been told about one job.
//!
//! A follower compares the job's state with what it has told, and gives out the difference one message at a time, in
//! the order of the protocol: state and exit at once; output, gaps and ends in the order of the ring; `job.closed` last
//! and once. Nothing is queued for it, so a slow connection costs its window and no more.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::BytesMut;

use crate::domain::{JobId, StreamName};
use crate::rpc::{event, frame};
use crate::session::{Job, Pause};
use crate::stream::{Item, Piece, Utf8Splitter, Viewer};

use super::connection::Plane;

/// A connection's view of a job.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) job: Arc<Job>,
    pub(super) channel: u32,
    pub(super) viewer: Viewer,
    /// Its connection may write to the job: it hears of stdin credit.
    pub(super) writes: bool,
    /// A viewer that named a window may stall.
    pub(super) windowed: bool,
    told: Told,
    text: [Utf8Splitter; 2],
    /// Comes right after the message before it.
    waiting: Option<Message>,
    /// Answers that must not come before `job.closed`.
    after: Vec<String>,
}

#[derive(Debug, Default)]
struct Told {
    paused: Option<Pause>,
    exited: bool,
    stdin: Option<u64>,
    closed: bool,
}

impl Follower {
    pub(super) fn new(job: Arc<Job>, channel: u32, viewer: Viewer, writes: bool, windowed: bool) -> Self {
        Self {
            job,
            channel,
            viewer,
            writes,
            windowed,
            told: Told::default(),
            text: Default::default(),
            waiting: None,
            after: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.job.card.id
    }

    /// `job.closed` is out, and every answer that waited for it.
    pub(super) fn is_done(&self) -> bool {
        self.told.closed && self.after.is_empty()
    }

    /// Keeps an answer until `job.closed` is out.
    pub(super) fn answer_after(&mut self, answer: String) {
        self.after.push(answer);
    }

    /// The next message, if there is one now. At most `most` payload bytes.
    pub(super) fn next(&mut self, plane: Plane, most: usize) -> Option<Message> {
        if self.told.closed {
            return self.after.pop().map(text);
        }
        self.state_change()
            .or_else(|| self.credit(plane))
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
        let stdin = self.job.stdin.as_ref().filter(|_| self.writes)?;
        let credit = stdin.credit_if_changed(&mut self.told.stdin)?;
        Some(match plane {
            Plane::Json => text(event::stdin_credit(self.id(), credit.offset, credit.free)),
            Plane::Binary => binary(frame::stdin_credit(self.channel, credit.offset, credit.free)),
        })
    }

    fn output(&mut self, plane: Plane, most: usize) -> Option<Message> {
        if let Some(waiting) = self.waiting.take() {
            return Some(waiting);
        }
        match plane {
            Plane::Binary => self.output_frame(most),
            Plane::Json => self.output_text(most),
        }
    }

    fn output_frame(&mut self, most: usize) -> Option<Message> {
        let mut buffer = BytesMut::with_capacity(frame::HEADER + most.min(self.viewer.ready_hint()));
        buffer.resize(frame::HEADER, 0);
        Some(match self.viewer.next(most, &mut buffer)? {
            Item::Data { stream, offset, .. } => {
                let header = frame::output_header(self.channel, stream, offset);
                if let Some(head) = buffer.first_chunk_mut() {
                    *head = header;
                }
                Message::Binary(buffer.freeze())
            }
            Item::Gap { stream, from, to, reason } => {
                binary(frame::gap(self.channel, stream, from, to, reason))
            }
            Item::Eof { stream, offset } if self.viewer.is_muted() => {
                text(event::eof(self.id(), stream, offset))
            }
            Item::Eof { stream, offset } => {
                self.waiting = Some(text(event::eof(self.id(), stream, offset)));
                binary(frame::last_output(self.channel, stream, offset))
            }
        })
    }

    /// A chunk that was held back whole, as the beginning of a character, makes no message: the next one is taken.
    fn output_text(&mut self, most: usize) -> Option<Message> {
        let id = self.id();
        loop {
            let mut buffer = BytesMut::with_capacity(most.min(self.viewer.ready_hint()));
            let (stream, end) = match self.viewer.next(most, &mut buffer)? {
                Item::Data { stream, offset, .. } => match self.splitter(stream).push(offset, &buffer) {
                    Some(piece) => return Some(output(id, stream, piece)),
                    None => continue,
                },
                Item::Gap { stream, from, to, reason } => (stream, event::gap(id, stream, from, to, reason)),
                Item::Eof { stream, offset } => (stream, event::eof(id, stream, offset)),
            };
            let Some(held) = self.splitter(stream).flush() else { return Some(text(end)) };
            self.waiting = Some(text(end));
            return Some(output(id, stream, held));
        }
    }

    fn splitter(&mut self, stream: StreamName) -> &mut Utf8Splitter {
        let [first, second] = &mut self.text;
        match stream {
            StreamName::Stderr => second,
            StreamName::Stdin | StreamName::Stdout | StreamName::Pty => first,
        }
    }

    fn closed(&mut self) -> Option<Message> {
        let closed = self.job.state().closed.filter(|_| self.viewer.is_through())?;
        self.told.closed = true;
        let totals = self.viewer.totals();
        Some(text(event::closed(self.id(), closed.survivors, closed.reason, &closed.usage, &totals)))
    }
}

fn output(job: JobId, stream: StreamName, piece: Piece) -> Message {
    text(match piece {
        Piece::Text(offset, text) => event::output_text(job, stream, offset, &text),
        Piece::Bytes(offset, bytes) => event::output_bytes(job, stream, offset, &bytes),
    })
}

pub(super) fn text(text: String) -> Message {
    Message::Text(text.into())
}

fn binary(bytes: Vec<u8>) -> Message {
    Message::Binary(bytes.into())
}

//! The reading half of a socket.
//!
//! One task reads, decodes and answers. Requests are begun in the order in which they came and may finish in any;
//! those in flight are bounded, and further ones are refused: the socket is always read, so that signs of life,
//! acknowledgements and the end are seen. When the task ends, requests in flight are dropped with it.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, SplitSink, SplitStream};
use governor::{DefaultDirectRateLimiter, Quota};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use crate::domain::{Failure, Whose};
use crate::rpc::{self, Call, Entry, Id, Incoming, Method, Rejected};

use super::auth::{OnExpiry, Standing};
use super::connection::{Close, Connection, Plane, UNAUTHENTICATED};
use super::dispatch::{self, Reply};
use super::fragments::TooMany;
use super::jobs;
use super::router::fresh_request_id;
use super::upgrade::Socket;
use super::writer::Out;

/// How often silence is looked at, at the least, and at the most as a part of what makes a peer gone.
const LOOK: Duration = Duration::from_secs(5);
const LOOKS: u32 = 4;

/// How long a peer may go on sending after our goodbye.
const LINGER: Duration = Duration::from_millis(300);

/// Control frames a second that a peer may send, and twice as many at once: more is a flood.
const CONTROL_PER_SECOND: u32 = 50;

/// A request that was answered: its ids, and what the writer is to do.
struct Done {
    requests: usize,
    ids: Vec<Id>,
    out: Option<Out>,
}

pub(super) struct Reader {
    connection: Arc<Connection>,
    stream: SplitStream<Socket>,
    out: mpsc::Sender<Out>,
    stop: CancellationToken,
    flight: FuturesUnordered<BoxFuture<'static, Done>>,
    ids: HashSet<Id>,
    /// Requests in flight, each entry of a batch counted.
    outstanding: usize,
    requests: DefaultDirectRateLimiter,
    control: DefaultDirectRateLimiter,
    /// The credential stands no more, and the operator lets what runs go on.
    expired: bool,
}

impl Reader {
    pub(super) fn new(
        connection: Arc<Connection>,
        stream: SplitStream<Socket>,
        out: mpsc::Sender<Out>,
        stop: CancellationToken,
    ) -> Self {
        let requests = twice_at_once(connection.settings.requests_per_second);
        Self {
            connection,
            stream,
            out,
            stop,
            flight: FuturesUnordered::new(),
            ids: HashSet::new(),
            outstanding: 0,
            requests,
            control: twice_at_once(CONTROL_PER_SECOND),
            expired: false,
        }
    }

    /// Reads what a peer still sends after our goodbye, for a while: closing a socket over unread bytes resets it, and the
    /// reset may overtake the goodbye. Whatever it is, nobody looks at it: the library would read nothing after a fault.
    pub(super) async fn linger(self, sink: SplitSink<Socket, Message>) {
        // A server that shuts down has less patience.
        let most = if self.stop.is_cancelled() { LINGER / 6 } else { LINGER };
        let Ok(mut socket) = self.stream.reunite(sink) else { return };
        let below = socket.get_mut().inner();
        let rest = async {
            below.shutdown().await?;
            tokio::io::copy(below, &mut tokio::io::sink()).await
        };
        // A peer that is gone sends nothing more.
        let _ = timeout(most, rest).await;
    }

    /// Reads to the end of the connection.
    pub(super) async fn run(&mut self, standing: Standing) -> Close {
        let mut over = Box::pin(standing.clone().over());
        let least = Duration::from_millis(10);
        let mut look = interval((self.connection.settings.dead_after / LOOKS).clamp(least, LOOK));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return (1012, "the gateway is shutting down"),
                () = self.connection.cancel.cancelled() => return self.connection.failure(),
                () = &mut over, if !self.expired => match standing.on_expiry() {
                    OnExpiry::End => return UNAUTHENTICATED,
                    OnExpiry::Refuse => self.expired = true,
                },
                Some(done) = self.flight.next() => {
                    if let Err(close) = self.answered(done).await { return close }
                }
                _ = look.tick() => if self.connection.life.silent_for() > self.connection.settings.dead_after {
                    return (1001, "no sign of life");
                },
                message = self.stream.next() => {
                    self.connection.life.touch();
                    if let Err(close) = self.received(message).await { return close }
                }
            }
        }
    }

    async fn answered(&mut self, done: Done) -> Result<(), Close> {
        self.outstanding = self.outstanding.saturating_sub(done.requests);
        for id in &done.ids {
            self.ids.remove(id);
        }
        match done.out {
            Some(out) => self.send(out).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, out: Out) -> Result<(), Close> {
        tokio::select! {
            sent = self.out.send(out) => sent.map_err(|_| (1011, "the connection broke")),
            () = self.stop.cancelled() => Err((1012, "the gateway is shutting down")),
            () = self.connection.cancel.cancelled() => Err(self.connection.failure()),
            () = silence(&self.connection) => Err((1001, "no sign of life")),
        }
    }

    async fn received(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<(), Close> {
        match message {
            None => Err((1000, "")),
            Some(Err(error)) => Err(close_for(&error)),
            Some(Ok(Message::Text(text))) => self.text(text.as_str()).await,
            Some(Ok(Message::Binary(bytes))) => self.binary(&bytes).await,
            // Raw frames are only ever written.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.control.check().map_err(|_| (1008, "too many control frames"))
            }
            Some(Ok(Message::Close(_))) => Err((1000, "")),
        }
    }

    async fn text(&mut self, text: &str) -> Result<(), Close> {
        let since = Instant::now();
        match rpc::decode(text, &rpc::Limits::default()) {
            Incoming::Refused(failure) => {
                let failure = self.charge().err().unwrap_or(failure);
                let answer = rpc::error(None, &failure, &fresh_request_id());
                self.send(Out::text(answer)).await
            }
            Incoming::Single(entry) => {
                let begun = self.begin(entry, since);
                self.flight.push(Box::pin(async move {
                    let (id, reply) = begun.await;
                    Done { requests: 1, ids: id.into_iter().collect(), out: reply.into_out() }
                }));
                Ok(())
            }
            Incoming::Batch(entries) => {
                let begun: Vec<_> = entries.into_iter().map(|entry| self.begin(entry, since)).collect();
                let requests = begun.len();
                self.flight.push(Box::pin(async move {
                    let replies = join_all(begun).await;
                    let ids = replies.iter().filter_map(|(id, _)| id.clone()).collect();
                    Done { requests, ids, out: dispatch::batch(replies) }
                }));
                Ok(())
            }
        }
    }

    /// Begins one request: the future that answers it, with the id to free afterwards.
    fn begin(&mut self, entry: Entry, since: Instant) -> BoxFuture<'static, (Option<Id>, Reply)> {
        let request = fresh_request_id();
        self.outstanding += 1;
        let bad = |bad: Rejected| Rejected { failure: self.charge().err().unwrap_or(bad.failure), ..bad };
        let call = entry.map_err(bad).and_then(|call| match self.admit(&call) {
            Ok(()) => Ok(call),
            Err(failure) => Err(Rejected { id: call.id, failure }),
        });
        match call {
            Ok(Call { id, method }) => {
                let held = id.clone();
                let answering = dispatch::answer(self.connection.clone(), id, method, request, since);
                Box::pin(async move { (held, answering.await) })
            }
            Err(Rejected { id, failure }) => {
                let reply = Reply::error(id.as_ref(), &failure, &request);
                dispatch::time_refusal(&failure, since);
                Box::pin(async move { (None, reply) })
            }
        }
    }

    /// Counts the request and takes its id; a caller whose credential expired may ask for nothing more.
    fn admit(&mut self, call: &Call) -> Result<(), Failure> {
        if self.expired {
            return Err(Failure::Unauthenticated);
        }
        // An acknowledgement that were refused would be missing for ever, and cost more to refuse than to take.
        if matches!(call.method, Method::JobAck { .. }) && call.id.is_none() {
            return Ok(());
        }
        let most = self.connection.settings.max_outstanding;
        if self.outstanding > most {
            let limit = "requests in flight on the connection".to_owned();
            return Err(Failure::LimitExceeded { whose: Whose::Caller, limit, value: most as u64 });
        }
        self.charge()?;
        match &call.id {
            Some(id) if !id.is_null() && !self.ids.insert(id.clone()) => {
                Err(Failure::InvalidRequest("the id is still in use by a request in flight".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a request, good or bad, against the rate of the connection.
    fn charge(&self) -> Result<(), Failure> {
        self.requests.check().map_err(|not_until| {
            let clock = governor::clock::DefaultClock::default();
            let retry_after = not_until.wait_time_from(governor::clock::Clock::now(&clock));
            Failure::RateLimited { bucket: "requests of the connection".to_owned(), retry_after }
        })
    }

    async fn binary(&mut self, bytes: &[u8]) -> Result<(), Close> {
        if self.connection.plane == Plane::Json {
            return Err((1003, "binary frames need the subprotocol execgate.v1"));
        }
        let frame =
            rpc::frame::decode(bytes).map_err(|bad| (bad.close_code(), "not a frame of execgate.v1"))?;
        if self.expired && matches!(frame, rpc::frame::ClientFrame::Stdin { .. }) {
            return Err(UNAUTHENTICATED);
        }
        match jobs::frame(&self.connection, frame)? {
            Some(refused) => self.send(Out::text(refused)).await,
            None => Ok(()),
        }
    }
}

/// Completes when the peer has shown no sign of life for too long.
async fn silence(connection: &Connection) {
    loop {
        let left = connection.settings.dead_after.saturating_sub(connection.life.silent_for());
        if left.is_zero() {
            return;
        }
        sleep(left).await;
    }
}

fn twice_at_once(rate: u32) -> DefaultDirectRateLimiter {
    let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
    let burst = rate.checked_mul(NonZeroU32::MIN.saturating_add(1)).unwrap_or(NonZeroU32::MAX);
    DefaultDirectRateLimiter::direct(Quota::per_second(rate).allow_burst(burst))
}

/// The close code that says what a peer did wrong.
fn close_for(error: &tungstenite::Error) -> Close {
    use tungstenite::error::{CapacityError, Error, ProtocolError};
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => (1009, "message too large"),
        Error::Capacity(_) => (1009, "too large"),
        Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<TooMany>()) => {
            (1009, "a message in too many fragments")
        }
        Error::Utf8(_) => (1007, "text that is not UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => (1001, "reset"),
        Error::Protocol(_) => (1002, "a protocol error"),
        _ => (1001, "the connection broke"),
    }
}

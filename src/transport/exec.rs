//! `POST /v1/exec`: one command by one HTTP request.
//!
//! The body is that of `job.start`, with `stdin_data`. The answer is what a WebSocket would get, one JSON text a line: the
//! answer to `job.start`, then the job's notifications up to `job.closed`. With `?wait=true` it is one JSON object, with
//! as much of the output as its rings hold.
//!
//! The request is the connection: it owns a session of its own, and when it is dropped, the session ends and with it the
//! job. A blank line (white space before a JSON text means nothing) is sent whenever nothing was for a while; writing is
//! what notices a peer that is gone. What waits to be sent is one line, besides what the socket takes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Extension, RawQuery, Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::domain::{ConnectionId, Failure, Origin, RequestId, Transport};
use crate::rpc::method::Exec;
use crate::rpc::{self, Id, event, outcome};
use crate::session::{Caller, Drain, Job, JobRequest, Leash, Link, Reading, SessionRequest};
use crate::stream::{Plane as Cut, Stdin, StdinRefused, View, ViewKind, Viewer};

use super::auth::{Identified, OnExpiry, Standing};
use super::connection::Plane;
use super::doorstep::Guest;
use super::follower::Follower;
use super::refusal::refused;
use super::router::Gateway;
use super::writer::LAST_WORDS;
use super::{body, jobs, views};

/// Longest silence of an answer. A peer that is gone is noticed by the second beat at the latest: the HTTP library looks
/// for its end itself only while it has sent nothing behind the request.
const BEAT: Duration = Duration::from_secs(1);

/// How the answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Line by line, as it happens.
    Lines,
    /// One object at the end.
    Whole,
}

/// `POST /v1/exec`.
pub(super) async fn exec(
    State(gateway): State<Gateway>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Extension(request_id): Extension<RequestId>,
    Extension(guest): Extension<Guest>,
    identified: Identified,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let caller = Caller {
        principal: identified.principal.clone(),
        origin: Origin { address: peer.ip(), transport: Transport::Http },
    };
    let ends = Ends { standing: gateway.access.standing(identified), _guest: guest };
    let body = match body::read(request.into_body(), gateway.settings.load().max_message).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let begun = async {
        let manner = manner(query.as_deref())?;
        let exec = rpc::decode_exec(&body, &rpc::Limits::default())?;
        Execution::begin(&gateway, &caller, exec, manner, ends).await.map(|execution| (manner, execution))
    };
    match begun.await {
        Ok((manner, execution)) => execution.answer(manner),
        Err(failure) => refused(&failure, &request_id),
    }
}

fn manner(query: Option<&str>) -> Result<Manner, Failure> {
    match query {
        None | Some("" | "wait=false") => Ok(Manner::Lines),
        Some("wait=true") => Ok(Manner::Whole),
        Some(_) => Err(Failure::InvalidParams("the query may be wait=true or wait=false".to_owned())),
    }
}

/// A running job and the request that owns it. Dropping it ends the session, and the session ends the job.
struct Execution {
    gateway: Gateway,
    _leash: Leash,
    job: Arc<Job>,
    wake: Arc<Notify>,
    ends: Ends,
}

/// What the request stands on: its credential, and its connection's places.
struct Ends {
    standing: Standing,
    _guest: Guest,
}

impl Execution {
    async fn begin(
        gateway: &Gateway,
        caller: &Caller,
        exec: Exec,
        manner: Manner,
        ends: Ends,
    ) -> Result<Self, Failure> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)
            .map_err(|e| Failure::Internal(format!("the kernel gave no randomness: {e}")))?;
        let wake = Arc::new(Notify::new());
        let (id, admission) =
            (ConnectionId::from_bits(u128::from_ne_bytes(bits)), Arc::new(ends.standing.clone()));
        let link = Link::new(id, wake.clone(), admission);
        let leash = Leash::new(link, gateway.tracker.clone());
        let session = gateway.core.open(caller, SessionRequest::default(), &leash.link).await?.session;
        let reading = match manner {
            Manner::Lines => Reading::All,
            Manner::Whole => Reading::Rings,
        };
        let request = JobRequest { reading, ..jobs::request(exec.start) };
        let job = gateway.core.start_job(&session, request, caller, &leash.link).await?;
        if let Some(stdin) = &job.stdin {
            gateway.tracker.spawn(feed(stdin.clone(), exec.stdin));
        }
        Ok(Self { gateway: gateway.clone(), _leash: leash, job, wake, ends })
    }

    /// The response, whose body is given out by a task of the tracker. The task ends with the job, or when the body is
    /// dropped or stalls, the credential ends, or the server stops.
    fn answer(self, manner: Manner) -> Response {
        let (sender, mut lines) = mpsc::channel(1);
        let kind = match manner {
            Manner::Lines => "application/x-ndjson",
            Manner::Whole => "application/json",
        };
        self.gateway.tracker.clone().spawn(async move {
            let out = Outlet { sender };
            if self.give(manner, &out).await.is_err() {
                tracing::info!(job = %self.job.card.id, "the request was dropped: its job ends");
            }
        });
        let body = futures_util::stream::poll_fn(move |context| {
            lines.poll_recv(context).map(|line| line.map(Ok::<_, Infallible>))
        });
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(body)).into_response()
    }

    /// Gives the answer, until something ends it: that is watched around every step, so that neither a job that goes on
    /// printing nor a peer that reads nothing puts it off.
    async fn give(&self, manner: Manner, out: &Outlet) -> Result<(), Gone> {
        let mut given = std::pin::pin!(async {
            match manner {
                Manner::Lines => self.lines(out).await,
                Manner::Whole => self.whole(out).await,
            }
        });
        tokio::select! {
            biased;
            () = out.sender.closed() => Err(Gone),
            () = self.ends.over() => Err(Gone),
            // How the job ended is told, to a peer that reads it.
            () = self.gateway.stop.cancelled() => timeout(LAST_WORDS, given).await.unwrap_or(Err(Gone)),
            given = &mut given => given,
        }
    }

    async fn lines(&self, out: &Outlet) -> Result<(), Gone> {
        out.give(rpc::result(&Id::Null, views::job(&self.job).executed())).await?;
        let viewer = self.view(ViewKind::Write)?;
        let mut follower = Follower::new(self.job.clone(), 0, viewer, false, &self.wake);
        let mut drain = self.gateway.core.drain();
        loop {
            if drain.has_changed().unwrap_or(false) {
                let state = *drain.borrow_and_update();
                out.announce(state).await?;
            }
            match follower.next(Plane::Json, self.gateway.settings.load().frame) {
                Some(Message::Text(line)) => out.give(line.as_str().to_owned()).await?,
                Some(_) => {}
                None if follower.is_done() => return Ok(()),
                None => {
                    tokio::select! {
                        () = self.quiet() => out.beat().await?,
                        () = self.wake.notified() => {}
                        Ok(()) = drain.changed() => {
                            let state = *drain.borrow_and_update();
                            out.announce(state).await?;
                        }
                    }
                }
            }
        }
    }

    async fn whole(&self, out: &Outlet) -> Result<(), Gone> {
        // Reads nothing, so that the rings keep what they hold; the other one tells when they are complete.
        let _parked = self.view(ViewKind::Observe)?;
        let mut ends = self.view(ViewKind::Muted)?;
        self.job.listen(&self.wake);
        while self.job.state().closed.is_none() || !ends.is_through() {
            while ends.next(1, &mut Vec::new()).is_some() {}
            if self.job.state().closed.is_some() && ends.is_through() {
                break;
            }
            tokio::select! {
                () = self.quiet() => out.beat().await?,
                () = self.wake.notified() => {}
            }
        }
        self.outcome(out).await
    }

    /// The object, a piece at a time: at most one stream's ring is copied.
    async fn outcome(&self, out: &Outlet) -> Result<(), Gone> {
        let streams = self.job.output.status();
        let totals: Vec<_> = streams.iter().map(|s| (s.stream, s.next, s.oldest)).collect();
        out.put(outcome::head(views::job(&self.job).value(), &totals)).await?;
        for status in streams {
            let bytes = self.job.output.tail(status.stream, usize::MAX);
            for piece in outcome::pieces(status.stream, &bytes) {
                out.put(piece).await?;
            }
        }
        out.put("}\n".to_owned()).await
    }

    fn view(&self, kind: ViewKind) -> Result<Viewer, Gone> {
        let view = View { from: &[], kind, plane: Cut::Text, window: None };
        self.job.output.view(view, self.wake.clone()).map_err(|_| Gone)
    }

    /// Nothing was sent for a while.
    async fn quiet(&self) {
        sleep(self.gateway.settings.load().ping_every.min(BEAT)).await;
    }
}

impl Ends {
    /// The credential stands no more, and that is to end what runs.
    async fn over(&self) {
        self.standing.clone().over().await;
        if self.standing.on_expiry() == OnExpiry::Refuse {
            std::future::pending().await
        }
    }
}

/// Nobody reads the answer any more.
#[derive(Debug)]
struct Gone;

/// The way to the socket.
struct Outlet {
    sender: mpsc::Sender<Bytes>,
}

impl Outlet {
    /// A line.
    async fn give(&self, mut line: String) -> Result<(), Gone> {
        line.push('\n');
        self.put(line).await
    }

    async fn announce(&self, state: Drain) -> Result<(), Gone> {
        match state {
            Drain::Draining { deadline } => {
                self.give(event::draining(deadline.saturating_duration_since(Instant::now()))).await
            }
            Drain::Open | Drain::Leaving | Drain::Ending => Ok(()),
        }
    }

    async fn beat(&self) -> Result<(), Gone> {
        self.put("\n".to_owned()).await
    }

    /// Waits until the socket takes it; one that takes nothing for too long is ended by who speaks on it.
    async fn put(&self, text: String) -> Result<(), Gone> {
        self.sender.send(text.into()).await.map_err(|_| Gone)
    }
}

/// Gives the job all of its input as it takes it, then the end. Owned by the tracker; ends when all is taken, or when the
/// job closes its side or ends.
async fn feed(stdin: Stdin, data: Vec<u8>) {
    let room = Arc::new(Notify::new());
    let _watch = stdin.watch(&room);
    let mut left = data.as_slice();
    loop {
        let free = usize::try_from(stdin.credit().free).unwrap_or(usize::MAX);
        let (next, rest) = left.split_at(free.min(left.len()));
        let last = rest.is_empty();
        match stdin.offer(None, next, last) {
            Ok(_) if last => return,
            Ok(_) => left = rest,
            Err(StdinRefused::Closed) => return,
            Err(StdinRefused::Busy { .. } | StdinRefused::WrongOffset { .. }) => {}
        }
        room.notified().await;
    }
}

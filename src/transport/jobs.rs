//! The job methods that concern streams and starting.

use std::sync::Arc;

use crate::domain::{Failure, JobId, SessionId, StreamName, Whose};
use crate::rpc::frame::ClientFrame;
use crate::rpc::method::{JobAttach, JobStart};
use crate::rpc::{Value, event, view};
use crate::session::{Job, JobRequest, Reach, Reading, StdinMode};
use crate::stream::{AckError, Overflow, StdinRefused, View, ViewError, ViewKind, Window};

use super::connection::Connection;
use super::dispatch::{Outcome, find};
use super::follower::Follower;
use super::{sessions, views};

pub(super) async fn start(on: &Connection, start: JobStart) -> Result<Outcome, Failure> {
    let session = sessions::named_or_default(on, start.session).await?;
    let (view, window) = (start.view, start.window);
    let job = on.core.start_job(&session, request(start), &on.caller, &on.link).await?;
    let id = job.card.id;
    let (channel, held) =
        if view { (Some(first_viewer(on, &job, window)?), true) } else { (None, on.mute(job.clone(), 1)) };
    let value = views::job(&job).started(channel);
    Ok(Outcome::following(value, held.then_some(id).into_iter().collect()))
}

pub(super) fn request(start: JobStart) -> JobRequest {
    JobRequest {
        argv: start.argv,
        cwd: start.cwd,
        env: start.env,
        terminal: start.pty,
        stdin: if start.stdin { StdinMode::Pipe } else { StdinMode::Null },
        timeout: start.timeout,
        overflow: if start.keep_newest { Overflow::Ring } else { Overflow::Block },
        ring: start.ring,
        reading: if start.view { Reading::All } else { Reading::Nothing },
        key: start.key,
        labels: start.labels,
    }
}

/// The owner's view from the first byte. A connection that lost the session while the job was starting looks on.
fn first_viewer(on: &Connection, job: &Arc<Job>, window: Option<u32>) -> Result<u32, Failure> {
    on.link.while_owning(job.card.session, |owns| {
        let from_zero = JobAttach { job: job.card.id, from: Default::default(), write: owns, window };
        follow(on, job, &from_zero, owns)
    })
}

pub(super) async fn explain(on: &Connection, start: JobStart) -> Result<Value, Failure> {
    let session = sessions::named_or_there(on, start.session).await?;
    let explained = on.core.explain(&on.caller, session.as_deref(), &request(start)).await?;
    let rounds: Vec<_> = explained.rounds.iter().map(|r| (&r.resolved, r.ballots.as_slice())).collect();
    Ok(view::explanation(explained.generation, &explained.charges, &rounds, &explained.outcome))
}

pub(super) fn list(on: &Connection, session: Option<SessionId>) -> Value {
    let jobs = on.core.registry.jobs(&on.caller.principal, session);
    view::list("jobs", jobs.iter().map(|job| views::job(job).value()))
}

pub(super) fn get(on: &Connection, job: JobId, tail: bool) -> Result<Value, Failure> {
    let job = find(on, job, Reach::Administer)?;
    let status = views::job(&job).value();
    if !tail {
        return Ok(status);
    }
    let most = usize::try_from(on.core.settings.streams.tail_bytes).unwrap_or(usize::MAX);
    let tails: Vec<_> =
        job.output.status().iter().map(|s| (s.stream, job.output.tail(s.stream, most))).collect();
    Ok(view::with_tails(status, &tails))
}

pub(super) fn attach(on: &Connection, attach: &JobAttach) -> Result<Outcome, Failure> {
    let reach = if attach.write { Reach::Own } else { Reach::Administer };
    let job = find(on, attach.job, reach)?;
    let channel = on.link.while_owning(job.card.session, |owns| {
        if attach.write && !owns {
            return Err(Failure::Conflict(
                "only the connection that owns the session may write; attach the session first".to_owned(),
            ));
        }
        follow(on, &job, attach, owns)
    })?;
    Ok(Outcome::following(views::job(&job).attached(channel), vec![job.card.id]))
}

/// Moves the connection's follower of the job, or makes one; it gives nothing out until the answer is. Its channel.
fn follow(on: &Connection, job: &Arc<Job>, attach: &JobAttach, owns: bool) -> Result<u32, Failure> {
    let from: Vec<_> = attach.from.iter().map(|(name, offset)| (*name, *offset)).collect();
    let view = View {
        from: &from,
        kind: if attach.write { ViewKind::Write } else { ViewKind::Observe },
        plane: on.plane.of_stream(),
        window: attach.window.and_then(Window::new),
    };
    let mut table = on.followers.lock();
    if let Some(follower) = table.find(job.card.id).filter(|follower| !follower.has_closed()) {
        follower.reposition(view).map_err(view_failure)?;
        follower.may_write(owns, &on.wake);
        follower.hold(1);
        return Ok(follower.channel);
    }
    let viewer = job.output.view(view, on.wake.clone()).map_err(view_failure)?;
    let mut follower =
        Follower::new(job.clone(), table.fresh_channel(), viewer, attach.window.is_some(), &on.wake);
    follower.may_write(owns, &on.wake);
    follower.hold(1);
    let channel = follower.channel;
    table.list.push(follower);
    Ok(channel)
}

fn view_failure(refused: ViewError) -> Failure {
    match refused {
        ViewError::Full { most } => {
            let limit = "viewers of the job".to_owned();
            Failure::LimitExceeded { whose: Whose::Caller, limit, value: most as u64 }
        }
        ViewError::NoSuchStream { .. } | ViewError::BeyondProduced { .. } => {
            Failure::InvalidParams(format!("from: {refused}"))
        }
    }
}

pub(super) fn detach(on: &Connection, job: JobId) -> Result<Value, Failure> {
    let job = followed(on, job)?;
    on.link.while_owning(job.card.session, |owns| {
        let mut table = on.followers.lock();
        let channel = table.fresh_channel();
        let follower =
            table.find(job.card.id).filter(|f| !f.has_closed() && f.viewer.kind() != ViewKind::Muted);
        let Some(follower) = follower else {
            return Err(Failure::Conflict("this connection does not view the job".to_owned()));
        };
        follower.viewer.become_kind(ViewKind::Muted);
        follower.channel = channel;
        if !owns {
            follower.quit();
        }
        Ok(())
    })?;
    on.wake.notify_one();
    Ok(view::nothing())
}

/// A job that the connection follows, which may be forgotten by everybody else; or any that it may look at.
fn followed(on: &Connection, job: JobId) -> Result<Arc<Job>, Failure> {
    let followed = on.followers.lock().find(job).map(|follower| follower.job.clone());
    followed.map_or_else(|| find(on, job, Reach::Administer), Ok)
}

pub(super) fn ack(
    on: &Connection,
    job: JobId,
    stream: StreamName,
    offset: u64,
    window: Option<u32>,
) -> Result<Value, Failure> {
    let mut table = on.followers.lock();
    let Some(follower) = table.find(job).filter(|f| f.viewer.kind() != ViewKind::Muted) else {
        drop(table);
        // A job that is over for this connection and its owner has nothing left to acknowledge.
        return find(on, job, Reach::Administer).map(|_| view::nothing());
    };
    follower.windowed |= window.is_some();
    match follower.viewer.ack(stream, offset, window.and_then(Window::new)) {
        Ok(()) => {}
        Err(AckError::NoSuchStream(_)) => {
            return Err(Failure::InvalidParams(format!("stream: the job has no {}", stream.as_str())));
        }
        Err(AckError::BeyondSent(_)) => {
            drop(table);
            on.fail((1002, "an acknowledgement beyond what was sent"));
        }
    }
    on.wake.notify_one();
    Ok(view::nothing())
}

pub(super) fn stdin(on: &Connection, job: JobId, data: &[u8], eof: bool) -> Result<Value, Failure> {
    let job = find(on, job, Reach::Own)?;
    offer(on, &job, None, data, eof).map(view::accepted)
}

fn offer(on: &Connection, job: &Job, offset: Option<u64>, data: &[u8], eof: bool) -> Result<u64, Failure> {
    if job.state().exited.is_some() {
        return Err(Failure::Finished);
    }
    on.link.while_owning(job.card.session, |owns| {
        if !owns {
            return Err(Failure::Conflict("only the connection that owns the session may write".to_owned()));
        }
        let stdin = job.stdin.as_ref().ok_or_else(|| {
            Failure::InvalidParams(
                "the job reads from the null device; start it with stdin \"pipe\" to write to it".to_owned(),
            )
        })?;
        stdin.offer(offset, data, eof).map_err(|refused| match refused {
            StdinRefused::Busy { free } => Failure::Busy { free },
            StdinRefused::WrongOffset { expected } => {
                Failure::InvalidParams(format!("offset: the next byte of stdin is {expected}"))
            }
            StdinRefused::Closed => Failure::Conflict("the job's stdin is closed".to_owned()),
        })
    })
}

/// A binary frame. `Ok(Some(text))` is a `job.stdin_refused` to send.
pub(super) fn frame(on: &Connection, frame: ClientFrame<'_>) -> Result<Option<String>, (u16, &'static str)> {
    match frame {
        ClientFrame::Ack { channel, stream, offset, window } => {
            let mut table = on.followers.lock();
            let known = |f: &&mut Follower| f.channel == channel && f.viewer.kind() != ViewKind::Muted;
            let Some(follower) = table.list.iter_mut().find(known) else {
                return Ok(None);
            };
            let window = match window {
                0 => None,
                bytes => Some(Window::new(bytes).ok_or((1002, "a window outside 4 KiB to 16 MiB"))?),
            };
            follower.windowed |= window.is_some();
            if follower.viewer.ack(stream, offset, window).is_err() {
                return Err((1002, "an acknowledgement beyond what was sent"));
            }
            drop(table);
            on.wake.notify_one();
            Ok(None)
        }
        ClientFrame::Stdin { channel, offset, data, last } => {
            let job = on.followers.lock().list.iter().find(|f| f.channel == channel).map(|f| f.job.clone());
            let Some(job) = job else { return Ok(None) };
            let refused = offer(on, &job, Some(offset), data, last).err();
            Ok(refused.map(|failure| event::stdin_refused(job.card.id, offset, &failure)))
        }
    }
}

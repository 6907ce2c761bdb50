//! The results of the methods, from plain values.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::domain::{
    Authority, Charge, Containment, DecisionId, EndReason, ExitStatus, JobId, JobLimits, Principal, Resolved,
    SessionGrant, SessionId, StreamName, Usage,
};
use crate::verdict::{Ballot, Mode, Permission, Refusal, Terms, Verdict};

use super::event::{status_members, usage_value};

/// Whole milliseconds since 1970-01-01 UTC.
fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, ms)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `server.info`
#[derive(Debug)]
pub struct ServerInfo<'a> {
    /// This build.
    pub version: &'a str,
    /// Tells one start of the server from another.
    pub epoch: &'a str,
    /// Who asks.
    pub principal: &'a Principal,
    /// What this host can promise.
    pub containment: &'a Containment,
    /// Named limits of the connection and the server.
    pub limits: &'a [(&'static str, u64)],
}

impl ServerInfo<'_> {
    /// As the client gets it.
    pub fn value(&self) -> Value {
        let c = self.containment;
        let limits: Map<_, _> =
            self.limits.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "name": "execgate", "version": self.version, "epoch": self.epoch, "protocol": 1,
            "principal": {
                "tenant": &*self.principal.tenant, "subject": &*self.principal.subject,
                "groups": self.principal.groups.iter().map(|g| &**g).collect::<Vec<_>>(),
                "authority": authority(self.principal.authority),
            },
            "containment": {"tier": c.tier.to_string(), "pause": c.pause, "kill": c.kill, "notes": c.notes},
            "limits": limits,
            "features": ["pty", "pause", "detach", "binary", "credit", "explain"],
        })
    }
}

fn authority(authority: Authority) -> &'static str {
    match authority {
        Authority::Caller => "caller",
        Authority::TenantAdmin => "tenant_admin",
        Authority::Admin => "admin",
    }
}

fn job_limits(limits: &JobLimits) -> Value {
    json!({
        "wall_ms": limits.wall.map(ms), "cpu_ms": limits.cpu.map(ms), "memory_bytes": limits.memory, "processes": limits.processes,
        "output_bytes": limits.output, "file_size_bytes": limits.file_size, "open_files": limits.open_files,
    })
}

fn session_limits(grant: &SessionGrant, detach: Option<Duration>) -> Value {
    json!({
        "max_jobs": grant.max_jobs, "max_duration_ms": grant.max_duration.map(ms), "idle_ms": grant.idle.map(ms),
        "detach_ttl_ms": detach.map(ms), "job": job_limits(&grant.job_limits),
    })
}

/// A session as it is shown. Absent limits are null: none.
#[derive(Debug)]
pub struct SessionView<'a> {
    /// The session.
    pub id: SessionId,
    /// Whose.
    pub owner: &'a Principal,
    /// The client's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What it may do.
    pub grant: &'a SessionGrant,
    /// How long it lives on without a connection.
    pub detach: Option<Duration>,
    /// The decision that admitted it.
    pub decision: DecisionId,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// A connection owns it.
    pub attached: bool,
    /// Jobs whose tree is not empty.
    pub jobs: u32,
}

impl SessionView<'_> {
    /// The answer to `session.open`.
    pub fn opened(&self) -> Value {
        json!({
            "session": self.id.to_string(), "limits": session_limits(self.grant, self.detach), "decision": self.decision.to_string(),
        })
    }

    /// As `session.get` and `session.list` show it.
    pub fn value(&self) -> Value {
        json!({
            "session": self.id.to_string(), "tenant": &*self.owner.tenant, "subject": &*self.owner.subject, "labels": self.labels,
            "limits": session_limits(self.grant, self.detach), "decision": self.decision.to_string(),
            "opened_at_ms": unix_ms(self.opened_at), "attached": self.attached, "jobs": self.jobs,
        })
    }
}

/// A job as it is shown.
#[derive(Debug)]
pub struct JobView<'a> {
    /// The job.
    pub id: JobId,
    /// Its session.
    pub session: SessionId,
    /// Whose.
    pub owner: &'a Principal,
    /// What it runs.
    pub argv: &'a [String],
    /// Not all of it.
    pub argv_cut: bool,
    /// The client's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The leader's process id.
    pub pid: u32,
    /// When it was started.
    pub started_at: SystemTime,
    /// The decision that cleared it.
    pub decision: DecisionId,
    /// Paused, and whether exactly.
    pub paused: Option<bool>,
    /// The leader's end.
    pub exited: Option<(ExitStatus, EndReason)>,
    /// The job's end: survivors, reason, usage.
    pub closed: Option<(u32, EndReason, Usage)>,
    /// Each stream: name, oldest byte still here, next byte.
    pub streams: Vec<(StreamName, u64, u64)>,
}

impl JobView<'_> {
    /// The answer to `job.start`.
    pub fn started(&self, channel: Option<u32>) -> Value {
        json!({
            "job": self.id.to_string(), "channel": channel, "pid": self.pid, "started_at": unix_ms(self.started_at),
            "decision": self.decision.to_string(),
        })
    }

    /// The first line of an HTTP execution, and the beginning of the answer to one that is waited for.
    pub fn executed(&self) -> Value {
        json!({
            "job": self.id.to_string(), "session": self.session.to_string(), "pid": self.pid,
            "started_at": unix_ms(self.started_at), "decision": self.decision.to_string(),
        })
    }

    /// The answer to `job.attach`.
    pub fn attached(&self, channel: u32) -> Value {
        json!({"channel": channel, "streams": self.streams_value(), "status": self.value()})
    }

    /// As `job.get`, `job.list` and `job.wait` show it.
    pub fn value(&self) -> Value {
        let state = match (self.closed, self.exited, self.paused) {
            (Some(_), _, _) => "closed",
            (None, Some(_), _) => "exited",
            (None, None, Some(_)) => "paused",
            (None, None, None) => "running",
        };
        let mut value = json!({
            "job": self.id.to_string(), "session": self.session.to_string(), "tenant": &*self.owner.tenant,
            "subject": &*self.owner.subject, "argv": self.argv, "labels": self.labels, "pid": self.pid,
            "started_at": unix_ms(self.started_at), "decision": self.decision.to_string(), "state": state,
            "streams": self.streams_value(),
        });
        if let Value::Object(map) = &mut value {
            if self.argv_cut {
                map.insert("argv_cut".to_owned(), true.into());
            }
            if let Some((status, reason)) = self.exited {
                map.append(&mut status_members(status));
                map.insert("reason".to_owned(), reason.as_str().into());
            }
            if let Some((survivors, reason, usage)) = &self.closed {
                map.insert("reason".to_owned(), reason.as_str().into());
                map.insert("survivors".to_owned(), (*survivors).into());
                map.insert("usage".to_owned(), usage_value(usage));
            }
        }
        value
    }

    fn streams_value(&self) -> Value {
        let entry = |(name, oldest, next): &(StreamName, u64, u64)| {
            (name.as_str().to_owned(), json!({"oldest": oldest, "next": next}))
        };
        Value::Object(self.streams.iter().map(entry).collect())
    }
}

/// Adds the last bytes of each stream to a job's status.
#[must_use]
pub fn with_tails(mut status: Value, tails: &[(StreamName, Vec<u8>)]) -> Value {
    let entry = |(name, bytes): &(StreamName, Vec<u8>)| {
        (name.as_str().to_owned(), json!({"data_b64": STANDARD.encode(bytes)}))
    };
    if let Value::Object(map) = &mut status {
        map.insert("tail".to_owned(), Value::Object(tails.iter().map(entry).collect()));
    }
    status
}

/// Most bytes of the items of a list: an answer must fit into a socket's write buffer, whatever its items hold.
const MAX_LIST_BYTES: usize = 1 << 20;

/// Most items of a list.
const MAX_LIST: usize = 1000;

/// A list under its name, oldest first. Where it is too long the oldest are left out, and `omitted` says how many.
pub fn list(name: &str, items: impl DoubleEndedIterator<Item = Value> + ExactSizeIterator) -> Value {
    let (all, mut room) = (items.len(), MAX_LIST_BYTES);
    let fits = |item: &Value| {
        let left = room.checked_sub(item.to_string().len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    let mut newest: Vec<_> = items.rev().take(MAX_LIST).take_while(fits).collect();
    newest.reverse();
    let omitted = all - newest.len();
    let mut map = Map::from_iter([(name.to_owned(), Value::Array(newest))]);
    if omitted > 0 {
        map.insert("omitted".to_owned(), omitted.into());
    }
    Value::Object(map)
}

/// The answer to `session.attach`.
pub fn session_attached(
    session: SessionId,
    jobs: impl DoubleEndedIterator<Item = Value> + ExactSizeIterator,
) -> Value {
    let mut value = list("jobs", jobs);
    if let Value::Object(map) = &mut value {
        map.insert("session".to_owned(), session.to_string().into());
    }
    value
}

/// The answer to `session.close`.
pub fn session_closed(jobs: u32, survivors: u32) -> Value {
    json!({"jobs": jobs, "survivors": survivors})
}

/// The answer to `job.stop` and `job.kill`.
pub fn stopped(survivors: u32, escalated: bool, elapsed: Duration) -> Value {
    json!({"survivors": survivors, "escalated": escalated, "elapsed_ms": ms(elapsed)})
}

/// The answer to `job.pause` and `job.resume`.
pub fn paused(paused: bool, exact: bool) -> Value {
    json!({"paused": paused, "exact": exact})
}

/// The answer to `job.signal`.
pub fn delivered() -> Value {
    json!({"delivered": true})
}

/// The answer to `job.stdin`.
pub fn accepted(offset: u64) -> Value {
    json!({"offset": offset})
}

/// The answer to `policy.reload`: what changed.
pub fn reloaded(what: &str) -> Value {
    json!({"changed": what})
}

/// The answer of a method that has nothing to say.
pub fn nothing() -> Value {
    json!({})
}

/// A policy in force: name, module, version, hooks, digest, mode.
pub fn policy(name: &str, module: &str, version: &str, hooks: &[String], digest: &str, mode: Mode) -> Value {
    json!({"name": name, "module": module, "version": version, "hooks": hooks, "sha256": digest, "mode": mode_word(mode)})
}

const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Monitor => "monitor",
    }
}

/// The answer to `policy.list`.
pub fn policies(
    policies: Vec<Value>,
    generation: u64,
    since: SystemTime,
    failures: u64,
    failed: Option<(SystemTime, &str)>,
) -> Value {
    let failed = failed.map(|(at, why)| json!({"at": unix_ms(at), "why": why}));
    json!({
        "policies": policies, "generation": generation, "since": unix_ms(since), "failed_reloads": failures, "failed": failed,
    })
}

/// The answer to `policy.explain`: one member a review, and what they come to.
pub fn explanation(
    generation: u64,
    charges: &[Ballot<Vec<Charge>>],
    rounds: &[(&Resolved, &[Ballot<Permission>])],
    outcome: &Result<Terms, Refusal>,
) -> Value {
    let (verdict, rules, message, remedy) = match outcome {
        Ok(terms) => ("allow", terms.rules.clone(), None, None),
        Err(Refusal::Denied(denied)) => {
            ("deny", denied.rules.clone(), Some(denied.message.clone()), denied.remedy.clone())
        }
        Err(Refusal::Failed { policy, fault, .. }) => {
            ("deny", Vec::new(), Some(format!("the policy {policy:?} broke ({fault})")), None)
        }
    };
    let (facts, policies) = rounds.first().map_or((Value::Null, Vec::new()), |(resolved, ballots)| {
        (shown_facts(resolved), ballots.iter().map(ballot).collect())
    });
    let changed = rounds.get(1).map(|(resolved, ballots)| {
        json!({
            "argv": resolved.command.argv, "facts": shown_facts(resolved), "policies": ballots.iter().map(ballot).collect::<Vec<_>>(),
        })
    });
    json!({
        "verdict": verdict, "rules": rules, "message": message, "remedy": remedy, "generation": generation, "facts": facts,
        "policies": policies, "changed": changed, "charges": charges.iter().map(charged).collect::<Vec<_>>(),
    })
}

fn shown_facts(resolved: &Resolved) -> Value {
    let facts = &resolved.facts;
    let script = facts
        .script
        .as_ref()
        .map(|s| json!({"commands": s.commands, "opaque": s.opaque, "reasons": s.reasons}));
    json!({
        "found": facts.executable.found, "canonical": facts.executable.canonical, "setuid": facts.executable.setuid,
        "interpreter": facts.executable.interpreter.as_ref().map(|i| &i.canonical), "cwd": facts.cwd, "script": script,
    })
}

fn charged(ballot: &Ballot<Vec<Charge>>) -> Value {
    let none: &[Charge] = &[];
    let (verdict, charges) = match &ballot.outcome {
        Ok(Verdict::Allow(charges)) => ("allow", charges.as_slice()),
        Ok(Verdict::Abstain) => ("abstain", none),
        Ok(Verdict::Deny(_)) => ("deny", none),
        Err(_) => ("failed", none),
    };
    let charges: Vec<_> = charges
        .iter()
        .map(|c| json!({"bucket": c.bucket, "cost": c.cost, "burst": c.quota.burst, "rule": c.rule}))
        .collect();
    json!({"policy": &*ballot.policy, "mode": mode_word(ballot.mode), "verdict": verdict, "charges": charges})
}

fn ballot(ballot: &Ballot<Permission>) -> Value {
    let (verdict, rules, message) = match &ballot.outcome {
        Ok(Verdict::Abstain) => ("abstain", Vec::new(), None),
        Ok(Verdict::Allow(permission)) => ("allow", permission.rules.clone(), None),
        Ok(Verdict::Deny(denial)) => ("deny", denial.rules.clone(), Some(denial.message.clone())),
        Err(broken) => ("failed", Vec::new(), Some(broken.fault.to_string())),
    };
    let us = u64::try_from(ballot.took.as_micros()).unwrap_or(u64::MAX);
    json!({
        "policy": &*ballot.policy, "mode": mode_word(ballot.mode), "verdict": verdict, "rules": rules, "message": message, "took_us": us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_long_leaves_the_oldest_out_and_says_how_many() {
        let numbers = (0..1200).map(Value::from).collect::<Vec<_>>();
        let shown = list("numbers", numbers.into_iter());
        let items = shown["numbers"].as_array().unwrap();
        assert_eq!((items.len(), items.last()), (MAX_LIST, Some(&Value::from(1199))));
        assert_eq!(shown["omitted"], 200);
        let long = "x".repeat(MAX_LIST_BYTES / 2 - 4);
        let shown = list("texts", vec![Value::from("first"), long.clone().into(), long.into()].into_iter());
        assert_eq!((shown["texts"].as_array().unwrap().len(), &shown["omitted"]), (2, &Value::from(1)));
    }
}

//! What policies answered and what that came to, as JSON. The same text is written by the log and compared by a replay.

use serde_json::{Map, Value, json};

use crate::domain::{Charge, Claim, Counted, DecisionId, JobLimits, Resolved, Scope, SessionGrant};
use crate::verdict::{self, Admission, Ballot, Change, Folded, Mode, Permission, Refusal, Terms, Verdict};

use super::Fold;

/// Answers that can be written.
pub trait Answers {
    /// What is permitted, as members.
    fn terms(&self, into: &mut Map<String, Value>);
}

impl Answers for Permission {
    fn terms(&self, into: &mut Map<String, Value>) {
        put(into, "rules", json!(self.rules));
        put(into, "changes", Value::Array(self.changes.iter().map(change).collect()));
        put(into, "limits", limits(&self.limits));
        put(into, "claims", Value::Array(self.claims.iter().map(claim).collect()));
        put(into, "confine", json!(self.confine));
    }
}

impl Answers for Admission {
    fn terms(&self, into: &mut Map<String, Value>) {
        put(into, "rules", json!(self.rules));
        put(into, "claims", Value::Array(self.claims.iter().map(claim).collect()));
        put(into, "grant", grant(&self.grant));
    }
}

impl Answers for Vec<Charge> {
    fn terms(&self, into: &mut Map<String, Value>) {
        put(into, "charges", Value::Array(self.iter().map(charge).collect()));
    }
}

/// One policy's part of a line; without the time it took, which no replay repeats.
pub(super) fn answer<P: Answers>(ballot: &Ballot<P>) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("policy".to_owned(), json!(&*ballot.policy));
    map.insert("mode".to_owned(), json!(mode(ballot.mode)));
    let verdict = match &ballot.outcome {
        Ok(Verdict::Abstain) => "abstain",
        Ok(Verdict::Allow(terms)) => {
            terms.terms(&mut map);
            "allow"
        }
        Ok(Verdict::Deny(denial)) => {
            put(&mut map, "code", json!(denial.code));
            put(&mut map, "rules", json!(denial.rules));
            put(&mut map, "message", json!(denial.message));
            "deny"
        }
        Err(broken) => broken.fault.as_str(),
    };
    map.insert("verdict".to_owned(), json!(verdict));
    map
}

/// One policy's part of a line, with who exactly answered and how long it took.
pub(super) fn said<P: Answers>(ballot: &Ballot<P>) -> Value {
    let mut map = answer(ballot);
    let author = &ballot.author;
    put(&mut map, "version", json!(author.version));
    put(&mut map, "module", json!(author.module));
    put(&mut map, "settings", json!(author.settings));
    map.insert("took_us".to_owned(), json!(u64::try_from(ballot.took.as_micros()).unwrap_or(u64::MAX)));
    Value::Object(map)
}

/// What a review of a command comes to, by itself.
pub fn fold_of_command(
    round: u8,
    decision: DecisionId,
    resolved: Resolved,
    ballots: &[Ballot<Permission>],
) -> Fold {
    match verdict::fold_command(decision, resolved, ballots) {
        Ok(Folded::Cleared(cleared)) => Fold::Allowed(Box::new(cleared.terms().clone()), None),
        Ok(Folded::Changed(_)) if round == 1 => Fold::Changed,
        Ok(Folded::Changed(_)) => Fold::Refused(Refusal::Failed {
            policy: "".into(),
            fault: verdict::Fault::ChangesConflict,
            decision,
        }),
        Err(refusal) => Fold::Refused(refusal),
    }
}

/// What a review of a session comes to.
pub fn fold_of_session(decision: DecisionId, ballots: &[Ballot<Admission>]) -> Fold {
    match verdict::fold_session(decision, ballots) {
        Ok(cleared) => Fold::Allowed(Box::new(cleared.terms().clone()), Some(cleared.value().clone())),
        Err(refusal) => Fold::Refused(refusal),
    }
}

pub(super) fn fold(fold: &Fold) -> Value {
    let mut map = Map::new();
    let outcome = match fold {
        Fold::Allowed(terms, granted) => {
            permitted(terms, &mut map);
            if let Some(granted) = granted {
                put(&mut map, "grant", grant(granted));
            }
            "allow"
        }
        Fold::Changed => "changed",
        Fold::Refused(Refusal::Denied(denied)) => {
            put(&mut map, "policy", json!(denied.policy));
            put(&mut map, "code", json!(denied.code));
            put(&mut map, "rules", json!(denied.rules));
            "deny"
        }
        Fold::Refused(Refusal::Failed { policy, fault, .. }) => {
            put(&mut map, "policy", json!(&**policy));
            put(&mut map, "fault", json!(fault.as_str()));
            "failed"
        }
    };
    map.insert("outcome".to_owned(), json!(outcome));
    Value::Object(map)
}

fn permitted(terms: &Terms, map: &mut Map<String, Value>) {
    put(map, "rules", json!(terms.rules));
    put(map, "limits", limits(&terms.limits));
    put(map, "claims", Value::Array(terms.claims.iter().map(claim).collect()));
    put(map, "confine", json!(terms.confine));
}

/// Only what is there: absence is shorter, and means the same.
fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
    let is_empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    if !is_empty {
        map.insert(name.to_owned(), value);
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Monitor => "monitor",
    }
}

fn milliseconds(time: Option<std::time::Duration>) -> Value {
    time.map_or(Value::Null, |time| json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

fn limits(limits: &JobLimits) -> Value {
    let mut map = Map::new();
    put(&mut map, "wall_ms", milliseconds(limits.wall));
    put(&mut map, "cpu_ms", milliseconds(limits.cpu));
    put(&mut map, "memory_bytes", json!(limits.memory));
    put(&mut map, "processes", json!(limits.processes));
    put(&mut map, "output_bytes", json!(limits.output));
    put(&mut map, "file_size_bytes", json!(limits.file_size));
    put(&mut map, "open_files", json!(limits.open_files));
    Value::Object(map)
}

fn grant(grant: &SessionGrant) -> Value {
    let mut map = Map::new();
    put(&mut map, "max_jobs", json!(grant.max_jobs));
    put(&mut map, "max_duration_ms", milliseconds(grant.max_duration));
    put(&mut map, "idle_ms", milliseconds(grant.idle));
    put(&mut map, "detach_ttl_ms", milliseconds(grant.detach_ttl));
    put(&mut map, "job_limits", limits(&grant.job_limits));
    Value::Object(map)
}

fn claim(claim: &Claim) -> Value {
    let scope = match &claim.scope {
        Scope::Server => "server".to_owned(),
        Scope::Tenant => "tenant".to_owned(),
        Scope::Subject => "subject".to_owned(),
        Scope::Session => "session".to_owned(),
        Scope::Group(name) => format!("group:{name}"),
    };
    let what = match claim.what {
        Counted::Sessions => "sessions",
        Counted::Jobs => "jobs",
    };
    json!({"scope": scope, "what": what, "max": claim.max})
}

fn charge(charge: &Charge) -> Value {
    let quota = &charge.quota;
    json!({
        "bucket": charge.bucket, "cost": charge.cost, "burst": quota.burst, "count": quota.count,
        "period_ms": milliseconds(Some(quota.period)), "rule": charge.rule,
    })
}

fn change(change: &Change) -> Value {
    match change {
        Change::SetProgram(program) => json!({"set_program": program}),
        Change::SetArg { index, value } => json!({"set_arg": [index, value]}),
        // The value may be a secret of the policy's own.
        Change::SetEnv { name, .. } => json!({"set_env": name}),
        Change::UnsetEnv(name) => json!({"unset_env": name}),
        Change::SetCwd(cwd) => json!({"set_cwd": cwd}),
    }
}

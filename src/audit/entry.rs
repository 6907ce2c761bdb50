//! What a line says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::domain::{Call, Charge, CommandRequest, DecisionId, Principal, SessionGrant, SessionRequest};
use crate::verdict::{Admission, Ballot, Permission, Refusal, Terms};

use super::answer::{self, Answers};
use super::mask::Masks;
use super::request::{self, Written};

/// What was asked, and what each policy said to it.
#[derive(Debug, Clone)]
pub enum Asked {
    /// About a command.
    Command(Arc<CommandRequest>, Vec<Ballot<Permission>>),
    /// About a session.
    Session(Arc<SessionRequest>, Vec<Ballot<Admission>>),
    /// About a price; only when that was refused: else it stands with what it was the price of.
    Call(Arc<Call>),
}

/// What it came to.
#[derive(Debug, Clone)]
pub enum Fold {
    /// Allowed on these terms; for a session, with what it may do.
    Allowed(Box<Terms>, Option<SessionGrant>),
    /// Allowed and changed: another review follows.
    Changed,
    /// Refused.
    Refused(Refusal),
}

/// One review.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The decision it belongs to.
    pub decision: DecisionId,
    /// The generation that was asked.
    pub generation: u64,
    /// 1, or 2 for the review of what the first changed.
    pub round: u8,
    /// Names of variables whose values some policy saw.
    pub grants: Arc<[String]>,
    /// What was asked and said.
    pub asked: Asked,
    /// What it cost; all of it was taken from the limiter, unless this refused.
    pub charges: Vec<Ballot<Vec<Charge>>>,
    /// What it came to.
    pub fold: Fold,
}

/// How much of a line is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Up to 8 KiB of the request, and everything that policies said.
    Most,
    /// The gist: 2 KiB of the request, and verdicts without their terms.
    Gist,
}

impl Entry {
    pub(crate) fn principal(&self) -> &Arc<Principal> {
        match &self.asked {
            Asked::Command(request, _) => &request.principal,
            Asked::Session(request, _) => &request.principal,
            Asked::Call(call) => &call.principal,
        }
    }

    /// About what it holds of what a client sent, bytes.
    pub(super) fn bytes(&self) -> usize {
        let pairs =
            |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        match &self.asked {
            Asked::Command(request, _) => {
                let command = &request.resolved.command;
                let argv = command.argv.iter().map(String::len).sum::<usize>();
                let cwd = command.cwd.as_ref().map_or(0, String::len);
                argv + cwd + pairs(&command.env) + pairs(&request.labels)
            }
            Asked::Session(request, _) => pairs(&request.labels),
            Asked::Call(call) => call.program.as_ref().map_or(0, String::len),
        }
    }

    /// The policies that broke, each with how.
    pub fn broken(&self) -> Vec<String> {
        fn of<P>(ballots: &[Ballot<P>]) -> Vec<String> {
            let broke = |b: &Ballot<P>| {
                b.outcome
                    .as_ref()
                    .err()
                    .map(|broken| format!("{}: {}: {}", b.policy, broken.fault, broken.detail))
            };
            ballots.iter().filter_map(broke).collect()
        }
        let mut all = match &self.asked {
            Asked::Command(_, ballots) => of(ballots),
            Asked::Session(_, ballots) => of(ballots),
            Asked::Call(_) => Vec::new(),
        };
        all.extend(of(&self.charges));
        all
    }

    /// The line without its place in the chain.
    pub(super) fn value(&self, masks: &Masks, keep: Keep) -> Value {
        let room = match keep {
            Keep::Most => 8 * 1024,
            Keep::Gist => 2 * 1024,
        };
        let (hook, request, policies) = match &self.asked {
            Asked::Command(request, ballots) => {
                ("command", request::command(request, &self.grants, masks, room), all(ballots, keep))
            }
            Asked::Session(request, ballots) => {
                ("session", request::session(request, masks, room), all(ballots, keep))
            }
            Asked::Call(call) => ("rate", request::call(call, masks, room), Value::Null),
        };
        let Written { value, digest, masked, cut } = request;
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("time_ms", json!(now_ms()));
        put("decision", json!(self.decision.to_string()));
        put("hook", json!(hook));
        put("round", json!(self.round));
        put("generation", json!(self.generation));
        put("request", value);
        put("request_sha256", json!(digest));
        put("masked", json!(masked));
        put("cut", json!(cut || keep == Keep::Gist));
        put("charges", all(&self.charges, keep));
        put("policies", policies);
        put("fold", answer::fold(&self.fold));
        Value::Object(line)
    }
}

fn all<P: Answers>(ballots: &[Ballot<P>], keep: Keep) -> Value {
    let gist = |ballot: &Ballot<P>| {
        let mut said = answer::answer(ballot);
        said.retain(|name, _| matches!(name.as_str(), "policy" | "mode" | "verdict" | "code"));
        Value::Object(said)
    };
    let one = |ballot: &Ballot<P>| match keep {
        Keep::Most => answer::said(ballot),
        Keep::Gist => gist(ballot),
    };
    Value::Array(ballots.iter().map(one).collect())
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

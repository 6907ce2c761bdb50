//! What a line says.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::{DecisionId, Principal, Resolved, SessionId};
use crate::verdict::{Ballot, Mode, Refusal, Verdict};

/// Longest argv written whole, bytes; a longer one is cut and its digest kept.
const ARGV_MOST: usize = 8 * 1024;

/// One policy's part.
#[derive(Debug, Clone)]
pub struct Said {
    policy: Arc<str>,
    binds: bool,
    verdict: &'static str,
    rules: Vec<String>,
    took: Duration,
}

impl Said {
    /// What the ballot says, with the rules that `rules` finds in an allowance.
    pub fn of<P>(ballot: &Ballot<P>, rules: impl Fn(&P) -> &[String]) -> Self {
        let (verdict, rules) = match &ballot.outcome {
            Ok(Verdict::Abstain) => ("abstain", Vec::new()),
            Ok(Verdict::Allow(permission)) => ("allow", rules(permission).to_vec()),
            Ok(Verdict::Deny(denial)) => ("deny", denial.rules.clone()),
            Err(broken) => (broken.fault.as_str(), Vec::new()),
        };
        Self {
            policy: ballot.policy.clone(),
            binds: ballot.mode == Mode::Enforce,
            verdict,
            rules,
            took: ballot.took,
        }
    }
}

/// One decision.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub decision: DecisionId,
    /// `session` or `command`.
    pub hook: &'static str,
    /// The policies' generation.
    pub generation: u64,
    /// Who asked.
    pub principal: Arc<Principal>,
    /// From which address.
    pub address: std::net::IpAddr,
    /// For which session.
    pub session: SessionId,
    /// What command, with its facts.
    pub command: Option<Resolved>,
    /// What each policy said.
    pub said: Vec<Said>,
    /// What it came to; `None` allowed.
    pub refusal: Option<Refusal>,
}

impl Entry {
    /// The policies that broke, each with how.
    pub fn broken(&self) -> impl Iterator<Item = String> + '_ {
        let broke = |said: &&Said| !matches!(said.verdict, "abstain" | "allow" | "deny");
        self.said.iter().filter(broke).map(|said| format!("{}: {}", said.policy, said.verdict))
    }

    /// The line without its place in the chain. Values of the environment are left out: they may be secrets.
    pub(super) fn value(&self) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (outcome, detail) = match &self.refusal {
            None => ("allow", None),
            Some(Refusal::Denied(denied)) => ("deny", Some(denied.code.clone())),
            Some(Refusal::Failed { fault, .. }) => ("failed", Some(fault.to_string())),
        };
        json!({
            "time_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX), "decision": self.decision.to_string(),
            "hook": self.hook, "generation": self.generation, "tenant": &*self.principal.tenant,
            "subject": &*self.principal.subject, "address": self.address.to_string(), "session": self.session.to_string(),
            "command": self.command.as_ref().map(command), "policies": self.said.iter().map(said).collect::<Vec<_>>(),
            "outcome": outcome, "detail": detail,
        })
    }
}

fn command(resolved: &Resolved) -> Value {
    let (command, executable) = (&resolved.command, &resolved.facts.executable);
    let mut left = ARGV_MOST;
    let whole = command.argv.iter().map(String::len).sum::<usize>() <= left;
    let fits = |argument: &&String| {
        let fits = argument.len() <= left;
        left = left.saturating_sub(argument.len());
        fits
    };
    let argv: Vec<_> = command.argv.iter().take_while(fits).collect();
    let digest = (!whole).then(|| format!("{:x}", Sha256::digest(command.argv.join("\0"))));
    json!({
        "argv": argv, "argv_sha256": digest, "cwd": resolved.facts.cwd, "env": env_names(command.env.keys()),
        "found": executable.found, "canonical": executable.canonical, "setuid": executable.setuid,
        "terminal": command.terminal.is_some(),
    })
}

/// Names of variables, as far as they fit a line.
fn env_names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut left = ARGV_MOST / 4;
    let fits = |name: &&String| {
        let fits = name.len() <= left;
        left = left.saturating_sub(name.len());
        fits
    };
    names.take_while(fits).collect()
}

fn said(said: &Said) -> Value {
    json!({
        "policy": &*said.policy, "binds": said.binds, "verdict": said.verdict, "rules": said.rules,
        "took_us": u64::try_from(said.took.as_micros()).unwrap_or(u64::MAX),
    })
}

//! Asking policy: the charge, the two rounds of review, and the line in the decision log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Entry, Said};
use crate::domain::{DecisionId, Failure, JobId, Origin, Principal, Resolved, SessionId};
use crate::facts;
use crate::policy::{self, CommandRequest};
use crate::verdict::{self, Admission, Ballot, Broken, Cleared, Fault, Folded, Permission, Refusal, Verdict};
use crate::warden::Prepared;

use super::Core;
use super::core::random_bits;
use super::start;

/// When to come back to a decision log that is full: it is emptied in far less.
const AUDIT_RETRY: Duration = Duration::from_secs(1);

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
}

/// A fresh decision id.
pub(super) fn decision_id() -> Result<DecisionId, Failure> {
    random_bits().map(DecisionId::from_bits)
}

/// Asks the rate policies what a call costs and takes it from the limiter.
///
/// # Errors
/// [`Failure::RateLimited`], or that a rate policy refused or broke.
pub(super) async fn charge(
    core: &Core,
    caller: &Caller,
    method: &'static str,
    program: Option<&str>,
) -> Result<(), Failure> {
    let decision = decision_id()?;
    let call = policy::Call {
        principal: caller.principal.clone(),
        origin: caller.origin.clone(),
        method,
        program: program.map(str::to_owned),
    };
    let charges = core.rooms.policies.charges(Arc::new(call), decision).await?;
    core.rooms
        .limiter
        .take(&caller.principal.tenant, &charges)
        .map_err(|refusal| refusal.into_failure(decision))
}

/// The session's labels with the job's on top.
pub(super) fn labels(
    session: &BTreeMap<String, String>,
    job: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    session.iter().chain(job).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What a command is reviewed for.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) core: &'a Core,
    pub(super) caller: &'a Caller,
    pub(super) session: SessionId,
    pub(super) job: JobId,
    pub(super) decision: DecisionId,
    /// The session's labels with the job's on top.
    pub(super) labels: BTreeMap<String, String>,
}

impl Case<'_> {
    /// Reviews what was prepared, in at most two rounds. When policy changed the command, the leader that was
    /// prepared for the original is abandoned and another is prepared for the change.
    ///
    /// # Errors
    /// That policy refused or broke, or that the changed command cannot be prepared.
    pub(super) async fn clear(
        &self,
        resolved: Resolved,
        prepared: Prepared,
    ) -> Result<(Cleared<Resolved>, Prepared), Failure> {
        let first = self.ballots(&resolved).await;
        let folded = verdict::fold_command(self.decision, resolved.clone(), &first);
        self.record(&resolved, &first, folded.as_ref().err())?;
        let changed = match folded? {
            Folded::Cleared(cleared) => return Ok((*cleared, prepared)),
            Folded::Changed(changed) => changed,
        };
        drop(prepared);
        let again =
            start::prepare(self.core, &self.caller.principal, self.session, self.job, changed.command())
                .await?;
        let resolved =
            facts::resolve(changed.command().clone(), again.executable().clone(), again.cwd().to_owned());
        let second = self.ballots(&resolved).await;
        let settled = changed.settle(resolved.clone(), &second);
        self.record(&resolved, &second, settled.as_ref().err())?;
        Ok((settled?, again))
    }

    pub(super) async fn ballots(&self, resolved: &Resolved) -> Vec<Ballot<Permission>> {
        let request = CommandRequest {
            principal: self.caller.principal.clone(),
            origin: self.caller.origin.clone(),
            session: self.session,
            resolved: resolved.clone(),
            labels: self.labels.clone(),
            usage: self.core.usage(&self.caller.principal, Some(self.session)),
        };
        let mut ballots = self.core.rooms.policies.review(Arc::new(request)).await;
        ballots.iter_mut().for_each(|ballot| self.check_profiles(ballot));
        ballots
    }
}

impl Case<'_> {
    /// A permission on terms that cannot be kept is none: the policy broke.
    fn check_profiles(&self, ballot: &mut Ballot<Permission>) {
        let Ok(Verdict::Allow(permission)) = &ballot.outcome else { return };
        let unknown = permission.confine.iter().find(|name| !self.core.rooms.warden.has_profile(name));
        if let Some(name) = unknown {
            let detail = format!("it confines by the profile {name:?}; configure [profile.{name}]");
            ballot.outcome = Err(Broken { fault: Fault::BadAnswer, detail });
        }
    }

    fn record(
        &self,
        resolved: &Resolved,
        ballots: &[Ballot<Permission>],
        refusal: Option<&Refusal>,
    ) -> Result<(), Failure> {
        count("command", ballots, refusal);
        let said = ballots.iter().map(|b| Said::of(b, |permission| &permission.rules)).collect();
        record(
            self.core,
            self.caller,
            Entry {
                decision: self.decision,
                hook: "command",
                generation: self.core.rooms.policies.generation(),
                principal: self.caller.principal.clone(),
                address: self.caller.origin.address,
                session: self.session,
                command: Some(resolved.clone()),
                said,
                refusal: refusal.cloned(),
            },
        )
    }
}

/// Records a decision about a session.
pub(super) fn record_session(
    core: &Core,
    caller: &Caller,
    session: SessionId,
    decision: DecisionId,
    ballots: &[Ballot<Admission>],
    refusal: Option<&Refusal>,
) -> Result<(), Failure> {
    count("session", ballots, refusal);
    record(
        core,
        caller,
        Entry {
            decision,
            hook: "session",
            generation: core.rooms.policies.generation(),
            principal: caller.principal.clone(),
            address: caller.origin.address,
            session,
            command: None,
            said: ballots.iter().map(|b| Said::of(b, |admission| &admission.rules)).collect(),
            refusal: refusal.cloned(),
        },
    )
}

/// Counts a decision and what each policy said. Policies are named by the configuration: the labels are bounded.
fn count<P>(hook: &'static str, ballots: &[Ballot<P>], refusal: Option<&Refusal>) {
    for ballot in ballots {
        let outcome = match &ballot.outcome {
            Ok(Verdict::Abstain) => "abstain",
            Ok(Verdict::Allow(_)) => "allow",
            Ok(Verdict::Deny(_)) => "deny",
            Err(_) => "broken",
        };
        let policy = ballot.policy.to_string();
        metrics::counter!("execgate_verdicts_total", "hook" => hook, "policy" => policy, "outcome" => outcome)
            .increment(1);
    }
    let outcome = match refusal {
        None => "allow",
        Some(Refusal::Denied(_)) => "deny",
        Some(Refusal::Failed { .. }) => "broken",
    };
    metrics::counter!("execgate_decisions_total", "hook" => hook, "outcome" => outcome).increment(1);
    let took: Duration = ballots.iter().map(|ballot| ballot.took).sum();
    metrics::histogram!("execgate_decision_seconds", "hook" => hook).record(took.as_secs_f64());
}

/// # Errors
/// [`Failure::Unavailable`]: what cannot be recorded is not done.
fn record(core: &Core, caller: &Caller, entry: Entry) -> Result<(), Failure> {
    let tenant = &caller.principal.tenant;
    for said in entry.broken() {
        tracing::error!(decision = %entry.decision, %tenant, policy = said, "a policy broke");
    }
    core.rooms
        .audit
        .record(entry)
        .map_err(|refused| Failure::Unavailable { what: refused.to_string(), retry_after: AUDIT_RETRY })
}

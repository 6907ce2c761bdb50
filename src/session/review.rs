//! Asking policy: the charge, the two rounds of review, and the lines in the decision log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{Asked, AuditRefused, Entry, Fold, RefusedBy};
use crate::domain::{
    Call, CallMethod, Charge, CommandRequest, DecisionId, Failure, JobId, Origin, Principal, Resolved,
    SessionGrant, SessionId, SessionRequest, When,
};
use crate::facts;
use crate::policy::Pinned;
use crate::quota::LimitRefusal;
use crate::verdict::{self, Admission, Ballot, Broken, Cleared, Fault, Folded, Permission, Refusal, Verdict};
use crate::warden::Prepared;

use super::Core;
use super::core::random_bits;
use super::start;

/// When to come back to a decision log that is full: it is emptied in far less.
const AUDIT_RETRY: Duration = Duration::from_secs(1);
/// When to come back to a decision log whose share is used up: it is given anew every minute.
const SHARE_RETRY: Duration = Duration::from_secs(60);

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
}

/// A decision under way: one id, one moment, one generation of policies throughout.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) decision: DecisionId,
    pub(super) policies: Pinned,
    pub(super) when: When,
    /// What the rate policies said; empty until [`Hearing::charge`].
    pub(super) charges: Vec<Ballot<Vec<Charge>>>,
}

impl Hearing {
    /// Begins a decision with the policies in force.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the kernel gives no randomness.
    pub(super) fn begin(core: &Core) -> Result<Self, Failure> {
        let decision = DecisionId::from_bits(random_bits()?);
        let policies = core.rooms.policies.pin();
        let when = policies.now();
        Ok(Self { decision, policies, when, charges: Vec::new() })
    }

    /// Asks the rate policies what a call costs and takes it from the limiter.
    ///
    /// # Errors
    /// [`Failure::RateLimited`], or that a rate policy refused or broke.
    pub(super) async fn charge(
        &mut self,
        core: &Core,
        caller: &Caller,
        method: CallMethod,
        program: Option<&str>,
    ) -> Result<(), Failure> {
        let call = Arc::new(self.call(caller, method, program));
        self.charges = self.policies.charges(call.clone()).await;
        let folded = verdict::fold_charges(self.decision, &self.charges);
        if !self.charges.is_empty() {
            count("rate", &self.charges, folded.as_ref().err());
        }
        match folded {
            Err(refusal) => {
                record(core, self.entry(1, Asked::Call(call), Fold::Refused(refusal.clone())))?;
                Err(refusal.into())
            }
            Ok(charges) => core.rooms.limiter.take(&caller.principal.tenant, &charges).map_err(|refused| {
                if matches!(refused, LimitRefusal::BadCharge { .. }) {
                    tracing::error!(decision = %self.decision, %refused, "a policy broke");
                }
                core.rooms.audit.refused(&caller.principal, RefusedBy::Limiter);
                refused.into_failure(self.decision)
            }),
        }
    }

    pub(super) fn call(&self, caller: &Caller, method: CallMethod, program: Option<&str>) -> Call {
        Call {
            principal: caller.principal.clone(),
            origin: caller.origin.clone(),
            when: self.when.clone(),
            method,
            program: program.map(str::to_owned),
        }
    }

    fn entry(&self, round: u8, asked: Asked, fold: Fold) -> Entry {
        Entry {
            decision: self.decision,
            generation: self.policies.number(),
            round,
            grants: self.policies.grants(),
            asked,
            charges: if round == 1 { self.charges.clone() } else { Vec::new() },
            fold,
        }
    }
}

/// The session's labels with the job's on top.
pub(super) fn labels(
    session: &BTreeMap<String, String>,
    job: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    session.iter().chain(job).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What a command really is. Reading a script takes a thread; anything else is done at once.
///
/// # Errors
/// [`Failure::Internal`] when the thread broke.
pub(super) async fn resolve(
    command: crate::domain::Command,
    prepared: &Prepared,
) -> Result<Resolved, Failure> {
    let (executable, cwd) = (prepared.executable().clone(), prepared.cwd().to_owned());
    if !facts::needs_thread(&command, &executable) {
        return Ok(facts::resolve(command, executable, cwd));
    }
    tokio::task::spawn_blocking(move || facts::resolve(command, executable, cwd))
        .await
        .map_err(|broken| Failure::Internal(format!("the facts of the command: {broken}")))
}

/// What a command is reviewed for.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) core: &'a Core,
    pub(super) caller: &'a Caller,
    pub(super) session: SessionId,
    pub(super) job: JobId,
    pub(super) hearing: Hearing,
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
        let decision = self.hearing.decision;
        let (request, first) = self.ballots(&resolved).await;
        let folded = verdict::fold_command(decision, resolved, &first);
        let fold = match &folded {
            Ok(Folded::Cleared(cleared)) => Fold::Allowed(Box::new(cleared.terms().clone()), None),
            Ok(Folded::Changed(_)) => Fold::Changed,
            Err(refusal) => Fold::Refused(refusal.clone()),
        };
        count("command", &first, folded.as_ref().err());
        record(self.core, self.hearing.entry(1, Asked::Command(request, first), fold))?;
        let changed = match folded? {
            Folded::Cleared(cleared) => return Ok((*cleared, prepared)),
            Folded::Changed(changed) => changed,
        };
        drop(prepared);
        let again = self.prepare(changed.command()).await?;
        let resolved = resolve(changed.command().clone(), &again).await?;
        let (request, second) = self.ballots(&resolved).await;
        let settled = changed.settle(resolved, &second);
        let fold = match &settled {
            Ok(cleared) => Fold::Allowed(Box::new(cleared.terms().clone()), None),
            Err(refusal) => Fold::Refused(refusal.clone()),
        };
        count("command", &second, settled.as_ref().err());
        record(self.core, self.hearing.entry(2, Asked::Command(request, second), fold))?;
        Ok((settled?, again))
    }

    pub(super) async fn prepare(&self, command: &crate::domain::Command) -> Result<Prepared, Failure> {
        start::prepare(self.core, &self.caller.principal, self.session, self.job, command).await
    }

    pub(super) async fn ballots(
        &self,
        resolved: &Resolved,
    ) -> (Arc<CommandRequest>, Vec<Ballot<Permission>>) {
        let request = Arc::new(CommandRequest {
            principal: self.caller.principal.clone(),
            origin: self.caller.origin.clone(),
            when: self.hearing.when.clone(),
            session: self.session,
            resolved: resolved.clone(),
            labels: self.labels.clone(),
            usage: self.core.usage(&self.caller.principal, Some(self.session)),
        });
        let mut ballots = self.hearing.policies.review(request.clone()).await;
        ballots.iter_mut().for_each(|ballot| self.check_profiles(ballot));
        (request, ballots)
    }

    /// A permission on terms that cannot be kept is none: the policy broke.
    fn check_profiles(&self, ballot: &mut Ballot<Permission>) {
        let Ok(Verdict::Allow(permission)) = &ballot.outcome else { return };
        let unknown = permission.confine.iter().find(|name| !self.core.rooms.warden.has_profile(name));
        if let Some(name) = unknown {
            let detail = format!("it confines by the profile {name:?}; configure [profile.{name}]");
            ballot.outcome = Err(Broken { fault: Fault::BadAnswer, detail });
        }
    }
}

/// Asks about a session, and records what that came to.
///
/// # Errors
/// That policy refused or broke.
pub(super) async fn admit(
    core: &Core,
    hearing: &Hearing,
    request: SessionRequest,
) -> Result<Cleared<SessionGrant>, Failure> {
    let request = Arc::new(request);
    let ballots: Vec<Ballot<Admission>> = hearing.policies.admit(request.clone()).await;
    let folded = verdict::fold_session(hearing.decision, &ballots);
    let fold = match &folded {
        Ok(cleared) => Fold::Allowed(Box::new(cleared.terms().clone()), Some(cleared.value().clone())),
        Err(refusal) => Fold::Refused(refusal.clone()),
    };
    count("session", &ballots, folded.as_ref().err());
    record(core, hearing.entry(1, Asked::Session(request, ballots), fold))?;
    Ok(folded?)
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
        tracing::debug!(stage = "decide", hook, policy = %ballot.policy, outcome, took = ?ballot.took, "stage");
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
fn record(core: &Core, entry: Entry) -> Result<(), Failure> {
    for broken in entry.broken() {
        tracing::error!(decision = %entry.decision, policy = broken, "a policy broke");
    }
    let tenant = entry.principal().tenant.clone();
    let breaker = &core.rooms.audit_breaker;
    match core.rooms.audit.record(entry) {
        Ok(()) => {
            breaker.success();
            Ok(())
        }
        Err(refused) => {
            let retry_after = match refused {
                AuditRefused::Full => {
                    breaker.failure(Some(&tenant));
                    AUDIT_RETRY
                }
                // Its own doing: it says nothing about the log.
                AuditRefused::Backlog => AUDIT_RETRY,
                AuditRefused::Tenant => SHARE_RETRY,
            };
            Err(Failure::Unavailable { what: refused.to_string(), retry_after })
        }
    }
}

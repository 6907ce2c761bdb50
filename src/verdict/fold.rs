//! The fold: many verdicts, one decision.
//!
//! A command is reviewed in at most two rounds. In round 1 every policy sees the original. If that changed
//! nothing in effect, the command is cleared; else it is [`Changed`], which every policy must review once more
//! before [`Changed::settle`] can clear it. A second effective change is a conflict.

use std::sync::Arc;

use crate::domain::limits::stricter;
use crate::domain::{Charge, Claim, Command, DecisionId, Denied, JobLimits, Resolved, SessionGrant};

use super::change::apply;
use super::{Admission, Ballot, Cleared, Denial, Fault, Mode, Permission, Refusal, Terms, Verdict};

/// What round 1 came to.
#[must_use]
#[derive(Debug)]
pub enum Folded {
    /// Cleared as it stands.
    Cleared(Box<Cleared<Resolved>>),
    /// Changed in effect: resolve its facts anew and have it reviewed once more.
    Changed(Box<Changed>),
}

/// A command that round 1 allowed and changed; not yet cleared.
#[must_use]
#[derive(Debug)]
pub struct Changed {
    command: Command,
    terms: Terms,
}

impl Changed {
    /// The command with all changes applied.
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// Folds round 2 over the changed command as resolved anew.
    ///
    /// # Errors
    /// A denial denies; another effective change is [`Fault::ChangesConflict`], and so is a `resolved` that is
    /// not the changed command.
    pub fn settle(
        self,
        resolved: Resolved,
        ballots: &[Ballot<Permission>],
    ) -> Result<Cleared<Resolved>, Refusal> {
        let decision = self.terms.decision;
        let conflict =
            || Refusal::Failed { policy: last_changer(ballots), fault: Fault::ChangesConflict, decision };
        if resolved.command != self.command {
            return Err(conflict());
        }
        match fold_command(decision, resolved, ballots)? {
            Folded::Changed(_) => Err(conflict()),
            Folded::Cleared(second) => {
                Ok(Cleared { value: second.value, terms: strictest(self.terms, second.terms) })
            }
        }
    }
}

/// Folds the verdicts over one command.
///
/// # Errors
/// [`Refusal::Denied`] when any policy denies or none allows; [`Refusal::Failed`] when one broke.
pub fn fold_command(
    decision: DecisionId,
    resolved: Resolved,
    ballots: &[Ballot<Permission>],
) -> Result<Folded, Refusal> {
    let allowing = allowing(decision, ballots)?;
    let mut terms = Terms::new(decision);
    let mut command = resolved.command.clone();
    for (ballot, permission) in allowing {
        for change in &permission.changes {
            apply(&mut command, change).map_err(|_| Refusal::Failed {
                policy: ballot.policy.clone(),
                fault: Fault::BadAnswer,
                decision,
            })?;
        }
        terms.add_rules(&ballot.policy, &permission.rules);
        terms.limits = terms.limits.strictest(&permission.limits);
        add_claims(&mut terms.claims, &permission.claims);
        add_profiles(&mut terms.confine, &permission.confine);
    }
    if command == resolved.command {
        return Ok(Folded::Cleared(Box::new(Cleared { value: resolved, terms })));
    }
    Ok(Folded::Changed(Box::new(Changed { command, terms })))
}

/// Folds the verdicts over one session.
///
/// # Errors
/// As [`fold_command`].
pub fn fold_session(
    decision: DecisionId,
    ballots: &[Ballot<Admission>],
) -> Result<Cleared<SessionGrant>, Refusal> {
    let mut terms = Terms::new(decision);
    let mut grant: Option<SessionGrant> = None;
    for (ballot, admission) in allowing(decision, ballots)? {
        terms.add_rules(&ballot.policy, &admission.rules);
        add_claims(&mut terms.claims, &admission.claims);
        grant = Some(match grant {
            None => admission.grant.clone(),
            Some(so_far) => strictest_grant(&so_far, &admission.grant),
        });
    }
    Ok(Cleared { value: grant.unwrap_or_default(), terms })
}

/// Folds the verdicts over one call: what to take from the limiter, in order. Here nobody has to allow.
///
/// # Errors
/// As [`fold_command`].
pub fn fold_charges(
    decision: DecisionId,
    ballots: &[Ballot<Vec<Charge>>],
) -> Result<Vec<(Arc<str>, Charge)>, Refusal> {
    let mut charges = Vec::new();
    for (ballot, all) in voting(decision, ballots)? {
        charges.extend(all.iter().map(|charge| (ballot.policy.clone(), charge.clone())));
    }
    Ok(charges)
}

type Allowing<'a, P> = Vec<(&'a Ballot<P>, &'a P)>;

/// The binding policies that allow, in order; a refusal when one denies, one broke, or none allows.
fn allowing<P>(decision: DecisionId, ballots: &[Ballot<P>]) -> Result<Allowing<'_, P>, Refusal> {
    let allowing = voting(decision, ballots)?;
    if allowing.is_empty() {
        return Err(denied(decision, "", &nobody_allowed()));
    }
    Ok(allowing)
}

/// The binding policies that allow, in order; a refusal when one denies or one broke.
fn voting<P>(decision: DecisionId, ballots: &[Ballot<P>]) -> Result<Allowing<'_, P>, Refusal> {
    let mut allowing = Vec::new();
    let mut broken = None;
    for ballot in ballots.iter().filter(|b| b.mode == Mode::Enforce) {
        match &ballot.outcome {
            Ok(Verdict::Abstain) => {}
            Ok(Verdict::Allow(permission)) => allowing.push((ballot, permission)),
            Ok(Verdict::Deny(denial)) => return Err(denied(decision, &ballot.policy, denial)),
            Err(fault) => broken = broken.or(Some((ballot, fault.fault))),
        }
    }
    if let Some((ballot, fault)) = broken {
        return Err(Refusal::Failed { policy: ballot.policy.clone(), fault, decision });
    }
    Ok(allowing)
}

fn denied(decision: DecisionId, policy: &str, denial: &Denial) -> Refusal {
    Refusal::Denied(Box::new(Denied {
        policy: policy.to_owned(),
        code: denial.code.clone(),
        message: denial.message.clone(),
        rules: denial.rules.clone(),
        remedy: denial.remedy.clone(),
        decision,
    }))
}

fn nobody_allowed() -> Denial {
    Denial {
        code: "no_policy_allowed".to_owned(),
        message: "no policy allowed this, and what no policy allows is denied".to_owned(),
        remedy: Some("ask the operator for a policy rule that allows it".to_owned()),
        rules: Vec::new(),
    }
}

fn last_changer(ballots: &[Ballot<Permission>]) -> Arc<str> {
    let changes = |b: &&Ballot<Permission>| {
        b.mode == Mode::Enforce && matches!(&b.outcome, Ok(Verdict::Allow(p)) if !p.changes.is_empty())
    };
    ballots.iter().rev().find(changes).map_or_else(|| "".into(), |b| b.policy.clone())
}

impl Terms {
    fn new(decision: DecisionId) -> Self {
        Self {
            decision,
            rules: Vec::new(),
            limits: JobLimits::default(),
            claims: Vec::new(),
            confine: Vec::new(),
        }
    }

    fn add_rules(&mut self, policy: &str, rules: &[String]) {
        self.rules.extend(rules.iter().map(|rule| format!("{policy}/{rule}")));
    }
}

fn strictest(mut a: Terms, b: Terms) -> Terms {
    a.limits = a.limits.strictest(&b.limits);
    add_claims(&mut a.claims, &b.claims);
    add_profiles(&mut a.confine, &b.confine);
    for rule in b.rules {
        if !a.rules.contains(&rule) {
            a.rules.push(rule);
        }
    }
    a
}

fn add_claims(claims: &mut Vec<Claim>, more: &[Claim]) {
    for claim in more {
        match claims.iter_mut().find(|c| c.scope == claim.scope && c.what == claim.what) {
            Some(same) => same.max = same.max.min(claim.max),
            None => claims.push(claim.clone()),
        }
    }
}

fn add_profiles(profiles: &mut Vec<String>, more: &[String]) {
    for profile in more {
        if !profiles.contains(profile) {
            profiles.push(profile.clone());
        }
    }
}

fn strictest_grant(a: &SessionGrant, b: &SessionGrant) -> SessionGrant {
    SessionGrant {
        max_jobs: stricter(a.max_jobs, b.max_jobs),
        max_duration: stricter(a.max_duration, b.max_duration),
        idle: stricter(a.idle, b.idle),
        detach_ttl: stricter(a.detach_ttl, b.detach_ttl),
        job_limits: a.job_limits.strictest(&b.job_limits),
    }
}

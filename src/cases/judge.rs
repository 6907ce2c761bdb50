//! Asking a case, and comparing what came out.

use std::time::{Duration, Instant};

use crate::domain::{Charge, DecisionId, Resolved};
use crate::policy::Pinned;
use crate::verdict::{self, Ballot, Change, Folded, Mode, Permission, Refusal, Verdict};

use super::case::{Case, Expected, Hook};
use super::request;

/// What became of a case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Which hook was asked.
    pub hook: Hook,
    /// How what came out differs from what was expected.
    pub problem: Option<String>,
    /// The rules that were named.
    pub rules: Vec<String>,
    /// How long the decision took.
    pub took: Duration,
}

#[derive(Debug)]
struct Answer {
    outcome: Expected,
    rules: Vec<String>,
    code: String,
    message: String,
    changes: Vec<Change>,
}

/// Asks the policies about the case. `alone`: they are one policy, whose abstaining is an answer; else nobody's allowing denies.
pub fn judge(policies: &Pinned, case: &Case, alone: bool) -> Outcome {
    let started = Instant::now();
    let answer = match case.hook {
        Hook::Command => command(policies, case, alone),
        Hook::Session => Ok(session(policies, case, alone)),
        Hook::Rate => Ok(rate(policies, case)),
    };
    let took = started.elapsed();
    let (problem, rules) = match answer {
        Err(problem) => (Some(problem), Vec::new()),
        Ok(answer) => (compare(case, &answer).err(), answer.rules),
    };
    Outcome { name: case.name.clone(), hook: case.hook, problem, rules, took }
}

const DECISION: DecisionId = DecisionId::from_bits(0);

fn command(policies: &Pinned, case: &Case, alone: bool) -> Result<Answer, String> {
    let resolved = case.resolved();
    let first = policies.review_here(&case.command(resolved.clone()));
    let mut changes = Vec::new();
    for ballot in first.iter().filter(|b| b.mode == Mode::Enforce) {
        if let Ok(Verdict::Allow(permission)) = &ballot.outcome {
            changes.extend(permission.changes.iter().cloned());
        }
    }
    let rules = named(&first, |permission: &Permission| &permission.rules);
    if alone && all_abstain(&first) {
        return Ok(Answer::of(Expected::Abstain, rules));
    }
    match verdict::fold_command(DECISION, resolved.clone(), &first) {
        Err(refusal) => Ok(Answer::refused(refusal, rules)),
        Ok(Folded::Cleared(_)) => Ok(Answer { changes, ..Answer::of(Expected::Allow, rules) }),
        Ok(Folded::Changed(changed)) => again(policies, case, changed, &resolved, rules, changes),
    }
}

/// The second review, of what the first changed.
fn again(
    policies: &Pinned,
    case: &Case,
    changed: Box<verdict::Changed>,
    before: &Resolved,
    mut rules: Vec<String>,
    changes: Vec<Change>,
) -> Result<Answer, String> {
    let resolved = request::changed(changed.command(), before);
    let second = policies.review_here(&case.command(resolved.clone()));
    rules.extend(named(&second, |permission: &Permission| &permission.rules));
    match changed.settle(resolved, &second) {
        Ok(_) => Ok(Answer { changes, ..Answer::of(Expected::Allow, rules) }),
        Err(refusal) => Ok(Answer::refused(refusal, rules)),
    }
}

fn session(policies: &Pinned, case: &Case, alone: bool) -> Answer {
    let ballots = policies.admit_here(&case.session());
    let rules = named(&ballots, |admission| &admission.rules);
    if alone && all_abstain(&ballots) {
        return Answer::of(Expected::Abstain, rules);
    }
    match verdict::fold_session(DECISION, &ballots) {
        Ok(_) => Answer::of(Expected::Allow, rules),
        Err(refusal) => Answer::refused(refusal, rules),
    }
}

fn rate(policies: &Pinned, case: &Case) -> Answer {
    let ballots = policies.charges_here(&case.call());
    match verdict::fold_charges(DECISION, &ballots) {
        Err(refusal) => Answer::refused(refusal, Vec::new()),
        Ok(charges) => {
            let costs = charges.iter().any(|(_, charge): &(_, Charge)| charge.cost > 0);
            let rules = charges.into_iter().map(|(_, charge)| charge.rule).collect();
            Answer::of(if costs { Expected::Charge } else { Expected::Allow }, rules)
        }
    }
}

fn all_abstain<P>(ballots: &[Ballot<P>]) -> bool {
    ballots.iter().all(|ballot| matches!(ballot.outcome, Ok(Verdict::Abstain)))
}

/// The rules that binding policies named, whatever they said.
fn named<P>(ballots: &[Ballot<P>], allowing: impl Fn(&P) -> &Vec<String>) -> Vec<String> {
    let rules = |ballot: &Ballot<P>| match &ballot.outcome {
        Ok(Verdict::Allow(terms)) => allowing(terms).clone(),
        Ok(Verdict::Deny(denial)) => denial.rules.clone(),
        Ok(Verdict::Abstain) | Err(_) => Vec::new(),
    };
    ballots.iter().filter(|ballot| ballot.mode == Mode::Enforce).flat_map(rules).collect()
}

impl Answer {
    const fn of(outcome: Expected, rules: Vec<String>) -> Self {
        Self { outcome, rules, code: String::new(), message: String::new(), changes: Vec::new() }
    }

    fn refused(refusal: Refusal, mut rules: Vec<String>) -> Self {
        match refusal {
            Refusal::Denied(denied) => {
                rules.extend(denied.rules);
                Self { code: denied.code, message: denied.message, ..Self::of(Expected::Deny, rules) }
            }
            Refusal::Failed { policy, fault, .. } => Self {
                code: "policy_failed".to_owned(),
                message: format!("the policy {policy:?} broke: {fault}"),
                ..Self::of(Expected::Deny, rules)
            },
        }
    }
}

fn compare(case: &Case, answer: &Answer) -> Result<(), String> {
    let free =
        case.hook == Hook::Rate && case.expect == Expected::Abstain && answer.outcome == Expected::Allow;
    // A policy that broke is never what was expected of a denial, unless that is said.
    let broke = answer.code == "policy_failed" && case.code.as_deref() != Some("policy_failed");
    if (answer.outcome != case.expect && !free) || broke {
        let by =
            if answer.rules.is_empty() { String::new() } else { format!(" by {}", answer.rules.join(", ")) };
        let code = if answer.code.is_empty() {
            String::new()
        } else {
            format!(" ({}: {})", answer.code, answer.message)
        };
        return Err(format!("expected {}, came out {}{by}{code}", case.expect, answer.outcome));
    }
    if let Some(rule) = case.rule.as_ref().filter(|rule| !answer.rules.contains(rule)) {
        return Err(format!("expected the rule {rule:?}, named were {:?}", answer.rules));
    }
    if let Some(code) = case.code.as_ref().filter(|code| **code != answer.code) {
        return Err(format!("expected the code {code:?}, was {:?}", answer.code));
    }
    let changes: Vec<_> = answer.changes.iter().map(written).collect();
    match &case.changes {
        Some(expected) if *expected != changes => {
            Err(format!("expected the changes {expected:?}, were {changes:?}"))
        }
        _ => Ok(()),
    }
}

/// A change as tables write it.
fn written(change: &Change) -> String {
    match change {
        Change::SetProgram(program) => format!("set-program {program}"),
        Change::SetArg { index, value } => format!("set-arg {index}={value}"),
        Change::SetEnv { name, value } => format!("set-env {name}={value}"),
        Change::UnsetEnv(name) => format!("unset-env {name}"),
        Change::SetCwd(cwd) => format!("set-cwd {cwd}"),
    }
}

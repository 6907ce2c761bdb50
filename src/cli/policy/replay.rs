//! `policy replay`: every recorded decision, decided anew by the policies of a configuration.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::audit::{self, Again, Recorded};
use crate::cli::output::{Colour, Trouble, harmless_part, paint, say};
use crate::domain::DecisionId;
use crate::policy::Pinned;
use crate::verdict;

use super::ask;
use super::options::Replay;

/// A decision that would come out otherwise.
struct Difference {
    line: u64,
    decision: String,
    who: String,
    what: String,
    before: String,
    after: String,
    /// The rules that were named before or are named now, but not both.
    rules: Vec<String>,
}

#[derive(Default)]
struct Report {
    decided: u64,
    skipped: BTreeMap<&'static str, u64>,
    differences: Vec<Difference>,
    by_rule: BTreeMap<String, u64>,
    by_principal: BTreeMap<String, u64>,
}

pub(super) fn run(args: &Replay) -> Result<ExitCode, Trouble> {
    let pinned = ask::configured(&args.from)?.pin();
    let mut report = Report::default();
    audit::read(&args.log, |recorded| {
        match &recorded.again {
            Err("not a decision") => {}
            Err(why) => *report.skipped.entry(*why).or_default() += 1,
            Ok(again) => report.add(&recorded, again, &pinned),
        }
        true
    })
    .map_err(Trouble::failed)?;
    if args.json {
        say(report.as_json(args.limit))?;
    } else {
        report.tell(args.limit)?;
    }
    Ok(if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a review comes to now: the answers, and the outcome.
type Now = (BTreeMap<String, Value>, String);

fn now(pinned: &Pinned, again: &Again, round: u8) -> Now {
    let decision = DecisionId::from_bits(0);
    match again {
        Again::Command(request) => {
            let ballots = pinned.review_here(request);
            let fold = audit::fold_of_command(round, decision, request.resolved.clone(), &ballots);
            (audit::answers_now(&ballots), audit::outcome_now(&fold))
        }
        Again::Session(request) => {
            let ballots = pinned.admit_here(request);
            let fold = audit::fold_of_session(decision, &ballots);
            (audit::answers_now(&ballots), audit::outcome_now(&fold))
        }
        Again::Call(call) => {
            let ballots = pinned.charges_here(call);
            let outcome = match verdict::fold_charges(decision, &ballots) {
                Ok(_) => "allow".to_owned(),
                Err(refusal) => audit::outcome_now(&audit::Fold::Refused(refusal)),
            };
            (BTreeMap::new(), outcome)
        }
    }
}

impl Report {
    fn add(&mut self, recorded: &Recorded, again: &Again, pinned: &Pinned) {
        self.decided += 1;
        let (answers, outcome) = now(pinned, again, recorded.round());
        let mut before = recorded.answers();
        let mut after = answers;
        if recorded.round() == 1
            && let Some(call) = recorded.call()
        {
            let named = |(name, answer): (String, Value)| (format!("{name} (rate)"), answer);
            before.extend(recorded.charges().into_iter().map(named));
            let charges = audit::answers_now(&pinned.charges_here(&call));
            after.extend(charges.into_iter().map(named));
        }
        if before == after && outcome == recorded.outcome() {
            return;
        }
        let rules = changed_rules(&before, &after);
        let who = format!(
            "{}/{}",
            recorded.text("/request/principal/tenant"),
            recorded.text("/request/principal/subject")
        );
        *self.by_principal.entry(who.clone()).or_default() += 1;
        for rule in &rules {
            *self.by_rule.entry(rule.clone()).or_default() += 1;
        }
        self.differences.push(Difference {
            line: recorded.line,
            decision: recorded.text("/decision").to_owned(),
            who,
            what: what(recorded),
            before: recorded.outcome().to_owned(),
            after: outcome,
            rules,
        });
    }

    fn as_json(&self, limit: usize) -> Value {
        let shown: Vec<_> = self
            .differences
            .iter()
            .take(limit)
            .map(|d| {
                json!({
                    "line": d.line, "decision": d.decision, "principal": d.who, "what": d.what, "before": d.before, "after": d.after,
                    "rules": d.rules,
                })
            })
            .collect();
        json!({
            "decided": self.decided, "not_replayable": self.skipped, "different": self.differences.len(), "by_rule": self.by_rule,
            "by_principal": self.by_principal, "differences": shown,
        })
    }

    fn tell(&self, limit: usize) -> Result<(), Trouble> {
        for d in self.differences.iter().take(limit) {
            let to = if d.before == d.after {
                format!("{}, on other terms", d.after)
            } else {
                format!("{} → {}", d.before, d.after)
            };
            let (who, what) = (harmless_part(&d.who), harmless_part(&d.what));
            say(format!("line {}  {who}  {}  {what}", d.line, paint(Colour::Bad, &harmless_part(&to))))?;
            if !d.rules.is_empty() {
                say(format!("        {}", harmless_part(&d.rules.join(", "))))?;
            }
        }
        for (title, counts) in [("by rule", &self.by_rule), ("by principal", &self.by_principal)] {
            if !counts.is_empty() {
                say(title)?;
            }
            for (name, count) in counts {
                say(format!("  {count:>6}  {}", harmless_part(name)))?;
            }
        }
        for (why, count) in &self.skipped {
            say(format!("{count} not replayable: {why}"))?;
        }
        let line = format!("{} decisions replayed, {} different", self.decided, self.differences.len());
        say(paint(if self.differences.is_empty() { Colour::Good } else { Colour::Bad }, &line))
    }
}

/// What was decided about, in a few words.
fn what(recorded: &Recorded) -> String {
    let argv = recorded.entry.pointer("/request/argv").and_then(Value::as_array);
    let argv: Vec<_> = argv.into_iter().flatten().filter_map(Value::as_str).take(8).collect();
    match recorded.text("/hook") {
        "command" => argv.join(" "),
        hook => hook.to_owned(),
    }
}

/// Rules, with the policy and a sign: `-policy/rule` is named no more, `+policy/rule` is named now.
fn changed_rules(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let named = |answers: &BTreeMap<String, Value>| -> Vec<String> {
        let mut all = Vec::new();
        for (policy, answer) in answers {
            let verdict = answer.get("verdict").and_then(Value::as_str).unwrap_or_default();
            let rules = answer.get("rules").and_then(Value::as_array);
            let rules: Vec<_> = rules.into_iter().flatten().filter_map(Value::as_str).collect();
            if rules.is_empty() {
                all.push(format!("{policy}: {verdict}"));
            }
            all.extend(rules.iter().map(|rule| format!("{policy}/{rule}: {verdict}")));
        }
        all
    };
    let (before, after) = (named(before), named(after));
    let gone = before.iter().filter(|rule| !after.contains(rule)).map(|rule| format!("-{rule}"));
    let come = after.iter().filter(|rule| !before.contains(rule)).map(|rule| format!("+{rule}"));
    gone.chain(come).collect()
}

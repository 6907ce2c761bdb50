//! `policy test`: tables of cases against the modules they name, or against the configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::{self, Outcome, Table};
use crate::cli::output::{Colour, Trouble, harmless, paint, say};

use super::ask::{self, Loader};
use super::options::Test;

/// A table and what became of its cases.
struct Ran {
    table: Table,
    policies: String,
    outcomes: Vec<Outcome>,
}

pub(super) fn run(args: &Test) -> Result<ExitCode, Trouble> {
    let mut loader = Loader::new(&args.from);
    let mut all = Vec::new();
    for table in ask::tables(&args.tables)? {
        let (pinned, alone) = loader.load(&table)?;
        let policies: Vec<_> = pinned.list().iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        let wanted = |name: &str| args.filter.as_ref().is_none_or(|text| name.contains(text.as_str()));
        let chosen = table.cases.iter().filter(|case| wanted(&case.name));
        let outcomes = chosen.map(|case| cases::judge(&pinned, case, alone)).collect();
        all.push(Ran { table, policies: policies.join(", "), outcomes });
    }
    if let Some(path) = &args.junit {
        write_junit(path, &all)?;
    }
    let failed = all.iter().flat_map(|ran| &ran.outcomes).filter(|o| o.problem.is_some()).count();
    let passed = all.iter().map(|ran| ran.outcomes.len()).sum::<usize>() - failed;
    if args.json {
        say(as_json(&all, passed, failed))?;
    } else {
        all.iter().try_for_each(|ran| tell(ran, args.verbose))?;
        let line = format!("{passed} passed, {failed} failed");
        say(paint(if failed == 0 { Colour::Good } else { Colour::Bad }, &line))?;
    }
    if passed + failed == 0 {
        return Err(Trouble::usage("no case has such a name"));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(ran: &Ran, verbose: bool) -> Result<(), Trouble> {
    say(format!("{} ({})", ran.table.path.display(), ran.policies))?;
    for outcome in &ran.outcomes {
        match &outcome.problem {
            Some(problem) => say(format!(
                "  {}  {}\n        {}",
                paint(Colour::Bad, "FAIL"),
                outcome.name,
                harmless(problem)
            ))?,
            None if verbose => {
                say(format!(
                    "  {}    {}  {} us",
                    paint(Colour::Good, "ok"),
                    outcome.name,
                    outcome.took.as_micros()
                ))?;
            }
            None => {}
        }
    }
    let coverage = coverage(ran);
    let silent: Vec<_> =
        coverage.iter().filter(|(_, count)| **count == 0).map(|(rule, _)| rule.as_str()).collect();
    if verbose {
        for (rule, count) in &coverage {
            say(format!("  {count:>6}  {rule}"))?;
        }
    }
    let named = coverage.len() - silent.len();
    say(format!("  {} cases, {named} rules named", ran.outcomes.len()))?;
    if !silent.is_empty() {
        say(format!("  {} no case names: {}", paint(Colour::Doubt, "note"), silent.join(", ")))?;
    }
    Ok(())
}

/// How often each rule was named; rules that the settings list and no case names, too.
fn coverage(ran: &Ran) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let settings = ran.table.policy.as_ref().map(|policy| policy.settings.as_str()).unwrap_or("{}");
    let settings: Value = serde_json::from_str(settings).unwrap_or_default();
    let rules = settings.get("rules").and_then(Value::as_array);
    for rule in rules.into_iter().flatten() {
        let name = ["id", "name"].iter().find_map(|member| rule.get(member)?.as_str());
        counts.extend(name.map(|name| (name.to_owned(), 0)));
    }
    for rule in ran.outcomes.iter().flat_map(|outcome| &outcome.rules) {
        *counts.entry(rule.clone()).or_insert(0) += 1;
    }
    counts
}

fn as_json(all: &[Ran], passed: usize, failed: usize) -> Value {
    let tables: Vec<_> = all
        .iter()
        .map(|ran| {
            let cases: Vec<_> = ran
                .outcomes
                .iter()
                .map(|o| {
                    json!({
                        "name": o.name, "hook": o.hook.to_string(), "passed": o.problem.is_none(), "problem": o.problem,
                        "rules": o.rules, "took_us": u64::try_from(o.took.as_micros()).unwrap_or(u64::MAX),
                    })
                })
                .collect();
            json!({"table": ran.table.path, "policies": ran.policies, "cases": cases, "rules": coverage(ran)})
        })
        .collect();
    json!({"passed": passed, "failed": failed, "tables": tables})
}

fn write_junit(path: &Path, all: &[Ran]) -> Result<(), Trouble> {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for ran in all {
        let failed = ran.outcomes.iter().filter(|o| o.problem.is_some()).count();
        let took: Duration = ran.outcomes.iter().map(|o| o.took).sum();
        let suite = escaped(&ran.table.path.display().to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failed}\" time=\"{:.6}\">",
            ran.outcomes.len(),
            took.as_secs_f64()
        );
        for o in &ran.outcomes {
            let _ = write!(
                xml,
                "    <testcase classname=\"{suite}\" name=\"{}\" time=\"{:.6}\"",
                escaped(&o.name),
                o.took.as_secs_f64()
            );
            let _ = match &o.problem {
                None => writeln!(xml, "/>"),
                Some(problem) => writeln!(xml, "><failure message=\"{}\"/></testcase>", escaped(problem)),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    std::fs::write(path, xml).map_err(|error| Trouble::failed(format!("{}: {error}", path.display())))
}

/// Text within an XML attribute; what XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

//! `audit verify` and `audit show`.

use std::collections::VecDeque;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::audit::{self, Recorded};

use super::args::{AuditCommand, Show, Verify};
use super::output::{Colour, Trouble, harmless_part, paint, say};

pub(super) fn run(command: &AuditCommand) -> Result<ExitCode, Trouble> {
    match command {
        AuditCommand::Verify(args) => verify(args),
        AuditCommand::Show(args) => show(args),
    }
}

fn verify(args: &Verify) -> Result<ExitCode, Trouble> {
    let verified = audit::verify(&args.file, args.head.as_deref()).map_err(Trouble::failed)?;
    if args.json {
        say(
            json!({"first": verified.first, "lines": verified.lines, "files": verified.files, "head": verified.head}),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let from = if verified.first > 1 {
        format!(" (from line {}: older files are gone)", verified.first)
    } else {
        String::new()
    };
    say(format!("{} lines, unbroken{from}; head {}", verified.lines, verified.head))?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &Show) -> Result<ExitCode, Trouble> {
    let mut last = VecDeque::new();
    let mut trouble = Ok(());
    audit::read(&args.file, |recorded| {
        if !wanted(args, &recorded) {
            return true;
        }
        if args.last > 0 {
            if last.len() == args.last {
                last.pop_front();
            }
            last.push_back(recorded);
            return true;
        }
        trouble = tell(args, &recorded);
        trouble.is_ok()
    })
    .map_err(Trouble::failed)?;
    trouble?;
    last.iter().try_for_each(|recorded| tell(args, recorded))?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(args: &Show, recorded: &Recorded) -> bool {
    let is = |wish: &Option<String>, said: &str| wish.as_ref().is_none_or(|wish| wish == said);
    let either = |name: &str| {
        let of_request = recorded.text(&format!("/request/principal/{name}"));
        if of_request.is_empty() {
            recorded.text(&format!("/{name}")).to_owned()
        } else {
            of_request.to_owned()
        }
    };
    is(&args.tenant, &either("tenant"))
        && is(&args.subject, &either("subject"))
        && is(&args.decision, recorded.text("/decision"))
        && is(&args.outcome, recorded.outcome())
}

fn tell(args: &Show, recorded: &Recorded) -> Result<(), Trouble> {
    if args.json {
        return say(json!({"line": recorded.line, "entry": recorded.entry}));
    }
    let part = |pointer: &str| harmless_part(recorded.text(pointer));
    let hook = recorded.text("/hook");
    let at = recorded.entry.get("time_ms").and_then(Value::as_u64).unwrap_or_default();
    let at = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(at));
    let who = format!("{}/{}", part("/request/principal/tenant"), part("/request/principal/subject"));
    let what = match hook {
        "command" => {
            let argv = recorded.entry.pointer("/request/argv").and_then(Value::as_array);
            argv.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        "session" | "rate" => String::new(),
        _ => return say(harmless_part(&format!("{:>7}  {at}  {}", recorded.line, recorded.entry))),
    };
    let outcome = recorded.outcome();
    let colour = if matches!(outcome, "allow" | "changed") { Colour::Good } else { Colour::Bad };
    let code = [part("/fold/code"), part("/fold/fault")].concat();
    let rules = recorded.entry.pointer("/fold/rules").and_then(Value::as_array);
    let rules: Vec<_> = rules.into_iter().flatten().filter_map(Value::as_str).collect();
    say(format!(
        "{:>7}  {at}  {}  {hook:<7} {}  {who}  {} {code} [{}]",
        recorded.line,
        part("/decision"),
        paint(colour, &format!("{:<7}", harmless_part(outcome))),
        harmless_part(&what),
        harmless_part(&rules.join(", "))
    ))
}

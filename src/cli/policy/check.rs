//! `policy check`: everything as the server would load it, tests included.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::output::{Trouble, say};
use crate::policy::PolicySummary;

use super::ask;
use super::options::Check;

pub(super) fn run(args: &Check) -> Result<ExitCode, Trouble> {
    let policies = ask::configured(&args.from)?.list();
    if args.json {
        say(Value::Array(policies.iter().map(shown).collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for policy in &policies {
        let mode = if policy.mode == crate::verdict::Mode::Monitor { ", monitor only" } else { "" };
        say(format!(
            "{}: {} {}, hooks {}{mode}",
            policy.name,
            policy.module,
            policy.version,
            policy.hooks.join(" ")
        ))?;
        if let Err(why) = &policy.snapshot {
            say(format!("  no snapshot, so it is configured for every decision: {why}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(policy: &PolicySummary) -> Value {
    json!({
        "name": policy.name, "module": policy.module, "version": policy.version, "hooks": policy.hooks, "sha256": policy.digest,
        "snapshot": policy.snapshot.is_ok(), "snapshot_missing": policy.snapshot.as_ref().err(),
    })
}

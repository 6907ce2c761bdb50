//! `ps`, `kill`, `pause`, `resume`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args;
use super::client::Client;
use super::output::{Trouble, complain, harmless_part, is_for_people, say};
use super::serve;
use super::target::Target;

fn call(target: &args::Target, method: &str, params: Value) -> Result<Value, Trouble> {
    let target = Target::find(target)?;
    serve::runtime()?.block_on(async {
        let mut client = Client::connect(&target).await?;
        let answer = client.call(method, params).await;
        client.close().await;
        answer
    })
}

pub(super) fn ps(args: &args::Ps) -> Result<ExitCode, Trouble> {
    let answer = call(&args.target, "job.list", json!({}))?;
    if let Some(omitted) = answer.get("omitted").and_then(Value::as_u64) {
        complain(format!("the {omitted} oldest jobs are not shown: an answer has room for no more"));
    }
    let jobs: Vec<_> = answer.get("jobs").and_then(Value::as_array).cloned().unwrap_or_default();
    let shown = jobs.into_iter().filter(|job| args.all || text(job, "state") != "closed");
    if args.json {
        say(Value::Array(shown.collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown: Vec<_> = shown.collect();
    if is_for_people() || !shown.is_empty() {
        say(format!("{:<34} {:<8} {:>8} {:<20} COMMAND", "JOB", "STATE", "PID", "OWNER"))?;
    }
    for job in &shown {
        let part = |name| harmless_part(text(job, name));
        let owner = format!("{}/{}", part("tenant"), part("subject"));
        let pid = job.get("pid").and_then(Value::as_u64).unwrap_or_default();
        let argv = job.get("argv").and_then(Value::as_array);
        let argv: Vec<_> = argv.into_iter().flatten().filter_map(Value::as_str).collect();
        let command = harmless_part(&argv.join(" "));
        say(format!("{:<34} {:<8} {pid:>8} {owner:<20} {command}", part("job"), part("state")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(job: &'a Value, name: &str) -> &'a str {
    job.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn kill(args: &args::Kill) -> Result<ExitCode, Trouble> {
    let (method, params) = match args.grace {
        None => ("job.kill", json!({"job": args.job})),
        Some(grace) => {
            let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            ("job.stop", json!({"job": args.job, "grace_ms": ms}))
        }
    };
    let answer = call(&args.target, method, params)?;
    match answer.get("survivors").and_then(Value::as_u64) {
        Some(0) => Ok(ExitCode::SUCCESS),
        survivors => Err(Trouble::failed(format!(
            "{} processes would not end; the kernel holds on to them",
            survivors.unwrap_or(0)
        ))),
    }
}

pub(super) fn pause(args: &args::Job, method: &str) -> Result<ExitCode, Trouble> {
    let answer = call(&args.target, method, json!({"job": args.job}))?;
    if answer.get("exact") == Some(&Value::Bool(false)) {
        complain("best effort: on this host a process of the job may not have followed");
    }
    Ok(ExitCode::SUCCESS)
}

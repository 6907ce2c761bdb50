//! `policy explain`: what would be decided about a command, rule by rule; nothing is run, and nothing charged.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::client::{Client, refusal};
use crate::cli::output::{Colour, Trouble, harmless, harmless_part, paint, say};
use crate::cli::serve::{self, sources};
use crate::cli::target::Target;
use crate::config::{self, Environment};
use crate::domain::{
    Authority, Command, CommandRequest, DecisionId, Failure, Origin, Principal, RequestId, Resolved,
    SessionId, Terminal, TerminalSize, Transport, UsageCounts,
};
use crate::facts;
use crate::policy::Pinned;
use crate::rpc::{self, view};
use crate::server::{self, Setup};
use crate::verdict::{self, Folded};
use crate::warden::{self, SpawnFailure};

use super::options::Explain;

pub(super) fn run(args: &Explain) -> Result<ExitCode, Trouble> {
    if !args.live && args.target.is_typed() {
        return Err(Trouble::usage(
            "--url, --token-file, --ca, --cert and --key name a gateway that runs: add --live to ask it",
        ));
    }
    let answer = if args.live { live(args)? } else { local(args)? };
    if args.json {
        say(&answer)?;
    } else {
        tell(&answer)?;
    }
    let allowed = text(&answer, "verdict") == "allow";
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(77) })
}

fn live(args: &Explain) -> Result<Value, Trouble> {
    let target = Target::find(&args.target)?;
    let pty = args.pty.then(|| json!({"rows": 24, "cols": 80}));
    let mut params = json!({"argv": args.argv});
    for (name, value) in [("cwd", args.cwd.as_ref().map(|c| json!(c))), ("pty", pty)] {
        if let (Some(map), Some(value)) = (params.as_object_mut(), value) {
            map.insert(name.to_owned(), value);
        }
    }
    serve::runtime()?.block_on(async {
        let mut client = Client::connect(&target).await?;
        let answer = client.call("policy.explain", params).await;
        client.close().await;
        answer
    })
}

/// Asks the policies of the configuration in this process.
fn local(args: &Explain) -> Result<Value, Trouble> {
    let loaded = config::load(&sources(&args.from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    let pinned = server::load_policies(&setup.policy).map_err(Trouble::failed)?.pin();
    let cwd = args.cwd.clone().unwrap_or_else(|| "/".to_owned());
    let size = TerminalSize::new(24, 80).filter(|_| args.pty);
    let path: Vec<_> = loaded.settings.jobs.path.iter().map(|p| p.display().to_string()).collect();
    let command = Command {
        argv: args.argv.clone(),
        cwd: Some(cwd),
        env: BTreeMap::from([("PATH".to_owned(), path.join(":"))]),
        terminal: size.map(|size| Terminal { size, term: "xterm".to_owned() }),
    };
    let principal = Principal {
        tenant: args.tenant.as_str().into(),
        subject: args.subject.as_str().into(),
        groups: args.group.iter().map(|g| g.as_str().into()).collect(),
        attributes: BTreeMap::new(),
        authority: Authority::Caller,
    };
    let mut request = CommandRequest {
        principal: Arc::new(principal),
        origin: Origin { address: IpAddr::V4(Ipv4Addr::LOCALHOST), transport: Transport::WebSocket },
        when: pinned.now(),
        session: SessionId::from_bits(0),
        resolved: resolve(command, &loaded.settings.jobs.path)?,
        labels: BTreeMap::new(),
        usage: UsageCounts::default(),
    };
    asked(&pinned, &mut request, &loaded.settings.jobs.path)
}

/// Both rounds, as a gateway has them.
fn asked(pinned: &Pinned, request: &mut CommandRequest, path: &[PathBuf]) -> Result<Value, Trouble> {
    let decision = DecisionId::from_bits(0);
    let charges = pinned.charges_here(&request.call());
    let first = pinned.review_here(request);
    let before = request.resolved.clone();
    let folded = verdict::fold_charges(decision, &charges)
        .and_then(|_| verdict::fold_command(decision, before.clone(), &first));
    let explained = match folded {
        Err(refusal) => {
            view::explanation(pinned.number(), &charges, &[(&before, first.as_slice())], &Err(refusal))
        }
        Ok(Folded::Cleared(cleared)) => view::explanation(
            pinned.number(),
            &charges,
            &[(&before, first.as_slice())],
            &Ok(cleared.terms().clone()),
        ),
        Ok(Folded::Changed(changed)) => {
            request.resolved = resolve(changed.command().clone(), path)?;
            let second = pinned.review_here(request);
            let outcome =
                changed.settle(request.resolved.clone(), &second).map(|cleared| cleared.terms().clone());
            let rounds = [(&before, first.as_slice()), (&request.resolved, second.as_slice())];
            view::explanation(pinned.number(), &charges, &rounds, &outcome)
        }
    };
    Ok(explained)
}

/// The command as a leader of this user would find it on this host; what it cannot find, a start would fail with.
fn resolve(command: Command, path: &[PathBuf]) -> Result<Resolved, Trouble> {
    let cwd = command.cwd.clone().unwrap_or_default();
    let (executable, cwd) = warden::look_up(command.program(), path, &cwd).map_err(|failed| {
        let SpawnFailure { stage, errno, subject } = failed;
        let told =
            rpc::error(None, &Failure::SpawnFailed { stage, errno, subject }, &RequestId::from_bits(0));
        let told: Value = serde_json::from_str(&told).unwrap_or_default();
        refusal(told.get("error").unwrap_or(&told))
    })?;
    Ok(facts::resolve(command, executable, cwd))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list(value: &Value, name: &str) -> Vec<String> {
    let items = value.get(name).and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
        .collect()
}

fn tell(answer: &Value) -> Result<(), Trouble> {
    let verdict = text(answer, "verdict");
    let colour = if verdict == "allow" { Colour::Good } else { Colour::Bad };
    let rules = harmless_part(&list(answer, "rules").join(", "));
    let by = if rules.is_empty() { String::new() } else { format!(" by {rules}") };
    say(format!("{}{by}", paint(colour, &harmless_part(verdict))))?;
    for member in ["message", "remedy"] {
        if !text(answer, member).is_empty() {
            say(format!("  {}", harmless(text(answer, member))))?;
        }
    }
    let nothing = Value::Null;
    let facts = answer.get("facts").unwrap_or(&nothing);
    let fact = |name| harmless_part(text(facts, name));
    say(format!("program  {} (canonical {})", fact("found"), fact("canonical")))?;
    if let Some(script) = facts.get("script").filter(|script| !script.is_null()) {
        let opaque = harmless_part(&list(script, "reasons").join(", "));
        say(format!(
            "script   {}",
            if opaque.is_empty() { "known".to_owned() } else { format!("opaque: {opaque}") }
        ))?;
        for command in list(script, "commands") {
            say(format!("         {}", harmless_part(&command)))?;
        }
    }
    said("policies", answer)?;
    if let Some(changed) = answer.get("changed").filter(|changed| !changed.is_null()) {
        say(format!("changed to {}", harmless_part(&list(changed, "argv").join(" "))))?;
        said("policies", changed)?;
    }
    for charge in answer.get("charges").and_then(Value::as_array).into_iter().flatten() {
        let charges = list(charge, "charges").join(" ");
        say(harmless_part(&format!("charge   {}: {charges}", text(charge, "policy"))))?;
    }
    Ok(())
}

fn said(member: &str, answer: &Value) -> Result<(), Trouble> {
    for policy in answer.get(member).and_then(Value::as_array).into_iter().flatten() {
        let mode = if text(policy, "mode") == "monitor" { " (monitor only)" } else { "" };
        let rules = list(policy, "rules").join(", ");
        let message = text(policy, "message");
        let line = format!(
            "policy   {:<20}{mode} {:<8} {rules} {message}",
            text(policy, "policy"),
            text(policy, "verdict")
        );
        say(harmless_part(line.trim_end()))?;
    }
    Ok(())
}

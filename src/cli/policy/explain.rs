//! `policy explain`: what would be decided about a command, rule by rule; nothing is run, and nothing charged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::client::Client;
use crate::cli::output::{Colour, Trouble, harmless, paint, say};
use crate::cli::serve::{self, sources};
use crate::cli::target::Target;
use crate::config::{self, Environment};
use crate::domain::{
    Authority, Command, CommandRequest, DecisionId, Executable, FileIdentity, Interpreter, Origin, Principal,
    SessionId, Terminal, TerminalSize, Transport, UsageCounts,
};
use crate::facts;
use crate::policy::Pinned;
use crate::rpc::view;
use crate::server::{self, Setup};
use crate::verdict::{self, Folded};

use super::options::Explain;

/// The execute bits.
const EXECUTE: u32 = 0o111;
/// The setuid and setgid bits.
const SETUID: u32 = 0o6000;

pub(super) fn run(args: &Explain) -> Result<ExitCode, Trouble> {
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
    let executable = find(args.argv.first().map_or("", String::as_str), &loaded.settings.jobs.path, &cwd)?;
    let size = TerminalSize::new(24, 80).filter(|_| args.pty);
    let path: Vec<_> = loaded.settings.jobs.path.iter().map(|p| p.display().to_string()).collect();
    let command = Command {
        argv: args.argv.clone(),
        cwd: Some(cwd.clone()),
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
        resolved: facts::resolve(command, executable, cwd),
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
            let command = changed.command().clone();
            let cwd = command.cwd.clone().unwrap_or_default();
            let executable = find(command.program(), path, &cwd)?;
            request.resolved = facts::resolve(command, executable, cwd);
            let second = pinned.review_here(request);
            let outcome =
                changed.settle(request.resolved.clone(), &second).map(|cleared| cleared.terms().clone());
            let rounds = [(&before, first.as_slice()), (&request.resolved, second.as_slice())];
            view::explanation(pinned.number(), &charges, &rounds, &outcome)
        }
    };
    Ok(explained)
}

/// The program as this host has it, seen as this user.
fn find(program: &str, path: &[PathBuf], cwd: &str) -> Result<Executable, Trouble> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & EXECUTE != 0)
    };
    let found = if program.contains('/') {
        None
    } else {
        let found = path.iter().map(|directory| directory.join(program)).find(is_program);
        Some(found.ok_or_else(|| {
            Trouble::failed(format!(
                "there is no program {program:?} on the server's PATH (jobs.path); name one, or give its path"
            ))
        })?)
    };
    let file = found.clone().unwrap_or_else(|| Path::new(cwd).join(program));
    let (canonical, identity, setuid) = looked_at(&file)?;
    Ok(Executable {
        requested: program.to_owned(),
        found: found.map(|path| path.display().to_string()),
        interpreter: interpreter(&canonical)?,
        canonical: canonical.display().to_string(),
        identity,
        setuid,
    })
}

fn looked_at(file: &Path) -> Result<(PathBuf, FileIdentity, bool), Trouble> {
    let told = |error: std::io::Error| Trouble::failed(format!("{}: {error}", file.display()));
    let canonical = file.canonicalize().map_err(told)?;
    let metadata = fs::metadata(&canonical).map_err(told)?;
    let identity = FileIdentity { device: metadata.dev(), inode: metadata.ino() };
    Ok((canonical, identity, metadata.mode() & SETUID != 0))
}

/// The first line of a `#!` script.
fn interpreter(file: &Path) -> Result<Option<Interpreter>, Trouble> {
    let mut head = Vec::new();
    let opened = File::open(file).map(|file| file.take(256).read_to_end(&mut head));
    let line = head.split(|b| *b == b'\n').next().and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line.and_then(|line| line.strip_prefix("#!")).filter(|_| opened.is_ok()) else {
        return Ok(None);
    };
    let mut words = line.trim().splitn(2, [' ', '\t']);
    let requested = words.next().unwrap_or_default().to_owned();
    let (canonical, identity, setuid) = looked_at(Path::new(&requested))?;
    let argument = words.next().map(|word| word.trim().to_owned());
    Ok(Some(Interpreter {
        requested,
        canonical: canonical.display().to_string(),
        identity,
        argument,
        setuid,
    }))
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
    let rules = list(answer, "rules").join(", ");
    let by = if rules.is_empty() { String::new() } else { format!(" by {rules}") };
    say(format!("{}{by}", paint(colour, verdict)))?;
    for member in ["message", "remedy"] {
        if !text(answer, member).is_empty() {
            say(format!("  {}", harmless(text(answer, member))))?;
        }
    }
    let nothing = Value::Null;
    let facts = answer.get("facts").unwrap_or(&nothing);
    say(format!("program  {} (canonical {})", text(facts, "found"), text(facts, "canonical")))?;
    if let Some(script) = facts.get("script").filter(|script| !script.is_null()) {
        let opaque = list(script, "reasons").join(", ");
        say(format!(
            "script   {}",
            if opaque.is_empty() { "known".to_owned() } else { format!("opaque: {opaque}") }
        ))?;
        for command in list(script, "commands") {
            say(format!("         {}", harmless(&command)))?;
        }
    }
    said("policies", answer)?;
    if let Some(changed) = answer.get("changed").filter(|changed| !changed.is_null()) {
        say(format!("changed to {}", harmless(&list(changed, "argv").join(" "))))?;
        said("policies", changed)?;
    }
    for charge in answer.get("charges").and_then(Value::as_array).into_iter().flatten() {
        say(format!("charge   {}: {}", text(charge, "policy"), list(charge, "charges").join(" ")))?;
    }
    Ok(())
}

fn said(member: &str, answer: &Value) -> Result<(), Trouble> {
    for policy in answer.get(member).and_then(Value::as_array).into_iter().flatten() {
        let mode = if text(policy, "mode") == "monitor" { " (monitor only)" } else { "" };
        let rules = list(policy, "rules").join(", ");
        let message = harmless(text(policy, "message"));
        say(format!(
            "policy   {:<20}{mode} {:<8} {rules} {message}",
            text(policy, "policy"),
            text(policy, "verdict")
        )
        .trim_end())?;
    }
    Ok(())
}

//! `exec`: a command through the gateway as if it ran here.
//!
//! Standard output and error stay apart, signals go to the job, and the exit code is the command's.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Environment;

use super::args;
use super::client::Client;
use super::follow::{Follow, Standing, WINDOW};
use super::output::Trouble;
use super::target::Target;
use super::{local, serve, terminal};

/// What to run, and how.
struct Order<'a> {
    /// Programs to try, the first that is there wins.
    alternatives: Vec<Vec<String>>,
    env: &'a [(String, String)],
    cwd: Option<&'a str>,
    timeout: Option<Duration>,
    pty: bool,
}

/// `exec`
pub(super) fn run(args: &args::Exec) -> Result<ExitCode, Trouble> {
    let order = Order {
        alternatives: vec![args.argv.clone()],
        env: &args.env,
        cwd: args.cwd.as_deref(),
        timeout: args.timeout,
        pty: args.pty,
    };
    anywhere(&order, args.local, &args.target)
}

/// `shell`
pub(super) fn shell(args: &args::Shell) -> Result<ExitCode, Trouble> {
    // As ssh(1) does: a shell that reads a script or a pipe needs no terminal, and would not see the end of it there.
    let pty = std::io::stdin().is_terminal();
    let alternatives = match &args.program {
        Some(program) => vec![vec![program.clone()]],
        None => ["bash", "sh"].map(|name| vec![name.to_owned()]).to_vec(),
    };
    let order = Order { alternatives, env: &[], cwd: args.cwd.as_deref(), timeout: None, pty };
    anywhere(&order, args.local, &args.target)
}

fn anywhere(order: &Order<'_>, here: bool, target: &args::Target) -> Result<ExitCode, Trouble> {
    with_runtime(async {
        if !here {
            return through(order, &Target::find(target)?).await;
        }
        let gateway = local::start().await?;
        let outcome = through(order, &gateway.target).await;
        gateway.end().await;
        outcome
    })
}

/// Runs to the outcome, whatever still reads our standard input.
pub(super) fn with_runtime(
    work: impl Future<Output = Result<ExitCode, Trouble>>,
) -> Result<ExitCode, Trouble> {
    let runtime = serve::runtime()?;
    let outcome = runtime.block_on(work);
    // A read of our standard input that is under way must not keep us.
    runtime.shutdown_background();
    outcome
}

async fn through(order: &Order<'_>, target: &Target) -> Result<ExitCode, Trouble> {
    let mut client = Client::connect(target).await?;
    match start(order, &mut client).await {
        Ok(started) => Follow::of(client, &started, Standing::Owner).until_closed(order.pty).await,
        Err(trouble) => {
            client.close().await;
            Err(trouble)
        }
    }
}

async fn start(order: &Order<'_>, client: &mut Client) -> Result<Value, Trouble> {
    let mut alternatives = order.alternatives.iter().peekable();
    while let Some(argv) = alternatives.next() {
        match client.call("job.start", params(order, argv)).await {
            Err(trouble) if trouble.is_no_such_program() && alternatives.peek().is_some() => {}
            started => return started,
        }
    }
    Err(Trouble::usage("nothing to run"))
}

fn params(order: &Order<'_>, argv: &[String]) -> Value {
    let env: serde_json::Map<_, _> =
        order.env.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
    let mut params = json!({"argv": argv, "env": env, "stdin": "pipe", "window": WINDOW});
    let Value::Object(map) = &mut params else { return params };
    if let Some(cwd) = order.cwd {
        map.insert("cwd".to_owned(), json!(cwd));
    }
    if let Some(timeout) = order.timeout {
        map.insert("timeout_ms".to_owned(), json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
    }
    if order.pty {
        let (rows, cols) = terminal::size();
        let term = Environment::of_process().get("TERM").unwrap_or("xterm-256color").to_owned();
        map.insert("pty".to_owned(), json!({"rows": rows, "cols": cols, "term": term}));
    }
    params
}

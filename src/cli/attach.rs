//! `attach`: follow a job that runs already.
//!
//! Its session is attached first where it is free or taken over, and then the job can be written to and signalled; else, and
//! with `--observe`, it is only looked at. Either way everything still kept of its output comes first.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args;
use super::client::{Client, refusal};
use super::exec::with_runtime;
use super::follow::{Follow, Standing, WINDOW};
use super::output::{Trouble, complain};
use super::target::Target;

pub(super) fn run(args: &args::Attach) -> Result<ExitCode, Trouble> {
    with_runtime(async {
        let mut client = Client::connect(&Target::find(&args.target)?).await?;
        let status = client.call("job.get", json!({"job": args.job})).await?;
        let standing = match args.observe {
            true => Standing::Observer,
            false => own(&mut client, &status, args.takeover).await?,
        };
        let mode = if standing == Standing::Observer { "observe" } else { "write" };
        let params = json!({"job": args.job, "mode": mode, "window": WINDOW});
        let attached = client.call("job.attach", params).await?;
        let pty = status.pointer("/streams/pty").is_some();
        Follow::of(client, &attached, standing).resized().until_closed(pty).await
    })
}

/// Attaches the job's session, where it is to be had; what we are to the job then.
async fn own(client: &mut Client, status: &Value, takeover: bool) -> Result<Standing, Trouble> {
    let session = status.get("session").cloned().unwrap_or_default();
    let params = json!({"session": session, "takeover": takeover});
    if let Err(error) = client.ask("session.attach", params).await? {
        let why = match error.pointer("/data/kind").and_then(Value::as_str) {
            Some("conflict") => "another connection owns the session: looking only; --takeover takes it",
            Some("not_found") if !takeover => "the session is over or not yours: looking only",
            _ => return Err(refusal(&error)),
        };
        complain(why);
        return Ok(Standing::Observer);
    }
    let session = client.call("session.get", json!({"session": session})).await?;
    let lives_on = session.pointer("/limits/detach_ttl_ms").is_some_and(Value::is_u64);
    Ok(if lives_on { Standing::Guest } else { Standing::Owner })
}

//! `attach`: follow a job that runs already.
//!
//! Its session is attached first where it is free or taken over, and then the job can be written to and signalled; else, and
//! with `--observe`, it is only looked at. Either way everything still kept of its output comes first.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args;
use super::client::Client;
use super::exec::{Follow, WINDOW, with_runtime};
use super::output::{Trouble, complain};
use super::target::Target;

pub(super) fn run(args: &args::Attach) -> Result<ExitCode, Trouble> {
    with_runtime(async {
        let mut client = Client::connect(&Target::find(&args.target)?).await?;
        let status = client.call("job.get", json!({"job": args.job})).await?;
        let writes = !args.observe && own(&mut client, &status, args.takeover).await?;
        let mode = if writes { "write" } else { "observe" };
        let params = json!({"job": args.job, "mode": mode, "window": WINDOW});
        let attached = client.call("job.attach", params).await?;
        let pty = status.pointer("/streams/pty").is_some();
        Follow::of(client, &attached, writes).until_closed(pty).await
    })
}

/// Attaches the job's session; whether it is ours now.
async fn own(client: &mut Client, status: &Value, takeover: bool) -> Result<bool, Trouble> {
    let session = status.get("session").cloned().unwrap_or_default();
    match client.call("session.attach", json!({"session": session, "takeover": takeover})).await {
        Ok(_) => Ok(true),
        Err(trouble) if takeover => Err(trouble),
        Err(_) => {
            complain("another connection owns the session: looking only; --takeover takes it");
            Ok(false)
        }
    }
}

//! `doctor`: what this host can promise, found out by trying.

use std::process::ExitCode;

use serde_json::json;

use crate::config::{self, Environment};
use crate::server::Setup;
use crate::warden::Warden;

use super::args;
use super::output::{Trouble, say};
use super::serve::{runtime, sources};

pub(super) fn run(args: &args::Doctor) -> Result<ExitCode, Trouble> {
    let loaded = config::load(&sources(&args.from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    runtime()?.block_on(async {
        let warden = Warden::launch(setup.warden).await.map_err(|e| Trouble::failed(format!("the warden cannot be started: {e}")))?;
        let probe = warden.probe().await;
        let found = warden.containment().clone();
        warden.shutdown().await;
        if args.json {
            say(json!({
                "tier": found.tier.to_string(), "pause": found.pause, "kill": found.kill, "notes": found.notes,
                "spawn_us": probe.as_ref().ok().map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
                "spawn_error": probe.as_ref().err().map(ToString::to_string),
            }))?;
        } else {
            say(format!("containment  tier {}", found.tier))?;
            say(format!("kill         {}", found.kill))?;
            say(format!("pause        {}", found.pause))?;
            match &probe {
                Ok(took) => say(format!("spawn        works: spawned, spoke, exited and was reaped in {took:.0?}"))?,
                Err(why) => say(format!("spawn        does not work: {why}"))?,
            }
            for note in &found.notes {
                say(format!("note         {note}"))?;
            }
        }
        Ok(if probe.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

//! `doctor`: what this host can promise, found out by trying.

use std::process::ExitCode;

use nix::unistd::{getegid, geteuid};
use serde_json::json;

use crate::config::{self, Environment};
use crate::domain::Tier;
use crate::server::Setup;
use crate::warden::Warden;

use super::output::{Trouble, say};
use super::serve::{runtime, sources};
use super::{args, daemons};

pub(super) fn run(args: &args::Doctor) -> Result<ExitCode, Trouble> {
    let loaded = config::load(&sources(&args.from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    let invoker = setup.warden.invoker.is_some().then(|| (geteuid().as_raw(), getegid().as_raw()));
    let daemons = daemons::reachable(&setup.warden.identities, invoker);
    let (exact, forced, root_jobs) = (setup.require_exact, setup.warden.force.is_some(), setup.root_jobs);
    runtime()?.block_on(async {
        let warden = Warden::launch(setup.warden).await.map_err(|e| Trouble::failed(format!("the warden cannot be started: {e}")))?;
        let probe = warden.probe().await;
        let found = warden.containment().clone();
        warden.shutdown().await;
        let enough = !exact || found.tier != Tier::C;
        if args.json {
            let daemons: Vec<_> =
                daemons.iter().map(|(path, who)| json!({ "socket": path, "reached_by": who })).collect();
            say(json!({
                "tier": found.tier.to_string(), "pause": found.pause, "kill": found.kill, "notes": found.notes,
                "spawn_us": probe.as_ref().ok().map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
                "spawn_error": probe.as_ref().err().map(ToString::to_string),
                "would_start": enough, "root_jobs": root_jobs, "daemons": daemons,
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
            if !enough {
                let why = if forced { ", and containment.force chooses it" } else { "" };
                say(format!("refused      containment.require asks for exact containment, which tier C is not{why}: serve would not start"))?;
            }
            if root_jobs {
                say("root         jobs run as root, who is promised nothing beyond the tier; give tenants an identity (tenant.NAME.identity)")?;
            }
            for (path, who) in &daemons {
                say(format!("daemon       jobs of {who} can have work done by {}, which is then no part of the job; keep them out of its group, or stop it", path.display()))?;
            }
        }
        Ok(if probe.is_ok() && enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

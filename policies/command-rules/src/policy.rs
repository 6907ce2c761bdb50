//! The policy as the host sees it.

use crate::wit::execgate::policy::types::{Denial, JobLimits};
use crate::wit::exports::execgate::policy::command::{CommandRequest, CommandVerdict, Guest, Permission};
use crate::wit::exports::execgate::policy::plugin::{Description, Guest as Plugin, SettingError};
use execgate_policy_sdk::{Configured, read};

use crate::presets;
use crate::rules::{Decided, Settings};

static SETTINGS: Configured<Settings> = Configured::new();

/// The exported policy.
#[derive(Debug)]
pub(crate) struct Policy;

impl Plugin for Policy {
    fn describe() -> Description {
        Description {
            name: "command-rules".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "which commands may run, by ordered rules and presets".to_owned(),
            settings_schema: include_str!("../schema.json").to_owned(),
        }
    }

    fn configure(settings: String) -> Result<(), Vec<SettingError>> {
        let settings: Settings =
            read(&settings).map_err(|p| vec![SettingError { path: p.path, message: p.message }])?;
        settings.check()?;
        SETTINGS.set(settings);
        Ok(())
    }
}

impl Guest for Policy {
    fn review(request: CommandRequest) -> CommandVerdict {
        match SETTINGS.get() {
            Some(settings) => decide(settings, &request),
            None => CommandVerdict::Abstain,
        }
    }
}

/// The first rule that matches, then the preset, then no.
pub(crate) fn decide(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
    let decided = settings.first_match(request).or_else(|| presets::decide(settings.preset, request));
    match decided {
        Some(Decided::Allow(rule)) => CommandVerdict::Allow(permission(rule)),
        Some(Decided::Deny(denial)) => CommandVerdict::Deny(denial),
        None => CommandVerdict::Deny(no_rule(request)),
    }
}

fn permission(rule: String) -> Permission {
    let limits = JobLimits {
        wall_ms: None,
        cpu_ms: None,
        memory_bytes: None,
        processes: None,
        output_bytes: None,
        file_size_bytes: None,
        open_files: None,
    };
    Permission { rules: vec![rule], changes: vec![], limits, claims: vec![], confine: vec![] }
}

fn no_rule(request: &CommandRequest) -> Denial {
    let program = &request.executable.requested;
    Denial {
        code: "no_rule".to_owned(),
        message: format!("no rule allows {program:?} with these arguments"),
        remedy: Some(format!("use an allowed program, or ask for a rule that allows {program:?}")),
        rules: vec!["default".to_owned()],
    }
}

//! command-rules: which commands may run.
//!
//! Rules are looked at in order and the first that matches decides; then the preset decides; what neither allows is denied. A
//! rule may look at who asks, the program, every argument, the environment, the working directory, the terminal and
//! the script facts. A preset is a set of rules for a common need; `read-only` is the one that restrains an attacker.
//!
//! Invariant: an argument is allowed because it is known, never because it is not known to be harmful.

mod denial;
mod developer;
mod interpreters;
mod options;
mod pattern;
mod read_only;
mod rule;
mod settings;

use execgate_policy_sdk::prelude::*;

pub use settings::{Preset, Settings};

/// The policy.
#[derive(Debug)]
pub struct CommandRules;

impl Policy for CommandRules {
    type Settings = Settings;
    const NAME: &'static str = "command-rules";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "which commands may run, by ordered rules and presets";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        settings.errors()
    }

    fn warnings(settings: &Settings) -> Vec<String> {
        settings.warnings()
    }
}

impl CommandPolicy for CommandRules {
    fn review(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
        let by_rule =
            settings.rules.iter().find(|rule| rule.matches(request)).map(|rule| rule.decide(request));
        let decided = by_rule.or_else(|| match settings.preset {
            Preset::None => None,
            Preset::Unrestricted => Some(Ok(Permission::by("unrestricted"))),
            Preset::Developer => Some(developer::decide(request)),
            Preset::ReadOnly => read_only::decide(request, settings),
        });
        match decided {
            Some(Ok(permission)) => CommandVerdict::Allow(permission),
            Some(Err(denial)) => CommandVerdict::Deny(denial),
            None => {
                let named = settings.rules.iter().any(|rule| rule.names(&request.executable));
                CommandVerdict::Deny(denial::no_rule(request, named))
            }
        }
    }
}

execgate_policy_sdk::export!(CommandRules: command);

#[cfg(test)]
mod tests;

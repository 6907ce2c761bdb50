//! two-person: some commands need a second person, whom the credential names.
//!
//! The approval is an attribute of the caller's credential: the identity provider, not the caller, puts it there once another
//! person has agreed. It names who approved, until when, and for which commands. The policy only ever refuses: with a
//! good approval it abstains, and other policies decide.

use execgate_policy_sdk::prelude::*;

/// Settings of two-person.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What needs a second person.
    commands: Vec<Guarded>,
    /// Who may approve.
    approvers: Vec<String>,
    /// Longest time from now that an approval may still hold, seconds: an approval without end is none.
    #[serde(default = "hour")]
    longest_s: u64,
}

/// Commands that need a second person.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Guarded {
    /// Names it in answers and logs, and in approvals.
    id: String,
    /// Programs by name.
    programs: Vec<String>,
    /// With one of these among the arguments; none named: with any.
    #[serde(default)]
    with: Vec<String>,
}

const fn hour() -> u64 {
    3600
}

/// The policy.
#[derive(Debug)]
pub struct TwoPerson;

impl Policy for TwoPerson {
    type Settings = Settings;
    const NAME: &'static str = "two-person";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "some commands need a second person";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if settings.approvers.is_empty() {
            errors.push(setting_error("approvers", "nobody could approve; name subjects"));
        }
        for (at, guarded) in settings.commands.iter().enumerate() {
            if guarded.programs.is_empty() || guarded.programs.iter().any(|p| p.contains('/')) {
                errors
                    .push(setting_error(format!("commands[{at}].programs"), "names without /, at least one"));
            }
        }
        errors
    }
}

impl CommandPolicy for TwoPerson {
    fn review(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
        let Some(guarded) = settings.commands.iter().find(|guarded| guarded.guards(request)) else {
            return CommandVerdict::Abstain;
        };
        match settings.objection(guarded, request) {
            None => CommandVerdict::Abstain,
            Some((code, why)) => {
                let message = format!("{:?} needs a second person: {why}", request.executable.requested);
                let remedy = format!(
                    "have one of {} approve {:?}, and connect anew",
                    settings.approvers.join(", "),
                    guarded.id
                );
                CommandVerdict::Deny(Denial::new(&guarded.id, code, message).remedy(remedy))
            }
        }
    }
}

execgate_policy_sdk::export!(TwoPerson: command);

impl Guarded {
    /// Whether the command, or one that its script would run, is guarded. What cannot be looked into might be.
    fn guards(&self, request: &CommandRequest) -> bool {
        let executable = &request.executable;
        let names = [Some(&executable.requested), executable.found.as_ref(), Some(&executable.canonical)];
        let own = names.into_iter().flatten().any(|path| self.is_named(path));
        let arguments = request.argv.get(1..).unwrap_or_default();
        let scripted = request.script.as_ref().is_some_and(|script| {
            script.opaque
                || script.commands.iter().any(|command| {
                    command
                        .split_first()
                        .is_some_and(|(program, rest)| self.is_named(program) && self.is_with(rest))
                })
        });
        (own && self.is_with(arguments)) || scripted
    }

    fn is_named(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.programs.iter().any(|program| program == name)
    }

    fn is_with(&self, arguments: &[String]) -> bool {
        self.with.is_empty() || arguments.iter().any(|argument| self.with.contains(argument))
    }
}

impl Settings {
    /// Why there is no good approval.
    fn objection(&self, guarded: &Guarded, request: &CommandRequest) -> Option<(&'static str, String)> {
        let who = &request.principal;
        let attribute =
            |name: &str| who.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let Some(approver) = attribute("approved_by") else {
            return Some(("no_approval", "nobody approved".to_owned()));
        };
        if approver == who.subject {
            return Some(("own_approval", "nobody approves for himself".to_owned()));
        }
        if !self.approvers.iter().any(|known| known == approver) {
            return Some(("not_an_approver", format!("{approver:?} may not approve")));
        }
        if attribute("approved_for") != Some(&guarded.id) {
            return Some(("other_approval", format!("the approval is not for {:?}", guarded.id)));
        }
        let now = request.when.unix_ms / 1000;
        let until = attribute("approved_until").and_then(|until| until.parse::<u64>().ok());
        match until {
            Some(until) if until > now && until - now <= self.longest_s => None,
            Some(until) if until > now => {
                Some(("approval_too_long", format!("it would hold longer than {} s", self.longest_s)))
            }
            Some(_) => Some(("approval_over", "the approval is over".to_owned())),
            None => Some(("approval_endless", "the approval has no end".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<TwoPerson>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<TwoPerson>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).command().run();
    }

    #[test]
    fn settings_that_guard_nothing_are_refused() {
        let json = r#"{"commands":[{"id":"x","programs":[]}],"approvers":[]}"#;
        assert_eq!(harness::settings::<TwoPerson>(json).unwrap_err().len(), 2);
    }
}

//! What a policy is: its description and settings, and one trait for each hook it may have.

use serde::de::DeserializeOwned;

use crate::types::{
    Call, Charge, CommandRequest, CommandVerdict, Denial, SessionRequest, SessionVerdict, SettingError,
};

/// What every policy says of itself, and its settings.
pub trait Policy {
    /// Its settings, read from JSON once. Use `#[serde(deny_unknown_fields)]`, so that a typing error is found.
    type Settings: DeserializeOwned + Send + Sync + 'static;
    /// Its name, e.g. `command-rules`.
    const NAME: &'static str;
    /// Its version, e.g. `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// One line.
    const SUMMARY: &'static str;
    /// JSON Schema of the settings; `include_str!` a file that `harness::schema` keeps equal to what the type derives.
    const SCHEMA: &'static str;

    /// What is wrong with settings that could be read; empty when nothing is. A policy with wrong settings is not loaded.
    fn check(_settings: &Self::Settings) -> Vec<SettingError> {
        Vec::new()
    }

    /// What the operator should know about settings that are not wrong. It is logged when the policy is loaded.
    fn warnings(_settings: &Self::Settings) -> Vec<String> {
        Vec::new()
    }
}

/// May this command run, and how?
pub trait CommandPolicy: Policy {
    /// Decides. A change of the command is reviewed once more, and must then ask for nothing new.
    fn review(settings: &Self::Settings, request: &CommandRequest) -> CommandVerdict;
}

/// May this session be opened, and what may it do?
pub trait SessionPolicy: Policy {
    /// Decides.
    fn admit(settings: &Self::Settings, request: &SessionRequest) -> SessionVerdict;
}

/// What does this call cost?
pub trait RatePolicy: Policy {
    /// At most 8 charges, in the order they are taken; none is free.
    ///
    /// # Errors
    /// A denial refuses the call without charging anything.
    fn charge_for(settings: &Self::Settings, call: &Call) -> Result<Vec<Charge>, Denial>;
}

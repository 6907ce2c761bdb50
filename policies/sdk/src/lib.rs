//! Write policies for execgate in Rust.
//!
//! A policy is a pure function of its settings and of what the host tells it. Say what it is with [`Policy`], implement the
//! hooks it has, and export it:
//!
//! ```
//! use execgate_policy_sdk::prelude::*;
//!
//! /// Only the people on duty.
//! #[derive(Debug, Default, Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! pub struct Settings {
//!     on_duty: Vec<String>,
//! }
//!
//! struct OnDuty;
//!
//! impl Policy for OnDuty {
//!     type Settings = Settings;
//!     const NAME: &'static str = "on-duty";
//!     const VERSION: &'static str = "1.0.0";
//!     const SUMMARY: &'static str = "only the people on duty";
//!     const SCHEMA: &'static str = r#"{"type": "object"}"#;
//! }
//!
//! impl CommandPolicy for OnDuty {
//!     fn review(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
//!         if settings.on_duty.contains(&request.principal.subject) {
//!             return CommandVerdict::Allow(Permission::by("on-duty"));
//!         }
//!         CommandVerdict::Deny(Denial::new("on-duty", "off_duty", "you are not on duty").remedy("ask who is"))
//!     }
//! }
//!
//! execgate_policy_sdk::export!(OnDuty: command);
//! # fn main() {}
//! ```
//! Build it with `cargo build --release --target wasm32-unknown-unknown` as a `cdylib`; the `.wasm` is what `module` in
//! the gateway's configuration names. The host configures a policy once and snapshots it, so every decision finds
//! the settings ready, and nothing that one decision does is seen by another. `harness` runs the logic and its tables of cases
//! with plain `cargo test`; it is there on every target but WebAssembly.

extern crate self as execgate_policy_sdk;

mod answers;
#[doc(hidden)]
pub mod bindings;
mod export;
#[cfg(not(target_family = "wasm"))]
pub mod harness;
mod limits;
mod log;
mod policy;
mod settings;

pub use answers::setting_error;
#[doc(hidden)]
pub use export::{configure, describe};
pub use limits::Limits;
pub use log::{Level, log};
pub use policy::{CommandPolicy, Policy, RatePolicy, SessionPolicy};
#[doc(hidden)]
pub use settings::Configured;
pub use settings::{Problem, read};

/// What the host tells and what a policy answers, as the interface files say it.
pub mod types {
    pub use crate::bindings::command::exports::execgate::policy::command::{
        Change, CommandRequest, CommandVerdict, Executable, Interpreter, Permission, Script, Variable,
    };
    pub use crate::bindings::known::execgate::policy::types::{
        Claim, Counted, Denial, JobLimits, Origin, Principal, Scope, SettingError, Usage, When,
    };
    pub use crate::bindings::rate::exports::execgate::policy::rate::{Call, Charge, Quota};
    pub use crate::bindings::session::exports::execgate::policy::session::{
        Admission, SessionRequest, SessionVerdict,
    };
}

/// Everything a policy usually needs.
pub mod prelude {
    pub use crate::types::*;
    pub use crate::{CommandPolicy, Policy, RatePolicy, SessionPolicy, setting_error};
    pub use serde::Deserialize;
}

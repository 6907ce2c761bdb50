//! Cases as they are written.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// Which hook is asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// May this command run?
    #[default]
    Command,
    /// May this session be opened?
    Session,
    /// What does this call cost?
    Rate,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Session => "session",
            Self::Rate => "rate",
        })
    }
}

/// What must come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// Allowed; a call: free.
    Allow,
    /// Refused.
    Deny,
    /// No opinion; a call: free.
    Abstain,
    /// A call that costs something.
    Charge,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Abstain => "abstain",
            Self::Charge => "charge",
        })
    }
}

/// One case. What is left out has an ordinary value.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence.
    pub name: String,
    /// Which hook.
    #[serde(default)]
    pub hook: Hook,
    /// What must come out.
    pub expect: Expected,
    /// A rule that must be named.
    pub rule: Option<String>,
    /// The denial's code.
    pub code: Option<String>,
    /// The changes, e.g. `set-env GIT_PAGER=cat`; left out: any.
    pub changes: Option<Vec<String>>,
    /// Program and arguments.
    #[serde(default)]
    pub(super) argv: Vec<String>,
    #[serde(default = "cwd")]
    pub(super) cwd: String,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) terminal: bool,
    pub(super) found: Option<String>,
    pub(super) canonical: Option<String>,
    #[serde(default)]
    pub(super) setuid: bool,
    pub(super) interpreter: Option<InterpreterCase>,
    pub(super) script: Option<ScriptCase>,
    #[serde(default = "tenant")]
    pub(super) tenant: String,
    #[serde(default = "subject")]
    pub(super) subject: String,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
    #[serde(default = "address")]
    pub(super) address: String,
    #[serde(default = "transport")]
    pub(super) transport: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default = "method")]
    pub(super) method: String,
    pub(super) program: Option<String>,
    #[serde(default)]
    pub(super) when: WhenCase,
    #[serde(default)]
    pub(super) usage: UsageCase,
}

/// What runs a `#!` script: its path, or all about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum InterpreterCase {
    Path(String),
    Full {
        requested: Option<String>,
        canonical: String,
        argument: Option<String>,
        #[serde(default)]
        setuid: bool,
    },
}

/// Script facts; left out, they are found out from the arguments as the gateway does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScriptCase {
    pub(super) commands: Vec<Vec<String>>,
    pub(super) opaque: bool,
    pub(super) reasons: Vec<String>,
}

/// A moment; left out: Wednesday, ten o'clock.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WhenCase {
    pub(super) unix_ms: u64,
    pub(super) weekday: u8,
    pub(super) minute: u16,
    pub(super) zone: String,
}

impl Default for WhenCase {
    fn default() -> Self {
        Self { unix_ms: 1_700_000_000_000, weekday: 3, minute: 600, zone: "UTC".to_owned() }
    }
}

/// What is in use; left out: nothing.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsageCase {
    pub(super) server_sessions: u32,
    pub(super) server_jobs: u32,
    pub(super) tenant_sessions: u32,
    pub(super) tenant_jobs: u32,
    pub(super) subject_sessions: u32,
    pub(super) subject_jobs: u32,
    pub(super) session_jobs: u32,
}

fn cwd() -> String {
    "/srv".to_owned()
}

fn tenant() -> String {
    "acme".to_owned()
}

fn subject() -> String {
    "alice".to_owned()
}

fn address() -> String {
    "192.0.2.1".to_owned()
}

fn transport() -> String {
    "websocket".to_owned()
}

fn method() -> String {
    "job.start".to_owned()
}

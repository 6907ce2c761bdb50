//! Cases as they are written. The gateway compiles this very file too, so that a table means the same to both; it therefore
//! names nothing of the crate around it.

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
    pub argv: Vec<String>,
    /// The working directory.
    #[serde(default = "cwd")]
    pub cwd: String,
    /// The environment. A policy sees names only.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// It gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Where the program was found; left out: in /usr/bin, when it is named without a slash.
    pub found: Option<String>,
    /// The program after symlinks; left out: where it was found, or as it is named.
    pub canonical: Option<String>,
    /// The file is setuid.
    #[serde(default)]
    pub setuid: bool,
    /// What runs a `#!` script.
    pub interpreter: Option<InterpreterCase>,
    /// The script facts. The host computes them when they are left out; natively there are none.
    pub script: Option<ScriptCase>,

    /// The tenant.
    #[serde(default = "tenant")]
    pub tenant: String,
    /// The subject.
    #[serde(default = "subject")]
    pub subject: String,
    /// Its groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Its attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// The peer's address.
    #[serde(default = "address")]
    pub address: String,
    /// `websocket` or `http`.
    #[serde(default = "transport")]
    pub transport: String,
    /// The session's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The method that is charged.
    #[serde(default = "method")]
    pub method: String,
    /// The program of a call; left out: the first of `argv`.
    pub program: Option<String>,
    /// The moment.
    #[serde(default)]
    pub when: WhenCase,
    /// What is in use.
    #[serde(default)]
    pub usage: UsageCase,
}

/// What runs a `#!` script: its path, or all about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum InterpreterCase {
    /// Its path.
    Path(String),
    /// All about it.
    Full {
        /// As the script writes it.
        requested: Option<String>,
        /// After symlinks.
        canonical: String,
        /// The one argument.
        argument: Option<String>,
        /// The file is setuid.
        #[serde(default)]
        setuid: bool,
    },
}

/// Script facts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptCase {
    /// The simple commands it would run.
    pub commands: Vec<Vec<String>>,
    /// Whether it may run others.
    pub opaque: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// A moment; left out: Wednesday, ten o'clock.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhenCase {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// 1 is Monday.
    pub weekday: u8,
    /// Of the day.
    pub minute: u16,
    /// In which.
    pub zone: String,
}

/// What is in use; left out: nothing.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageCase {
    /// Of the server.
    pub server_sessions: u32,
    /// Of the server.
    pub server_jobs: u32,
    /// Of the tenant.
    pub tenant_sessions: u32,
    /// Of the tenant.
    pub tenant_jobs: u32,
    /// Of the subject.
    pub subject_sessions: u32,
    /// Of the subject.
    pub subject_jobs: u32,
    /// Of the session.
    pub session_jobs: u32,
}

impl Default for WhenCase {
    fn default() -> Self {
        Self { unix_ms: 1_700_000_000_000, weekday: 3, minute: 600, zone: "UTC".to_owned() }
    }
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

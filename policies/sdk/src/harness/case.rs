//! Tables of cases as they are written.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::types::{Script, Usage, When};

/// A file of cases for one configured policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// `builtin:NAME`, or the path of a module relative to the table. Natively the policy is the one that is tested.
    pub policy: Option<String>,
    /// Its settings.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The cases.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
}

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
#[derive(Debug, Deserialize)]
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

impl Case {
    /// A command of which nothing is said but the words.
    pub(super) fn of(argv: &[&str]) -> Self {
        Self {
            name: String::new(),
            hook: Hook::Command,
            expect: Expected::Allow,
            rule: None,
            code: None,
            changes: None,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: cwd(),
            env: BTreeMap::new(),
            terminal: false,
            found: None,
            canonical: None,
            setuid: false,
            interpreter: None,
            script: None,
            tenant: tenant(),
            subject: subject(),
            groups: Vec::new(),
            attributes: BTreeMap::new(),
            address: address(),
            transport: transport(),
            labels: BTreeMap::new(),
            method: method(),
            program: None,
            when: WhenCase::default(),
            usage: UsageCase::default(),
        }
    }
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
    commands: Vec<Vec<String>>,
    opaque: bool,
    reasons: Vec<String>,
}

/// A moment; left out: Wednesday, ten o'clock.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhenCase {
    unix_ms: u64,
    weekday: u8,
    minute: u16,
    zone: String,
}

/// What is in use; left out: nothing.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageCase {
    server_sessions: u32,
    server_jobs: u32,
    tenant_sessions: u32,
    tenant_jobs: u32,
    subject_sessions: u32,
    subject_jobs: u32,
    session_jobs: u32,
}

impl Default for WhenCase {
    fn default() -> Self {
        Self { unix_ms: 1_700_000_000_000, weekday: 3, minute: 600, zone: "UTC".to_owned() }
    }
}

impl From<&WhenCase> for When {
    fn from(case: &WhenCase) -> Self {
        Self {
            unix_ms: case.unix_ms,
            weekday: case.weekday,
            minute_of_day: case.minute,
            zone: case.zone.clone(),
        }
    }
}

impl From<UsageCase> for Usage {
    fn from(case: UsageCase) -> Self {
        Self {
            server_sessions: case.server_sessions,
            server_jobs: case.server_jobs,
            tenant_sessions: case.tenant_sessions,
            tenant_jobs: case.tenant_jobs,
            subject_sessions: case.subject_sessions,
            subject_jobs: case.subject_jobs,
            session_jobs: case.session_jobs,
        }
    }
}

impl From<&ScriptCase> for Script {
    fn from(case: &ScriptCase) -> Self {
        Self { commands: case.commands.clone(), opaque: case.opaque, reasons: case.reasons.clone() }
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

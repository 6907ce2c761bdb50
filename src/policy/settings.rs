//! Which policies are in force, and within which bounds.

use std::path::PathBuf;
use std::time::Duration;

use crate::verdict::Mode;

/// Default budget of one decision: guest CPU time.
const BUDGET: Duration = Duration::from_millis(10);
/// Default memory cap of a policy, bytes.
const MEMORY: u64 = 16 * 1024 * 1024;

/// Where a module comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// Shipped with this program.
    Builtin(String),
    /// A `.wasm` file.
    File(PathBuf),
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// Its name in decisions and logs.
    pub name: String,
    /// Its code.
    pub module: Module,
    /// The digest the code must have, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Its place; equal ones go by name.
    pub order: i32,
    /// Whether it binds.
    pub mode: Mode,
    /// The tenants it is asked about; empty: all.
    pub tenants: Vec<String>,
    /// The groups it is asked about; empty: all.
    pub groups: Vec<String>,
    /// Guest CPU time a decision may take. Wall-clock time is bounded by twenty times that.
    pub budget: Duration,
    /// Most memory an instance may have, bytes.
    pub memory: u64,
    /// Variables whose values it may see; `*` at the end stands for any rest.
    pub env_values: Vec<String>,
    /// Its settings, JSON.
    pub settings: String,
    /// A table of cases that must hold before a generation with this policy comes into force.
    pub tests: Option<PathBuf>,
}

impl PolicySettings {
    /// A shipped policy with everything at its default.
    pub fn builtin(name: &str, settings: &str) -> Self {
        Self {
            name: name.to_owned(),
            module: Module::Builtin(name.to_owned()),
            sha256: None,
            order: 50,
            mode: Mode::Enforce,
            tenants: Vec::new(),
            groups: Vec::new(),
            budget: BUDGET,
            memory: MEMORY,
            env_values: Vec::new(),
            settings: settings.to_owned(),
            tests: None,
        }
    }
}

/// All policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// In no particular order.
    pub policies: Vec<PolicySettings>,
    /// Decisions being made at once: each holds a thread and its instances.
    pub pool: usize,
    /// How long a decision may wait for its turn.
    pub wait: Duration,
    /// The zone of the time that policies are told, an IANA name.
    pub zone: String,
}

impl Settings {
    /// These policies, and the rest as a tool wants it: two at once, a second's wait, UTC.
    pub fn of(policies: Vec<PolicySettings>) -> Self {
        Self { policies, pool: 2, wait: Duration::from_secs(1), zone: "UTC".to_owned() }
    }
}

/// The policies of a gateway on loopback that was configured with none. They restrain mistakes, not attackers.
pub fn default_set() -> Vec<PolicySettings> {
    vec![
        PolicySettings::builtin("command-rules", r#"{"preset":"developer"}"#),
        PolicySettings::builtin("session-quota", "{}"),
        PolicySettings::builtin("rate-limit", "{}"),
    ]
}

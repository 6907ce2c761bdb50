//! The schema: every section and key.
//!
//! Keys that have a default have it in `config/execgate.toml` alone; a key that is an `Option` here has none, and stands
//! there commented out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::locate;
use super::units::{Cap, Size, Time};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$key:meta])* $field:ident : $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$key])* #[allow(missing_docs, reason = "the default configuration documents every key")] pub $field: $type,)*
        }
    };
}

/// A value, or what suits the address listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Auto<T> {
    /// Named.
    Set(T),
    /// The word `auto`.
    Auto(AutoWord),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AutoWord {
    /// `auto`
    Auto,
}

/// By hand: of a value that fits neither, serde would say no more than that. By way of JSON, because figment takes a
/// number for a word's place in the list.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        if value == "auto" {
            return Ok(Self::Auto(AutoWord::Auto));
        }
        T::deserialize(value)
            .map(Self::Set)
            .map_err(|error| D::Error::custom(format!("{}; or \"auto\"", mismatch(&error.to_string()))))
    }
}

/// What is wrong with a value of the wrong type, from serde_json's text, which holds the value.
fn mismatch(text: &str) -> String {
    let of_type = ["invalid type: ", "invalid value: "].iter().find_map(|start| text.strip_prefix(start));
    match of_type.and_then(|found| found.rsplit_once(", expected ")) {
        Some((_, wanted)) => format!("must be {}", locate::kind(wanted)),
        None => text.to_owned(),
    }
}

impl<T: Clone> Auto<T> {
    /// The value, or what suits.
    pub fn or(&self, suits: T) -> T {
        match self {
            Self::Set(value) => value.clone(),
            Self::Auto(AutoWord::Auto) => suits,
        }
    }
}

/// A text that may be a secret: it is given to jobs, and shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Redacted(pub String);

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Names of variables a client may set.
pub type AllowEnv = Auto<Vec<String>>;

section!(
    /// The whole configuration.
    Raw {
        server: Server,
        auth: Auth,
        #[serde(default)]
        tenant: BTreeMap<String, TenantTable>,
        #[serde(default)]
        profile: BTreeMap<String, ProfileTable>,
        #[serde(default)]
        policy: BTreeMap<String, PolicyTable>,
        policies: PoliciesSection,
        limits: Limits,
        jobs: Jobs,
        containment: ContainmentSection,
        streams: Streams,
        breaker: BreakerSection,
        audit: AuditSection,
        drain: DrainSection,
        log: Log,
    }
);

section!(
    /// `[server]`
    Server {
        #[schemars(with = "String")]
        listen: SocketAddr,
        admin_listen: String,
        hosts: Vec<String>,
        origins: Vec<String>,
        trusted_proxies: Vec<String>,
        tls: TlsTable,
    }
);

section!(
    /// `[server.tls]`
    TlsTable {
        cert: PathBuf,
        key: PathBuf,
        client_ca: PathBuf,
    }
);

impl TlsTable {
    /// Whether TLS is to be spoken.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

section!(
    /// `[auth]`
    Auth {
        admin_groups: Vec<String>,
        tenant_admin_groups: Vec<String>,
        on_expiry: OnExpiryWord,
        #[serde(default)]
        token: BTreeMap<String, TokenTable>,
        #[serde(default)]
        mtls: BTreeMap<String, CertificateTable>,
        jwt: Option<JwtTable>,
    }
);

impl Auth {
    /// Whether anybody is named who may connect.
    pub fn is_configured(&self) -> bool {
        !self.token.is_empty() || !self.mtls.is_empty() || self.jwt.is_some()
    }
}

/// `auth.on_expiry`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiryWord {
    /// The connection is closed and its sessions end.
    End,
    /// Its calls are refused.
    Refuse,
}

section!(
    /// `[auth.mtls.NAME]`
    CertificateTable {
        name: String,
        tenant: String,
        subject: String,
        #[serde(default)]
        groups: Vec<String>,
    }
);

section!(
    /// `[auth.jwt]`
    JwtTable {
        issuer: String,
        audience: Vec<String>,
        jwks: Option<PathBuf>,
        #[serde(default)]
        key: BTreeMap<String, JwtKeyTable>,
        tenant: Option<String>,
        tenant_claim: Option<String>,
        subject_claim: Option<String>,
        groups_claim: Option<String>,
        #[serde(default)]
        attributes: Vec<String>,
        leeway: Option<Time>,
        #[serde(default)]
        revoked: Vec<String>,
    }
);

section!(
    /// `[auth.jwt.key.NAME]`
    JwtKeyTable {
        algorithm: String,
        file: PathBuf,
    }
);

section!(
    /// `[auth.token.NAME]`
    TokenTable {
        sha256: String,
        tenant: String,
        subject: String,
        #[serde(default)]
        groups: Vec<String>,
    }
);

section!(
    /// `[tenant.NAME]`
    TenantTable {
        identity: Option<IdentityOf>,
        limits: Option<TenantLimits>,
        confine: Option<Vec<String>>,
    }
);

section!(
    /// `[profile.NAME]`
    ProfileTable {
        read: Option<Vec<PathBuf>>,
        write: Option<Vec<PathBuf>>,
        network: Option<NetworkWord>,
        required: Option<bool>,
    }
);

/// `network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkWord {
    /// As the host has it.
    Host,
    /// None at all.
    None,
}

section!(
    /// `[tenant.NAME.identity]`
    IdentityOf {
        user: Option<String>,
        uid: Option<u32>,
        gid: Option<u32>,
        groups: Option<Vec<u32>>,
        home: Option<PathBuf>,
    }
);

section!(
    /// `[tenant.NAME.limits]`
    TenantLimits {
        connections: Option<Cap<u32>>,
        sessions: Option<Cap<u32>>,
        jobs: Option<Cap<u32>>,
        wall: Option<Cap<Time>>,
        cpu: Option<Cap<Time>>,
        memory: Option<Cap<Size>>,
        processes: Option<Cap<u32>>,
        output: Option<Cap<Size>>,
        file_size: Option<Cap<Size>>,
        open_files: Option<Cap<u32>>,
        nice: Option<u8>,
    }
);

section!(
    /// `[policy.NAME]`
    PolicyTable {
        module: String,
        enabled: Option<bool>,
        sha256: Option<String>,
        order: Option<i32>,
        mode: Option<ModeWord>,
        budget: Option<Time>,
        memory: Option<Size>,
        env_values: Option<Vec<String>>,
        #[serde(rename = "match")]
        matches: Option<MatchTable>,
        #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
        settings: Option<figment::value::Dict>,
        tests: Option<PathBuf>,
    }
);

section!(
    /// `[policy.NAME.match]`
    MatchTable {
        #[serde(default)]
        tenants: Vec<String>,
        #[serde(default)]
        groups: Vec<String>,
    }
);

/// `mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeWord {
    /// It binds.
    Enforce,
    /// It is evaluated and logged.
    Monitor,
}

section!(
    /// `[policies]`
    PoliciesSection {
        pool: Auto<usize>,
        wait: Time,
        zone: String,
    }
);

section!(
    /// `[limits]`
    Limits {
        memory: Auto<Size>,
        connections: usize,
        unauthenticated: usize,
        sessions: u32,
        jobs: u32,
        requests_per_second: u32,
        outstanding: usize,
        message: Size,
        header_bytes: Size,
        headers: usize,
        first_byte: Time,
        handshake: Time,
        header_time: Time,
        ping: Time,
        dead_after: Time,
        keep_ended: Time,
        ended_jobs_per_session: usize,
        ended_jobs: usize,
        rate_buckets: usize,
    }
);

section!(
    /// `[jobs]`
    Jobs {
        path: Vec<PathBuf>,
        env: BTreeMap<String, Redacted>,
        env_allow: AllowEnv,
        allow_root: Auto<bool>,
        nice: i32,
        gate: Time,
    }
);

section!(
    /// `[containment]`
    ContainmentSection {
        require: Auto<Require>,
        force: Auto<ForcedTier>,
    }
);

/// `containment.require`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// Refuse to start where a job could leave processes behind.
    Exact,
    /// Say so and go on.
    BestEffort,
}

/// `containment.force`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForcedTier {
    /// cgroup2, and no job can leave its leaf.
    A,
    /// cgroup2.
    #[serde(rename = "A'")]
    APrime,
    /// PID namespaces.
    B,
    /// Best effort.
    C,
}

section!(
    /// `[streams]`
    Streams {
        ring: Size,
        ring_max: Size,
        budget: Size,
        frame: Size,
        stdin: Size,
        drain_idle: Time,
        drain_total: Time,
        stall: Time,
        send_buffer: Size,
        tail: Size,
    }
);

section!(
    /// `[breaker]`
    BreakerSection {
        failures: usize,
        window: Time,
        rest: Time,
    }
);

section!(
    /// `[audit]`
    AuditSection {
        path: PathBuf,
        overflow: Overflow,
        sync: Sync,
        rotate: Size,
        keep: u32,
        tenant_per_minute: Size,
        mask: Vec<String>,
    }
);

/// `audit.overflow`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Refuse rather than lose a line.
    Deny,
    /// Count the loss.
    Drop,
}

/// `audit.sync`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sync {
    /// The kernel decides.
    #[serde(rename = "none")]
    None,
    /// Every second.
    #[serde(rename = "1s")]
    EverySecond,
    /// Every line.
    #[serde(rename = "always")]
    Always,
}

section!(
    /// `[drain]`
    DrainSection {
        delay: Time,
        grace: Time,
        kill_grace: Time,
    }
);

section!(
    /// `[log]`
    Log {
        format: Auto<LogFormat>,
        level: String,
    }
);

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Readable.
    Text,
    /// One JSON object a line.
    Json,
}

impl PolicyTable {
    /// The policy's settings as JSON.
    pub fn settings_json(&self) -> String {
        let settings = self.settings.as_ref().and_then(|dict| serde_json::to_string(dict).ok());
        settings.unwrap_or_else(|| "{}".to_owned())
    }
}

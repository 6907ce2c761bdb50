//! Everything a gateway is built from: the settings of each room, taken from the configuration.

mod auth;
mod people;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::guard::GuardFailure;
use crate::config::{
    ForcedTier, ModeWord, NetworkWord, Overflow, PolicyTable, ProfileTable, Raw, Require, Sync,
};
use crate::domain::{JobLimits, Secret, Tier};
use crate::policy::{Module, PolicySettings, default_set};
use crate::transport::{Credentials, Names, Network};
use people::{People, home, invoker};

use crate::{audit, policy, quota, session, stream, telemetry, transport, warden};

/// The profile that is there unless the configuration makes another of its name.
const OFFLINE: &str = "offline";

/// Lines of the decision log that wait to be written.
const AUDIT_QUEUE: usize = 4096;

/// What clients on other hosts may set in a job's environment.
const ENV_ALLOW: [&str; 6] = ["LANG", "LC_*", "TERM", "TZ", "COLUMNS", "LINES"];

/// The settings of each room, and what belongs to none.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where health and metrics are shown to everybody.
    pub admin: Option<SocketAddr>,
    /// How long clients are admitted after the signal.
    pub drain_delay: Duration,
    /// What memory is held below, bytes; `None` is what the limits allow.
    pub memory: Option<u64>,
    /// Who may connect.
    pub credentials: Credentials,
    /// Stands for what was in the files of keys and certificates.
    pub files: [u8; 32],
    /// Which names are answered to.
    pub names: Names,
    /// TLS, where it is spoken.
    pub tls: Option<Arc<transport::ServerConfig>>,
    /// Refuse to start where containment is best effort.
    pub require_exact: bool,
    /// From the signal to TERM for the jobs.
    pub drain_grace: Duration,
    /// No policy is configured: the default ones are in force.
    pub default_policies: bool,
    /// Jobs run as root.
    pub root_jobs: bool,
    /// What is allowed and weakens a promise, each with what to do.
    pub warnings: Vec<String>,
    /// The rooms' own.
    pub policy: policy::Settings,
    /// The rooms' own.
    pub quota: quota::Settings,
    /// The rooms' own.
    pub warden: warden::Settings,
    /// The rooms' own.
    pub audit: audit::Settings,
    /// The rooms' own.
    pub session: session::Settings,
    /// How much there may be.
    pub ceilings: session::Ceilings,
    /// The rooms' own.
    pub transport: transport::Settings,
}

/// What the configuration asks for and this host does not have.
#[derive(Debug, thiserror::Error)]
pub enum SetupFailure {
    /// A user that does not exist.
    #[error(
        "tenant.{tenant}.identity: there is no user {user:?} on this host; create it, or give uid and gid"
    )]
    NoUser {
        /// For which tenant.
        tenant: String,
        /// Which.
        user: String,
    },
    /// Jobs as root that were not allowed.
    #[error(
        "jobs would run as root; give tenants an identity, or set jobs.allow_root = true if that is what you want"
    )]
    RootJobs,
    /// Identities without the power to take them.
    #[error(
        "tenant.{0}.identity: only root can run jobs as another user; start the server as root, or leave the identity out"
    )]
    NotRoot(String),
    /// A file that cannot be believed.
    #[error("{section}: {failure}")]
    File {
        /// What names it.
        section: &'static str,
        /// What is wrong.
        failure: GuardFailure,
    },
    /// What is to be logged cannot be understood.
    #[error("{0}")]
    Level(#[from] telemetry::BadFilter),
    /// A file of keys that cannot be used.
    #[error("auth.jwt: {}: {what}", path.display())]
    Keys {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Certificate or key that cannot be used.
    #[error("server.tls: {0}")]
    Tls(#[from] transport::TlsFailure),
    /// Not an address range.
    #[error("server.trusted_proxies: {0:?} is no address or network; write it like \"10.0.0.0/8\"")]
    Network(String),
}

impl Setup {
    /// Translates a configuration. `token` is the one that the server made for its own user, if it did.
    ///
    /// # Errors
    /// What this host does not have.
    pub fn new(raw: &Raw, token: Option<&str>) -> Result<Self, SetupFailure> {
        telemetry::check(&raw.log.level)?;
        let loopback = raw.server.listen.ip().is_loopback();
        let people = People::of(raw)?;
        let root_jobs = people.root_jobs();
        if root_jobs && !raw.jobs.allow_root.or(loopback) {
            return Err(SetupFailure::RootJobs);
        }
        let streams = streams(raw);
        let mut files = auth::Files::default();
        let (tls, authorities) = auth::tls(raw, &mut files)?;
        let credentials = auth::credentials(raw, token, authorities, &mut files)?;
        let names = names(raw, loopback)?;
        let told = std::mem::take(&mut files.warnings).into_iter().chain(local_proxy(&names));
        let warnings = people.shared().into_iter().chain(People::homeless(raw)).chain(told).collect();
        Ok(Self {
            listen: raw.server.listen,
            credentials,
            files: files.digest(),
            names,
            tls,
            require_exact: raw.containment.require.or(if loopback {
                Require::BestEffort
            } else {
                Require::Exact
            }) == Require::Exact,
            admin: raw.server.admin_listen.parse().ok(),
            drain_delay: raw.drain.delay.0,
            memory: match &raw.limits.memory {
                crate::config::Auto::Set(size) => Some(size.0),
                crate::config::Auto::Auto(_) => None,
            },
            drain_grace: raw.drain.grace.0,
            default_policies: raw.policy.is_empty(),
            root_jobs,
            warnings,
            policy: policies(raw),
            quota: quota::Settings {
                max_buckets: raw.limits.rate_buckets,
                breaker_failures: raw.breaker.failures,
                breaker_window: raw.breaker.window.0,
                breaker_rest: raw.breaker.rest.0,
                turns: pool(raw),
                turn_wait: raw.policies.wait.0,
                ..quota::Settings::default()
            },
            warden: warden_settings(raw, &people),
            audit: audit_settings(raw),
            session: session_settings(raw, people, streams, loopback),
            ceilings: ceilings(raw),
            transport: transport_settings(raw),
        })
    }
}

fn names(raw: &Raw, loopback: bool) -> Result<Names, SetupFailure> {
    let network = |text: &String| Network::parse(text).ok_or_else(|| SetupFailure::Network(text.clone()));
    Ok(Names {
        origins: raw.server.origins.clone(),
        hosts: raw.server.hosts.clone(),
        loopback,
        tls: raw.server.tls.is_on(),
        proxies: raw.server.trusted_proxies.iter().map(network).collect::<Result<_, _>>()?,
        plain_only_from_proxies: !loopback && !raw.server.tls.is_on(),
    })
}

/// Jobs speak from loopback too.
fn local_proxy(names: &Names) -> Option<String> {
    names.trusts_loopback().then(|| {
        "server.trusted_proxies holds a loopback address, from which jobs speak too: one could name any client's address. Put the \
         proxy on another, or keep jobs away by confine = [\"offline\"] or a firewall rule by uid"
            .to_owned()
    })
}

pub(super) fn policies(raw: &Raw) -> policy::Settings {
    let named = raw.policy.iter().filter(|(_, table)| table.enabled.unwrap_or(true));
    let policies = if raw.policy.is_empty() {
        default_set()
    } else {
        named.map(|(name, table)| policy_of(name, table)).collect()
    };
    policy::Settings { policies, pool: pool(raw), wait: raw.policies.wait.0, zone: raw.policies.zone.clone() }
}

/// Decisions at once: two for each processor when nothing is said.
fn pool(raw: &Raw) -> usize {
    raw.policies.pool.or(std::thread::available_parallelism().map_or(2, usize::from) * 2)
}

fn policy_of(name: &str, table: &PolicyTable) -> PolicySettings {
    let module = match table.module.strip_prefix("builtin:") {
        Some(builtin) => Module::Builtin(builtin.to_owned()),
        None => Module::File(PathBuf::from(&table.module)),
    };
    let defaults = PolicySettings::builtin(name, "{}");
    let (tenants, groups) =
        table.matches.as_ref().map(|m| (m.tenants.clone(), m.groups.clone())).unwrap_or_default();
    PolicySettings {
        module,
        sha256: table.sha256.clone(),
        order: table.order.unwrap_or(defaults.order),
        mode: match table.mode {
            Some(ModeWord::Monitor) => crate::verdict::Mode::Monitor,
            Some(ModeWord::Enforce) | None => crate::verdict::Mode::Enforce,
        },
        tenants,
        groups,
        budget: table.budget.map_or(defaults.budget, |budget| budget.0),
        memory: table.memory.map_or(defaults.memory, |memory| memory.0),
        env_values: table.env_values.clone().unwrap_or_default(),
        settings: table.settings_json(),
        tests: table.tests.clone(),
        ..defaults
    }
}

fn warden_settings(raw: &Raw, people: &People) -> warden::Settings {
    let invoked = people.by_tenant.values().any(|identity| identity.place.is_none());
    warden::Settings {
        path: raw.jobs.path.clone(),
        identities: people.identities.clone(),
        profiles: profiles(raw),
        invoker: invoked.then(|| PathBuf::from(home(&invoker()).home)),
        // Probes and starts that are being reviewed need a place too.
        max_jobs: raw.limits.jobs.saturating_mul(2).saturating_add(16),
        force: match raw.containment.force {
            crate::config::Auto::Set(ForcedTier::A) => Some(Tier::A),
            crate::config::Auto::Set(ForcedTier::APrime) => Some(Tier::APrime),
            crate::config::Auto::Set(ForcedTier::B) => Some(Tier::B),
            crate::config::Auto::Set(ForcedTier::C) => Some(Tier::C),
            crate::config::Auto::Auto(_) => None,
        },
        nice: raw.jobs.nice,
        gate: raw.jobs.gate.0,
        ..warden::Settings::default()
    }
}

fn confine(raw: &Raw) -> BTreeMap<Arc<str>, Vec<String>> {
    let named = |(name, table): (&String, &crate::config::TenantTable)| {
        Some((Arc::from(name.as_str()), table.confine.clone()?))
    };
    raw.tenant.iter().filter_map(named).collect()
}

fn profiles(raw: &Raw) -> Vec<warden::Profile> {
    let named = raw.profile.iter().map(|(name, table)| profile(name, table));
    let built_in = warden::Profile { name: OFFLINE.to_owned(), files: None, offline: true, required: true };
    named.chain((!raw.profile.contains_key(OFFLINE)).then_some(built_in)).collect()
}

fn profile(name: &str, table: &ProfileTable) -> warden::Profile {
    let roots = (table.read.is_some() || table.write.is_some()).then(|| warden::FileRoots {
        read: table.read.clone().unwrap_or_default(),
        write: table.write.clone().unwrap_or_default(),
    });
    warden::Profile {
        name: name.to_owned(),
        files: roots,
        offline: table.network == Some(NetworkWord::None),
        required: table.required.unwrap_or(true),
    }
}

fn audit_settings(raw: &Raw) -> audit::Settings {
    audit::Settings {
        path: (!raw.audit.path.as_os_str().is_empty()).then(|| raw.audit.path.clone()),
        refuse_when_full: raw.audit.overflow == Overflow::Deny,
        sync: match raw.audit.sync {
            Sync::None => audit::Sync::Never,
            Sync::EverySecond => audit::Sync::EverySecond,
            Sync::Always => audit::Sync::Always,
        },
        queue: AUDIT_QUEUE,
        rotate: raw.audit.rotate.0,
        keep: raw.audit.keep,
        tenant_bytes: raw.audit.tenant_per_minute.0,
        mask: raw.audit.mask.clone(),
    }
}

fn streams(raw: &Raw) -> stream::Settings {
    let bytes = |size: crate::config::Size| u32::try_from(size.0).unwrap_or(u32::MAX);
    stream::Settings {
        ring_bytes: bytes(raw.streams.ring),
        ring_bytes_max: bytes(raw.streams.ring_max),
        budget: raw.streams.budget.0,
        stdin_bytes: bytes(raw.streams.stdin),
        tail_bytes: bytes(raw.streams.tail),
        drain_idle: raw.streams.drain_idle.0,
        drain_total: raw.streams.drain_total.0,
        ..stream::Settings::default()
    }
}

fn session_settings(
    raw: &Raw,
    people: People,
    streams: stream::Settings,
    loopback: bool,
) -> session::Settings {
    let path: Vec<_> = raw.jobs.path.iter().map(|p| p.display().to_string()).collect();
    let suits = if loopback { vec!["*".to_owned()] } else { ENV_ALLOW.map(str::to_owned).to_vec() };
    session::Settings {
        path: path.join(":"),
        env: raw.jobs.env.iter().map(|(name, value)| (name.clone(), Secret(value.0.clone()))).collect(),
        env_allow: raw.jobs.env_allow.or(suits),
        identities: people.by_tenant,
        kill_grace: raw.drain.kill_grace.0,
        kept: session::Kept {
            time: raw.limits.keep_ended.0,
            most: raw.limits.ended_jobs,
            most_of_session: raw.limits.ended_jobs_per_session,
        },
        streams,
    }
}

fn ceilings(raw: &Raw) -> session::Ceilings {
    let limits = raw.tenant.iter().filter_map(|(name, table)| {
        let limits = table.limits.as_ref()?;
        let ceilings = JobLimits {
            wall: limits.wall.and_then(|cap| cap.limit()).map(|time| time.0),
            output: limits.output.and_then(|cap| cap.limit()).map(|size| size.0),
            file_size: limits.file_size.and_then(|cap| cap.limit()).map(|size| size.0),
            open_files: limits.open_files.and_then(|cap| cap.limit()),
            cpu: limits.cpu.and_then(|cap| cap.limit()).map(|time| time.0),
            memory: limits.memory.and_then(|cap| cap.limit()).map(|size| size.0),
            processes: limits.processes.and_then(|cap| cap.limit()),
            nice: limits.nice,
        };
        Some((Arc::from(name.as_str()), ceilings))
    });
    session::Ceilings {
        sessions: raw.limits.sessions,
        jobs: raw.limits.jobs,
        of_job: limits.collect(),
        of_tenant: tenant_counts(raw),
        confine: confine(raw),
    }
}

fn tenant_counts(raw: &Raw) -> BTreeMap<Arc<str>, session::TenantCounts> {
    let counts = |(name, table): (&String, &crate::config::TenantTable)| {
        let limits = table.limits.as_ref()?;
        let counts = session::TenantCounts {
            connections: limits.connections.and_then(|cap| cap.limit()),
            sessions: limits.sessions.and_then(|cap| cap.limit()),
            jobs: limits.jobs.and_then(|cap| cap.limit()),
        };
        Some((Arc::from(name.as_str()), counts))
    };
    raw.tenant.iter().filter_map(counts).collect()
}

fn transport_settings(raw: &Raw) -> transport::Settings {
    transport::Settings {
        max_connections: raw.limits.connections,
        max_unauthenticated: raw.limits.unauthenticated,
        first_byte: raw.limits.first_byte.0,
        headers: raw.limits.header_time.0,
        handshake: raw.limits.handshake.0,
        max_header_bytes: raw.limits.header_bytes.get(),
        max_headers: raw.limits.headers,
        max_message: raw.limits.message.get(),
        max_outstanding: raw.limits.outstanding,
        requests_per_second: raw.limits.requests_per_second,
        ping_every: raw.limits.ping.0,
        dead_after: raw.limits.dead_after.0,
        stall: raw.streams.stall.0,
        send_buffer: raw.streams.send_buffer.get(),
        frame: raw.streams.frame.get(),
    }
}

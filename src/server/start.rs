//! Building and starting a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{self, Audit};
use crate::domain::{Containment, Tier};
use crate::policy::{self, Policies, PolicySummary};
use crate::quota::{Breaker, Kept, Limiter, Slots, Turns};
use crate::session::{Core, Rooms};
use crate::telemetry::metrics::{self, Scrape};
use crate::transport::{self, Access, Crowd, Door, Gateway, Health, Names, Pulse, Render, Tls};
use crate::warden::{self, Warden};

use super::policies::{PoliciesFailure, load_policies};
use super::setup::Setup;
use super::watch::Stamps;
use super::{memory, watchdog};

/// How often ended jobs are looked through for those over age.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// Why a gateway did not start. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The policies cannot be loaded.
    #[error("{0}")]
    Policy(#[from] PoliciesFailure),
    /// The warden cannot be started.
    #[error("the warden cannot be started: {0}; `execgate doctor` says what this host lacks")]
    Warden(#[from] warden::LaunchFailure),
    /// Containment is weaker than required.
    #[error(
        "containment.require is \"exact\", as it is by default where others can connect, but this host gives tier C: {0}; `execgate doctor` says how to better it"
    )]
    Containment(String),
    /// Containment was made weaker than required.
    #[error(
        "containment.require is \"exact\", and containment.force chooses tier C, which is not; take containment.force out for the best tier of this host, which `execgate doctor --set containment.force=auto` tells"
    )]
    Forced,
    /// The limit of open files cannot be raised.
    #[error(
        "cannot raise the limit of open files to the hard one: {0}; set that no higher than the kernel gives (ulimit -Hn, fs.nr_open)"
    )]
    Descriptors(std::io::Error),
    /// The decision log cannot be opened.
    #[error("{0}")]
    Audit(#[from] audit::OpenFailure),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; stop what listens there, or choose another with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// There is no thread for the watchdog.
    #[error("the watchdog has no thread: {0}")]
    Thread(std::io::Error),
    /// The kernel gives no randomness.
    #[error("the kernel gives no randomness")]
    Randomness,
}

/// A gateway at work. [`Self::run`] ends it in order; dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    pub(super) core: Arc<Core>,
    pub(super) setup: Setup,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) listening: CancellationToken,
    pub(super) access: Arc<Access>,
    pub(super) names: Arc<ArcSwap<Names>>,
    pub(super) bounds: Arc<ArcSwap<transport::Settings>>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) policy_files: Stamps,
    /// Resident memory when it began, bytes.
    pub(super) base: u64,
    admin: Option<SocketAddr>,
    address: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin's door is.
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What its memory is held below, bytes.
    pub fn memory_bound(&self) -> u64 {
        self.core.memory.bound.load(Ordering::Relaxed)
    }

    /// Whether it speaks TLS.
    pub const fn speaks_tls(&self) -> bool {
        self.setup.tls.is_some()
    }

    /// How well this host contains jobs.
    pub fn containment(&self) -> &Containment {
        self.core.rooms.warden.containment()
    }

    /// What this host lacks to keep limits for each job, where the configuration sets some, or has policies, which may.
    pub fn lacking_controllers(&self) -> impl Iterator<Item = &String> {
        let limited = !self.setup.default_policies || !self.setup.ceilings.of_job.is_empty();
        let notes = self.containment().notes.iter().filter(move |_| limited);
        notes.filter(|note| note.starts_with("no ") && note.contains(" controller that may be written"))
    }

    /// Whether the default policies are in force.
    pub const fn uses_default_policies(&self) -> bool {
        self.setup.default_policies
    }

    /// Whether jobs run as root.
    pub const fn runs_root_jobs(&self) -> bool {
        self.setup.root_jobs
    }

    /// Whether jobs run as the user who started the server.
    pub fn shares_its_user(&self) -> bool {
        self.setup.session.identities.values().any(|identity| identity.place.is_none())
    }

    /// Most bytes that the streams of all jobs can hold at once, those of ended ones included.
    pub fn stream_bound(&self) -> u64 {
        self.setup.session.streams.bound(self.setup.session.kept.most as u64)
    }

    /// Most jobs at once.
    pub const fn most_jobs(&self) -> u32 {
        self.setup.ceilings.jobs
    }

    /// The policies in force.
    pub fn policies(&self) -> Vec<PolicySummary> {
        self.core.rooms.policies.list()
    }
}

/// Builds the rooms and begins to listen. Must be called within a runtime.
///
/// # Errors
/// [`StartFailure`]; nothing is left behind.
pub async fn start(setup: Setup) -> Result<Server, StartFailure> {
    let listen = |address| transport::bind(address).map_err(|error| StartFailure::Listen { address, error });
    let listener = listen(setup.listen)?;
    let admin_listener = setup.admin.map(listen).transpose()?;
    let policy_files = Stamps::of(&setup.policy.policies);
    let rooms = rooms(&setup).await?;
    let tracker = TaskTracker::new();
    let core = Core::new(rooms, setup.session.clone(), setup.ceilings.clone(), tracker.clone())
        .map_err(|_| StartFailure::Randomness)?;
    let (stop, listening) = (CancellationToken::new(), CancellationToken::new());
    let scrape = metrics::start();
    let gateway = gateway(&setup, &core, scrape.clone(), stop.clone());
    let tls = setup.tls.clone().map(|config| Arc::new(Tls::new(config)));
    let base = memory::resident().unwrap_or_default();
    let bound = setup.memory.unwrap_or_else(|| base.saturating_add(memory::allowed(&setup)));
    core.memory.bound.store(bound, Ordering::Relaxed);
    watchdog::look(gateway.pulse.clone(), stop.clone()).map_err(StartFailure::Thread)?;
    tracker.spawn(watchdog::beat(gateway.pulse.clone(), stop.clone()));
    tracker.spawn(memory::watch(core.clone(), stop.clone()));
    tracker.spawn(prune(core.clone(), scrape, stop.clone()));
    let admin = admin_listener.as_ref().map(|listener| listener.address);
    if let Some(listener) = admin_listener {
        let router = gateway.clone().admin_router();
        let door =
            Door { settings: gateway.settings.clone(), names: gateway.names.clone(), tls: None, admin: true };
        tracker.spawn(listener.serve(router, door, tracker.clone(), stop.clone()));
    }
    let (access, names, bounds) = (gateway.access.clone(), gateway.names.clone(), gateway.settings.clone());
    let address = listener.address;
    let door =
        Door { settings: gateway.settings.clone(), names: names.clone(), tls: tls.clone(), admin: false };
    tracker.spawn(listener.serve(gateway.router(), door, tracker.clone(), listening.clone()));
    Ok(Server {
        core,
        setup,
        tracker,
        stop,
        listening,
        access,
        names,
        bounds,
        tls,
        policy_files,
        base,
        admin,
        address,
    })
}

/// Raises the soft limit of open files to the hard one, as the warden does; jobs keep what both were born with.
fn take_all_descriptors() -> Result<(), StartFailure> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .map_err(|errno| StartFailure::Descriptors(errno.into()))
}

async fn rooms(setup: &Setup) -> Result<Rooms, StartFailure> {
    let policies = loaded(setup.policy.clone()).await?;
    let audit = Audit::open(&setup.audit)?;
    let warden = Warden::launch(setup.warden.clone()).await?;
    require(setup, warden.containment())?;
    take_all_descriptors()?;
    Ok(Rooms {
        policies,
        limiter: Limiter::new(&setup.quota),
        slots: Slots::default(),
        turns: Turns::new(&setup.quota),
        breaker: Breaker::new(Kept::Spawning, &setup.quota),
        audit_breaker: Breaker::new(Kept::DecisionLog, &setup.quota),
        warden,
        audit,
    })
}

fn gateway(setup: &Setup, core: &Arc<Core>, scrape: Option<Scrape>, stop: CancellationToken) -> Gateway {
    Gateway {
        core: core.clone(),
        settings: Arc::new(ArcSwap::from_pointee(setup.transport.clone())),
        crowd: Arc::new(Crowd::default()),
        access: Arc::new(Access::new(setup.credentials.clone())),
        names: Arc::new(ArcSwap::from_pointee(setup.names.clone())),
        health: Arc::new(Health::default()),
        pulse: Arc::new(Pulse::default()),
        render: Render::new(move || scrape.as_ref().map(Scrape::text).unwrap_or_default()),
        tracker: core.tracker.clone(),
        stop,
    }
}

async fn loaded(settings: policy::Settings) -> Result<Policies, StartFailure> {
    match tokio::task::spawn_blocking(move || load_policies(&settings)).await {
        Ok(loaded) => Ok(loaded?),
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

fn require(setup: &Setup, containment: &Containment) -> Result<(), StartFailure> {
    match containment.tier {
        Tier::C if setup.require_exact && setup.warden.force.is_some() => Err(StartFailure::Forced),
        Tier::C if setup.require_exact => Err(StartFailure::Containment(containment.notes.join("; "))),
        Tier::A | Tier::APrime | Tier::B | Tier::C => Ok(()),
    }
}

/// Forgets ended jobs over age, and sorts measurements into their buckets. Ends with the server.
async fn prune(core: Arc<Core>, scrape: Option<Scrape>, stop: CancellationToken) {
    let mut every = interval(PRUNE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {
                core.registry.prune();
                scrape.iter().for_each(Scrape::tidy);
            }
        }
    }
}

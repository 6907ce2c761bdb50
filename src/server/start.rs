//! Building and starting a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{self, Audit};
use crate::domain::{Containment, Tier};
use crate::policy::{self, Policies, PolicySummary};
use crate::quota::{Breaker, Limiter, Slots};
use crate::session::{Core, Rooms};
use crate::transport::{self, Access, Door, Gateway, Health, Tls};
use crate::warden::{self, Warden};

use super::setup::Setup;

/// How often ended jobs are looked through for those over age.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// Why a gateway did not start. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The policies cannot be loaded.
    #[error("{0}")]
    Policy(#[from] policy::LoadFailure),
    /// The warden cannot be started.
    #[error("the warden cannot be started: {0}; `execgate doctor` says what this host lacks")]
    Warden(#[from] warden::LaunchFailure),
    /// Containment is weaker than required.
    #[error(
        "containment.require is \"exact\", but this host gives tier {tier}: {notes}; `execgate doctor` says how to better it"
    )]
    Containment {
        /// What it gives.
        tier: Tier,
        /// What is missing.
        notes: String,
    },
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
    address: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub const fn speaks_tls(&self) -> bool {
        self.setup.tls.is_some()
    }

    /// How well this host contains jobs.
    pub fn containment(&self) -> &Containment {
        self.core.rooms.warden.containment()
    }

    /// Whether the default policies are in force.
    pub const fn uses_default_policies(&self) -> bool {
        self.setup.default_policies
    }

    /// Whether jobs run as root.
    pub const fn runs_root_jobs(&self) -> bool {
        self.setup.root_jobs
    }

    /// Most bytes that the streams of all jobs can hold at once.
    pub fn stream_bound(&self) -> u64 {
        self.setup.session.streams.bound(self.most_jobs().into())
    }

    /// Most jobs at once.
    pub const fn most_jobs(&self) -> u32 {
        self.setup.session.max_jobs
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
    let listener = transport::bind(setup.listen)
        .map_err(|error| StartFailure::Listen { address: setup.listen, error })?;
    let policies = load_policies(setup.policy.clone()).await?;
    let audit = Audit::open(&setup.audit)?;
    let warden = Warden::launch(setup.warden.clone()).await?;
    require(&setup, warden.containment())?;
    let rooms = Rooms {
        policies,
        limiter: Limiter::new(&setup.quota),
        slots: Slots::default(),
        breaker: Breaker::new(&setup.quota),
        warden,
        audit,
    };
    let tracker = TaskTracker::new();
    let core =
        Core::new(rooms, setup.session.clone(), tracker.clone()).map_err(|_| StartFailure::Randomness)?;
    let (stop, listening) = (CancellationToken::new(), CancellationToken::new());
    let settings = Arc::new(setup.transport.clone());
    let names = Arc::new(ArcSwap::from_pointee(setup.names.clone()));
    let access = Arc::new(Access::new(setup.credentials.clone()));
    let tls = setup.tls.clone().map(|config| Arc::new(Tls::new(config)));
    let gateway = Gateway {
        core: core.clone(),
        settings: settings.clone(),
        access: access.clone(),
        names: names.clone(),
        health: Arc::new(Health::default()),
        tracker: tracker.clone(),
        stop: stop.clone(),
    };
    let address = listener.address;
    let door = Door { settings, names: names.clone(), tls: tls.clone(), admin: false };
    tracker.spawn(listener.serve(gateway.router(), door, tracker.clone(), listening.clone()));
    tracker.spawn(prune(core.clone(), stop.clone()));
    Ok(Server { core, setup, tracker, stop, listening, address })
}

async fn load_policies(settings: policy::Settings) -> Result<Policies, StartFailure> {
    match tokio::task::spawn_blocking(move || Policies::load(&settings)).await {
        Ok(loaded) => Ok(loaded?),
        Err(broken) => std::panic::resume_unwind(broken.into_panic()),
    }
}

fn require(setup: &Setup, containment: &Containment) -> Result<(), StartFailure> {
    match containment.tier {
        Tier::C if setup.require_exact => {
            Err(StartFailure::Containment { tier: Tier::C, notes: containment.notes.join("; ") })
        }
        Tier::A | Tier::APrime | Tier::B | Tier::C => Ok(()),
    }
}

/// Forgets ended jobs over age. Ends with the server.
async fn prune(core: Arc<Core>, stop: CancellationToken) {
    let mut every = interval(PRUNE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => core.registry.prune(),
        }
    }
}

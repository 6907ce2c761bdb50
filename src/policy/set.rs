//! The policies in force: one generation, immutable, swapped whole.
//!
//! Whoever decides pins a generation first and asks that one throughout: its charges, both rounds of its review. So a decision
//! never mixes two, however often they are swapped meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::domain::{Call, Charge, CommandRequest, Principal, SessionRequest, When};
use crate::verdict::{Admission, Author, Ballot, Broken, Fault, Mode, Permission};

use super::convert;
use super::engine::{Bounds, Machine};
use super::load::{self, LoadFailure, PolicyFault, Ready};
use super::run::{self, Said};
use super::settings::{Module, PolicySettings, Settings};
use super::status::{ReloadFailure, Status};
use super::zone::Zone;

/// What is known of a policy in force.
#[derive(Debug, Clone)]
pub struct PolicySummary {
    /// Its name.
    pub name: String,
    /// Where it comes from: `builtin:NAME` or the path.
    pub module: String,
    /// Its own version.
    pub version: String,
    /// Its hooks.
    pub hooks: Vec<String>,
    /// SHA-256 of the module, hexadecimal.
    pub digest: String,
    /// Whether it binds.
    pub mode: Mode,
    /// Decisions begin from a configured snapshot; else why not.
    pub snapshot: Result<(), String>,
}

struct Policy {
    name: Arc<str>,
    author: Arc<Author>,
    settings: PolicySettings,
    ready: Ready,
}

impl Policy {
    fn is_about(&self, principal: &Principal) -> bool {
        let named = |names: &[String], name: &str| names.iter().any(|n| n == name);
        let (tenants, groups) = (&self.settings.tenants, &self.settings.groups);
        (tenants.is_empty() || named(tenants, &principal.tenant))
            && (groups.is_empty() || principal.groups.iter().any(|group| named(groups, group)))
    }

    fn bounds(&self) -> Bounds {
        let memory = usize::try_from(self.settings.memory).unwrap_or(usize::MAX);
        Bounds { budget: self.settings.budget, memory }
    }

    fn ballot<P>(&self, said: Said<P>) -> Ballot<P> {
        Ballot {
            policy: self.name.clone(),
            author: self.author.clone(),
            mode: self.settings.mode,
            outcome: said.0,
            took: said.1,
        }
    }
}

struct Generation {
    number: u64,
    machine: Machine,
    policies: Vec<Policy>,
    /// Names of variables whose values any of them may see.
    grants: Arc<[String]>,
}

struct Shared {
    at_once: u32,
    current: ArcSwap<Generation>,
    last: AtomicU64,
    /// As many as there are turns, so seldom waited for: but a decision whose caller has left, and with him his turn, goes on.
    places: Arc<Semaphore>,
    wait: Duration,
    zone: Zone,
    // Written by a reload, read by health: seldom, and never held across an await.
    status: Mutex<Status>,
}

/// The policies in force. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    shared: Arc<Shared>,
}

/// One generation, in force or not, for as long as somebody needs it. Cheap to clone.
#[derive(Clone)]
pub struct Pinned {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("generation", &self.generation.number).finish_non_exhaustive()
    }
}

impl Policies {
    /// Loads every policy. Blocks for about a tenth of a second each.
    ///
    /// # Errors
    /// The first policy that cannot be loaded.
    pub fn load(settings: &Settings) -> Result<Self, LoadFailure> {
        // A loading policy holds two instances beside those of the decisions.
        let at_once = u32::try_from(settings.pool).unwrap_or(u32::MAX).saturating_add(4);
        let zone = Zone::new(&settings.zone).map_err(engine)?;
        let first = generation(at_once, 1, &settings.policies)?;
        let status = Status { generation: 1, since: SystemTime::now(), failures: 0, failed: None };
        let shared = Shared {
            at_once,
            current: ArcSwap::from_pointee(first),
            last: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(settings.pool)),
            wait: settings.wait,
            zone,
            status: Mutex::new(status),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The generation in force, held for one decision.
    pub fn pin(&self) -> Pinned {
        Pinned { shared: self.shared.clone(), generation: self.shared.current.load_full() }
    }

    /// Loads a generation beside the one in force, which goes on deciding. Blocks as [`Self::load`] does.
    ///
    /// # Errors
    /// The first policy that cannot be loaded.
    pub fn prepare(&self, policies: &[PolicySettings]) -> Result<Pinned, LoadFailure> {
        let number = self.shared.last.fetch_add(1, Ordering::Relaxed) + 1;
        let generation = generation(self.shared.at_once, number, policies)?;
        Ok(Pinned { shared: self.shared.clone(), generation: Arc::new(generation) })
    }

    /// Brings a prepared generation into force, whole: one store of a pointer. Decisions under way end with the one they began
    /// with.
    pub fn install(&self, prepared: Pinned) -> u64 {
        let number = prepared.generation.number;
        self.shared.current.store(prepared.generation);
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        *status =
            Status { generation: number, since: SystemTime::now(), failures: status.failures, failed: None };
        number
    }

    /// Remembers that a generation did not come into force; the one that was stays.
    pub fn refused(&self, why: String) {
        let mut status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.failures += 1;
        status.failed = Some(ReloadFailure { at: SystemTime::now(), why });
    }

    /// What is in force, and what became of the last attempt to replace it.
    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the generation in force.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().number
    }

    /// Whether instances come from a pool.
    pub fn is_pooled(&self) -> bool {
        self.shared.current.load().machine.pooled
    }

    /// The policies in force, in order.
    pub fn list(&self) -> Vec<PolicySummary> {
        self.pin().list()
    }
}

impl Pinned {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.generation.number
    }

    /// Now, as its policies are told it.
    pub fn now(&self) -> When {
        self.shared.zone.now()
    }

    /// A moment, as its policies are told it.
    pub fn at(&self, unix_ms: u64) -> When {
        self.shared.zone.at(unix_ms)
    }

    /// Its policies, in order.
    pub fn list(&self) -> Vec<PolicySummary> {
        self.generation.policies.iter().map(summary).collect()
    }

    /// Names of variables whose values any of them may see; `*` at the end stands for any rest.
    pub fn grants(&self) -> Arc<[String]> {
        self.generation.grants.clone()
    }

    /// Asks every policy that concerns the principal about a command, in order.
    pub async fn review(&self, request: Arc<CommandRequest>) -> Vec<Ballot<Permission>> {
        self.decide(move |pinned| pinned.review_here(&request)).await
    }

    /// Asks every policy that concerns the principal about a session, in order.
    pub async fn admit(&self, request: Arc<SessionRequest>) -> Vec<Ballot<Admission>> {
        self.decide(move |pinned| pinned.admit_here(&request)).await
    }

    /// Asks every policy that concerns the principal what a call costs, in order.
    pub async fn charges(&self, call: Arc<Call>) -> Vec<Ballot<Vec<Charge>>> {
        if self.generation.policies.iter().all(|policy| policy.ready.hooks.rate.is_none()) {
            return Vec::new();
        }
        self.decide(move |pinned| pinned.charges_here(&call)).await
    }

    /// As [`Self::review`], on the caller's own thread and without waiting for a place: for tools and benchmarks.
    pub fn review_here(&self, request: &CommandRequest) -> Vec<Ballot<Permission>> {
        let machine = &self.generation.machine;
        // Most policies are shown the same: nobody's values.
        let same = convert::command_request(request, &[]);
        self.ask(&request.principal, |policy| {
            let grants = &policy.settings.env_values;
            if grants.is_empty() {
                return run::review(machine, &policy.ready, policy.bounds(), &same);
            }
            run::review(machine, &policy.ready, policy.bounds(), &convert::command_request(request, grants))
        })
    }

    /// As [`Self::admit`], on the caller's own thread.
    pub fn admit_here(&self, request: &SessionRequest) -> Vec<Ballot<Admission>> {
        let machine = &self.generation.machine;
        let shown = convert::session_request(request);
        self.ask(&request.principal, |policy| run::admit(machine, &policy.ready, policy.bounds(), &shown))
    }

    /// As [`Self::charges`], on the caller's own thread.
    pub fn charges_here(&self, call: &Call) -> Vec<Ballot<Vec<Charge>>> {
        let machine = &self.generation.machine;
        let shown = convert::call(call);
        self.ask(&call.principal, |policy| run::charge(machine, &policy.ready, policy.bounds(), &shown))
    }

    /// The answers of all that have the hook and concern the principal.
    fn ask<P>(&self, principal: &Principal, question: impl Fn(&Policy) -> Option<Said<P>>) -> Vec<Ballot<P>> {
        let asked = self.generation.policies.iter().filter(|policy| policy.is_about(principal));
        asked.filter_map(|policy| Some(policy.ballot(question(policy)?))).collect()
    }

    /// Runs one decision on a blocking thread: one place of the pool. Without a place in time nobody was asked, and that denies.
    async fn decide<P: Send + 'static>(
        &self,
        ask: impl FnOnce(&Self) -> Vec<Ballot<P>> + Send + 'static,
    ) -> Vec<Ballot<P>> {
        let unavailable =
            |detail: &str| vec![nobody(Broken { fault: Fault::Unavailable, detail: detail.to_owned() })];
        let place = timeout(self.shared.wait, self.shared.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return unavailable("no place in time") };
        let pinned = self.clone();
        let work = move || {
            let decided = ask(&pinned);
            drop(place);
            decided
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| unavailable("the decision broke off"))
    }
}

fn generation(at_once: u32, number: u64, settings: &[PolicySettings]) -> Result<Generation, LoadFailure> {
    let machine = Machine::new(at_once).map_err(|e| engine(PolicyFault::Compile(format!("{e:#}"))))?;
    let mut sorted: Vec<_> = settings.to_vec();
    sorted.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
    let policy = |settings: PolicySettings| {
        let ready = load::load(&machine, &settings)?;
        let author = Author {
            version: ready.inspected.version.clone(),
            module: ready.inspected.digest.clone(),
            settings: format!("{:x}", Sha256::digest(&settings.settings)),
        };
        Ok(Policy { name: settings.name.as_str().into(), author: Arc::new(author), ready, settings })
    };
    let policies = sorted.into_iter().map(policy).collect::<Result<Vec<_>, _>>()?;
    let mut grants: Vec<_> = policies.iter().flat_map(|p| p.settings.env_values.iter().cloned()).collect();
    grants.sort();
    grants.dedup();
    Ok(Generation { number, machine, policies, grants: grants.into() })
}

fn engine(fault: PolicyFault) -> LoadFailure {
    LoadFailure { policy: "engine".to_owned(), fault }
}

fn summary(policy: &Policy) -> PolicySummary {
    let inspected = &policy.ready.inspected;
    let module = match &policy.settings.module {
        Module::Builtin(name) => format!("builtin:{name}"),
        Module::File(path) => path.display().to_string(),
    };
    PolicySummary {
        name: policy.settings.name.clone(),
        module,
        version: inspected.version.clone(),
        hooks: inspected.hooks.clone(),
        digest: inspected.digest.clone(),
        mode: policy.settings.mode,
        snapshot: inspected.snapshot.clone(),
    }
}

/// The ballot of a decision that no policy could be asked about.
fn nobody<P>(broken: Broken) -> Ballot<P> {
    Ballot {
        policy: "engine".into(),
        author: Arc::default(),
        mode: Mode::Enforce,
        outcome: Err(broken),
        took: Duration::ZERO,
    }
}

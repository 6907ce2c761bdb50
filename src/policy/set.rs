//! The policies in force: one generation, immutable, swapped whole.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::domain::{Charge, DecisionId, Denied, Principal};
use crate::verdict::{Admission, Ballot, Broken, Denial, Fault, Mode, Permission, Refusal};

use super::engine::{Bounds, Machine};
use super::load::{self, LoadFailure, PolicyFault, Ready};
use super::run::{self, Call, CommandRequest, Moment, SessionRequest};
use super::settings::{Module, PolicySettings, Settings};

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

    fn ballot<P>(
        &self,
        said: (Result<crate::verdict::Verdict<P>, Broken>, std::time::Duration),
    ) -> Ballot<P> {
        Ballot { policy: self.name.clone(), mode: self.settings.mode, outcome: said.0, took: said.1 }
    }
}

struct Generation {
    number: u64,
    policies: Vec<Policy>,
}

struct Shared {
    machine: Machine,
    current: ArcSwap<Generation>,
    last: AtomicU64,
    places: Arc<Semaphore>,
    wait: std::time::Duration,
}

/// The policies in force. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    shared: Arc<Shared>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("generation", &self.generation()).finish_non_exhaustive()
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
        let engine = |e: wasmtime::Error| LoadFailure {
            policy: "engine".to_owned(),
            fault: PolicyFault::Compile(format!("{e:#}")),
        };
        let machine = Machine::new(at_once).map_err(engine)?;
        let first = generation(&machine, 1, &settings.policies)?;
        let shared = Shared {
            machine,
            current: ArcSwap::from_pointee(first),
            last: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(settings.pool)),
            wait: settings.wait,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads the next generation beside the one in force, and swaps them whole. Blocks.
    ///
    /// # Errors
    /// The first policy that cannot be loaded; the generation in force stays.
    pub fn reload(&self, policies: &[PolicySettings]) -> Result<u64, LoadFailure> {
        let number = self.shared.last.fetch_add(1, Ordering::Relaxed) + 1;
        let next = generation(&self.shared.machine, number, policies)?;
        self.shared.current.store(Arc::new(next));
        Ok(number)
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().number
    }

    /// Whether instances come from a pool.
    pub fn is_pooled(&self) -> bool {
        self.shared.machine.pooled
    }

    /// The policies in force, in order.
    pub fn list(&self) -> Vec<PolicySummary> {
        self.shared.current.load().policies.iter().map(summary).collect()
    }

    /// Asks every policy that concerns the principal about a command, in order.
    pub async fn review(&self, request: Arc<CommandRequest>) -> Vec<Ballot<Permission>> {
        let ask = move |machine: &Machine, generation: &Generation| review(machine, generation, &request);
        self.decide(ask).await.unwrap_or_else(|broken| vec![nobody(broken)])
    }

    /// As [`Self::review`], on the caller's own thread and without waiting for a place: for tools and benchmarks.
    pub fn review_here(&self, request: &CommandRequest) -> Vec<Ballot<Permission>> {
        review(&self.shared.machine, &self.shared.current.load(), request)
    }

    /// Asks every policy that concerns the principal about a session, in order.
    pub async fn admit(&self, request: Arc<SessionRequest>) -> Vec<Ballot<Admission>> {
        let ask = move |machine: &Machine, generation: &Generation| {
            let moment = Moment::now();
            let asked = generation.policies.iter().filter(|p| p.is_about(&request.principal));
            asked
                .filter_map(|policy| {
                    Some(policy.ballot(run::admit(
                        machine,
                        &policy.ready,
                        policy.bounds(),
                        &request,
                        moment,
                    )?))
                })
                .collect()
        };
        self.decide(ask).await.unwrap_or_else(|broken| vec![nobody(broken)])
    }

    /// Asks every policy that concerns the principal what a call costs. Policies that only monitor cost nothing.
    ///
    /// # Errors
    /// The first policy that refuses or breaks.
    pub async fn charges(
        &self,
        call: Arc<Call>,
        decision: DecisionId,
    ) -> Result<Vec<(Arc<str>, Charge)>, Refusal> {
        let ask = move |machine: &Machine, generation: &Generation| {
            let moment = Moment::now();
            let mut all = Vec::new();
            let asked = generation.policies.iter().filter(|p| p.is_about(&call.principal));
            for policy in asked.filter(|p| p.settings.mode == Mode::Enforce) {
                match run::charge(machine, &policy.ready, policy.bounds(), &call, moment) {
                    None => {}
                    Some(Ok(Ok(charges))) => {
                        all.extend(charges.into_iter().map(|c| (policy.name.clone(), c)))
                    }
                    Some(Ok(Err(denial))) => return Err(denied(&policy.name, denial, decision)),
                    Some(Err(broken)) => return Err(failed(policy.name.clone(), &broken, decision)),
                }
            }
            Ok(all)
        };
        self.decide(ask).await.unwrap_or_else(|broken| Err(failed("engine".into(), &broken, decision)))
    }

    /// Runs one decision on a blocking thread: one place of the pool, one generation.
    async fn decide<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Machine, &Generation) -> T + Send + 'static,
    ) -> Result<T, Broken> {
        let unavailable = |detail: &str| Broken { fault: Fault::Unavailable, detail: detail.to_owned() };
        let shared = self.shared.clone();
        let place = timeout(shared.wait, shared.places.clone().acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or_else(|| unavailable("no place in time"))?;
        let work = move || {
            let decided = ask(&shared.machine, &shared.current.load());
            drop(place);
            decided
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| unavailable("the decision broke off"))
    }
}

fn review(machine: &Machine, generation: &Generation, request: &CommandRequest) -> Vec<Ballot<Permission>> {
    let moment = Moment::now();
    let asked = generation.policies.iter().filter(|p| p.is_about(&request.principal));
    asked
        .filter_map(|policy| {
            let grants = &policy.settings.env_values;
            let said = run::review(machine, &policy.ready, policy.bounds(), grants, request, moment)?;
            Some(policy.ballot(said))
        })
        .collect()
}

fn generation(
    machine: &Machine,
    number: u64,
    settings: &[PolicySettings],
) -> Result<Generation, LoadFailure> {
    let mut sorted: Vec<_> = settings.to_vec();
    sorted.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
    let policy = |settings: PolicySettings| {
        let ready = load::load(machine, &settings)?;
        Ok(Policy { name: settings.name.as_str().into(), ready, settings })
    };
    Ok(Generation { number, policies: sorted.into_iter().map(policy).collect::<Result<_, _>>()? })
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
        mode: Mode::Enforce,
        outcome: Err(broken),
        took: std::time::Duration::ZERO,
    }
}

fn denied(policy: &str, denial: Denial, decision: DecisionId) -> Refusal {
    Refusal::Denied(Box::new(Denied {
        policy: policy.to_owned(),
        code: denial.code,
        message: denial.message,
        rules: denial.rules,
        remedy: denial.remedy,
        decision,
    }))
}

fn failed(policy: Arc<str>, broken: &Broken, decision: DecisionId) -> Refusal {
    tracing::error!(%decision, %policy, fault = broken.fault.as_str(), detail = broken.detail, "a policy broke");
    Refusal::Failed { policy, fault: broken.fault, decision }
}

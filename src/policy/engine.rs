//! The engine, its one clock, and the state of a running guest.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::ClockId;
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    ResourceLimiter, Store, UpdateDeadline,
};

use crate::verdict::Fault;

use super::bindings::execgate::policy::{log, types};

/// The tick that interrupts guests. A spinning guest overshoots its budget by at most this and the callback.
const TICK: Duration = Duration::from_millis(1);
/// Wall-clock time a decision may take, in budgets: others may need the processor too.
const WALL: u32 = 20;
/// Bytes of a slot's memory that are written over between decisions; what a guest has beyond them is given back to the kernel,
/// and that makes it interrupt every core that runs a thread of ours, and fault the pages in again. A shipped policy has 192 KiB:
/// stack, data and one page of heap.
const RESIDENT: usize = 256 * 1024;
/// The same for tables: 2 048 elements. A shipped policy has some hundred.
const RESIDENT_TABLE: usize = 16 * 1024;
/// Largest memory any policy may be given, bytes.
pub(super) const MAX_MEMORY: usize = 256 * 1024 * 1024;
/// The address space of a guest's memory, bytes: reserved, never used.
const WHOLE: usize = 4 * 1024 * 1024 * 1024;
/// Core instances, memories and tables of one policy: a Rust guest has one or two of each.
const PARTS: u32 = 8;
/// Elements of a table.
const TABLE: usize = 100_000;
/// Bytes that one answer of a guest may come to on our side of it, which is not in its memory: far more than any that makes
/// sense (`convert`), and far less than what the library allows.
pub const ANSWER: usize = 2 * 1024 * 1024;
/// Lines one call may log, and the longest, bytes.
const LOG: (usize, usize) = (16, 1024);

/// An engine; its ticker ends with the last clone. A compiler keeps what it worked with, as much as the largest functions that
/// each of its threads ever met took, until its engine ends: so none outlives the policies that it compiled.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) engine: Engine,
    _ticking: Arc<()>,
    pub(super) pooled: bool,
}

impl Machine {
    /// An engine for `at_once` instances; on a host that cannot reserve the pool's address space, one without a pool.
    pub(super) fn new(at_once: u32) -> Result<Self, wasmtime::Error> {
        // The whole of a 32-bit address space for each memory spares guests the check of every access; where a host does not
        // give that much, they check, and where it gives no pool at all, every decision asks the kernel.
        let pools =
            [WHOLE, MAX_MEMORY].into_iter().map(|reserved| Engine::new(&config(Some((at_once, reserved)))));
        let (engine, pooled) = match pools.into_iter().find_map(Result::ok) {
            Some(engine) => (engine, true),
            None => {
                tracing::warn!(
                    "no pool for policies on this host: decisions will take two to three times as long"
                );
                (Engine::new(&config(None))?, false)
            }
        };
        Self::ticking(engine, pooled)
    }

    /// An engine for what runs once: it compiles quickly, and to slower code.
    pub(super) fn workshop() -> Result<Self, wasmtime::Error> {
        Self::ticking(Engine::new(config(None).cranelift_opt_level(OptLevel::None))?, false)
    }

    /// # Errors
    /// That the ticker gets no thread: guests could not be interrupted.
    fn ticking(engine: Engine, pooled: bool) -> Result<Self, wasmtime::Error> {
        let ticking = Arc::new(());
        tick(engine.weak(), Arc::downgrade(&ticking))
            .map_err(|error| wasmtime::Error::new(error).context("no thread for the policies' clock"))?;
        Ok(Self { engine, _ticking: ticking, pooled })
    }

    /// A fresh store for one call.
    pub(super) fn store(&self, bounds: Bounds) -> Store<Guest> {
        let mut store = Store::new(&self.engine, Guest::new(bounds));
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(ANSWER);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let guest = context.data_mut();
            if guest.is_over_budget() {
                guest.fault = Some(Fault::Deadline);
                return Err(wasmtime::Error::new(OverBudget));
            }
            Ok(UpdateDeadline::Continue(1))
        });
        store
    }
}

/// What runs guests: a pool of so many instances with so many bytes reserved for each memory, or none.
fn config(pool: Option<(u32, usize)>) -> Config {
    let mut config = Config::new();
    let reserved = pool.map_or(MAX_MEMORY, |(_, reserved)| reserved);
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .memory_reservation(reserved as u64);
    if let Some((at_once, _)) = pool {
        let mut pooling = PoolingAllocationConfig::default();
        pooling
            .total_component_instances(at_once)
            .total_core_instances(at_once * PARTS)
            .total_memories(at_once * 2)
            .total_tables(at_once * PARTS)
            .max_core_instances_per_component(PARTS)
            .max_memories_per_component(2)
            .max_tables_per_component(PARTS)
            .max_memory_size(MAX_MEMORY)
            .table_elements(TABLE)
            .linear_memory_keep_resident(RESIDENT)
            .table_keep_resident(RESIDENT_TABLE);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    }
    config
}

/// The engine's ticker. Ends with the last [`Machine`] of it.
fn tick(engine: EngineWeak, ticking: Weak<()>) -> std::io::Result<()> {
    let turn = move || {
        while ticking.strong_count() > 0 {
            thread::sleep(TICK);
            engine.upgrade().iter().for_each(Engine::increment_epoch);
        }
    };
    thread::Builder::new().name("epoch".to_owned()).spawn(turn).map(drop)
}

/// The guest used up its time.
#[derive(Debug, thiserror::Error)]
#[error("over budget")]
pub(super) struct OverBudget;

/// Bounds of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) budget: Duration,
    pub(super) memory: usize,
}

/// The host's side of one guest.
#[derive(Debug)]
pub(super) struct Guest {
    bounds: Bounds,
    cpu_at_start: Duration,
    started: Instant,
    logged: usize,
    /// What the host saw go wrong before the guest trapped.
    pub(super) fault: Option<Fault>,
}

impl Guest {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, cpu_at_start: thread_time(), started: Instant::now(), logged: 0, fault: None }
    }

    fn is_over_budget(&self) -> bool {
        let cpu = thread_time().saturating_sub(self.cpu_at_start);
        cpu >= self.bounds.budget || self.started.elapsed() >= self.bounds.budget * WALL
    }
}

/// CPU time of this thread: other tenants' load does not count.
fn thread_time() -> Duration {
    cpu_time(ClockId::ThreadCPUTime)
}

/// The CPU time that one of these clocks has counted (clock_gettime(2)).
pub(super) fn cpu_time(clock: ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= self.bounds.memory;
        if !fits {
            self.fault = Some(Fault::Memory);
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE;
        if !fits {
            self.fault = Some(Fault::Memory);
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        PARTS as usize
    }

    fn tables(&self) -> usize {
        PARTS as usize
    }

    fn memories(&self) -> usize {
        2
    }
}

impl types::Host for Guest {}

impl log::Host for Guest {
    fn log(&mut self, level: log::Level, message: String) {
        self.logged += 1;
        if self.logged > LOG.0 {
            return;
        }
        let message: String = message.chars().take(LOG.1).flat_map(char::escape_debug).collect();
        match level {
            log::Level::Debug => tracing::debug!(target: "execgate::guest", message),
            log::Level::Info => tracing::info!(target: "execgate::guest", message),
            log::Level::Warn => tracing::warn!(target: "execgate::guest", message),
        }
    }
}

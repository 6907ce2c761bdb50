//! The policy engine: sandboxed WebAssembly modules that decide.
//!
//! A policy is a pure function of its settings and its request. Loading checks a module, configures it once and takes a
//! snapshot; every decision then runs in a fresh instance of that snapshot and drops it, so nothing a decision does can be
//! seen by another. A policy that traps, runs past its budget, asks for more memory than its cap or answers nonsense gives no
//! verdict, and that denies.
//!
//! ```text
//! file ──size, digest──> core module ──componentise──> component ──imports, exports──> describe, configure ──> snapshot
//!      ──compile──> ready ──each decision: instantiate, call, drop──> verdict
//! ```
//! The only room that names wasmtime. Guests run on blocking threads, never on the runtime's own.

mod bindings;
mod convert;
mod engine;
mod load;
mod run;
mod set;
mod settings;
mod snapshot;
mod status;
mod zone;

pub use engine::ANSWER;
pub use load::{Inspected, LoadFailure, PolicyFault, component, inspect, plain_file};
pub use set::{Pinned, Policies, PolicySummary};
pub use settings::{Module, PolicySettings, Settings, default_set};
pub use status::{ReloadFailure, Status};

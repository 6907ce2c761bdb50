//! The words of the house: ids, principals, commands, limits, events and failures as plain values.
//!
//! Knows nothing but the standard library: no IO, no serde, no clock, no randomness. Everything here may be
//! named by every other room, so a change here is a change of the language itself.

pub mod command;
pub mod event;
pub mod failure;
pub mod ids;
pub mod limits;
pub mod principal;
pub mod request;

pub use command::{
    Command, Executable, Facts, FileIdentity, Interpreter, Resolved, Script, Secret, Terminal, TerminalSize,
};
pub use event::{
    Breach, Containment, EndReason, ExitStatus, GapReason, Signal, SignalTarget, StreamName, StreamTotals,
    Tier, Usage,
};
pub use failure::{Denied, Failure, SpawnStage, Whose};
pub use ids::{ConnectionId, DecisionId, JobId, RequestId, SessionId};
pub use limits::{Charge, Claim, Counted, JobLimits, Quota, Scope, SessionGrant, UsageCounts};
pub use principal::{Authority, Origin, Principal, Transport};
pub use request::{Call, CallMethod, CommandRequest, SessionRequest, When};

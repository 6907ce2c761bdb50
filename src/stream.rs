//! The stream room: a job's bytes, from its pipes to its viewers and from its owner to its stdin.
//!
//! ```text
//! pipe ─pump─> ring per stream ─┬─ cursor ─> viewer (write): may hold the pump back
//!              + order index    └─ cursor ─> viewer (observe): may not
//! offer ─> stdin queue ─feed─> pipe or terminal
//! ```
//!
//! Knows bytes, offsets and file descriptors handed to it. Must never know sockets, JSON, sessions or processes,
//! and must never start one. Invariants that a change could break:
//!
//! - Offsets are absolute per stream and are never reset. What a viewer gets is contiguous from its first offset,
//!   or a [`Item::Gap`] says exactly what is missing. Nothing is silently lost or doubled.
//! - Memory is bounded by [`Settings::bound`] whatever the job prints and however slow its viewers are.
//! - Only the one `write` viewer of a job, and only under [`Overflow::Block`], holds the job back.
//! - No lock of this room is held across an await, and no task of it awaits a viewer directly: both sides meet in
//!   the ring, so a stalled socket can never stop a pump's task from being told to end.

mod budget;
mod credit;
mod cursor;
mod lane;
mod order;
mod output;
mod pump;
mod ring;
mod settings;
mod source;
mod state;
mod stdin;
#[cfg(test)]
mod tests;
mod text;
mod viewer;

pub use budget::{Budget, BudgetSpent, Share};
pub use credit::{BeyondSent, Window};
pub use cursor::{Item, Plane, ViewKind};
pub use output::{Drained, Output, Overflow, StreamStatus, Terms};
pub use pump::pump;
pub use settings::{RingOutOfRange, Settings};
pub use source::{Plumbing, Source};
pub use stdin::{Stdin, StdinCredit, StdinPort, StdinRefused, StdinWatch, feed};
pub use text::incomplete_tail;
pub use viewer::{AckError, View, ViewError, Viewer};

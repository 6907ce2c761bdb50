//! The composition root: builds the rooms, starts their tasks, and shuts them down in order.
//!
//! ```text
//! building ──> serving ──signal──> draining ──jobs done, grace over, or second signal──> ending ──> gone
//! ```
//! The only room that knows all others. Owns the listener, the task tracker and the stop token.

mod drain;
mod setup;
mod start;

pub use drain::Left;
pub use setup::{Setup, SetupFailure};
pub use start::{Server, StartFailure, start};

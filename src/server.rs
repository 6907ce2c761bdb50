//! The composition root: builds the rooms, starts their tasks, and shuts them down in order.
//!
//! ```text
//! building ──> serving ──signal──> draining ──jobs done, grace over, or second signal──> ending ──> gone
//! ```
//! The only room that knows all others. Owns the listener, the task tracker and the stop token.

mod drain;
mod memory;
mod policies;
mod reload;
mod setup;
mod start;
mod systemd;
mod watch;
mod watchdog;

pub use drain::{Left, Told};
pub use policies::{PoliciesFailure, load_policies};
pub use reload::{Fresh, Live, Source};
pub use setup::{Setup, SetupFailure};
pub use start::{Server, StartFailure, start};

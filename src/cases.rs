//! Tables of cases: what policies must say, written by the people who run them.
//!
//! ```text
//! table.toml ──read──> cases ──each: request, facts, ask, ask again about changes──> outcomes ──compared with what was expected
//! ```
//! The same tables are run by `execgate policy test`, before a new set of policies comes into force, and natively by a
//! policy's own tests. A case runs nothing and charges nothing: it asks the very code that a gateway asks. How a case is written
//! is the SDK's file, compiled here too: a table cannot mean one thing to an author and another to the gateway.

#[path = "../policies/sdk/src/harness/case.rs"]
mod case;
mod judge;
mod request;
mod table;

pub use case::{Case, Expected, Hook};
pub use judge::{Outcome, judge};
pub use table::{CasesFailure, Table, read};

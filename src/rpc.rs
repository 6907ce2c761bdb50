//! The border: JSON-RPC text and binary frames to typed requests, and answers and events back.
//!
//! Everything is bounded before it is built and nothing is guessed: a duplicate key, an unknown member, a number that
//! does not fit are errors. Knows no socket and no session; what it decodes are plain values.

pub mod answer;
mod code;
mod discover;
pub mod event;
pub mod frame;
mod members;
pub mod method;
pub mod outcome;
mod request;
mod strict;
pub mod view;

pub use answer::{batch, error, health, http_status, result};
pub use discover::discover;
pub use method::Method;
pub use request::{Call, Entry, Id, Incoming, Limits, Rejected, decode, decode_exec};
pub use serde_json::Value;

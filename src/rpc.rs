//! The border: JSON-RPC text and binary frames to typed requests, and answers and events back.
//!
//! Everything is bounded before it is built and nothing is guessed: a duplicate key, an unknown member, a number that
//! does not fit are errors. Knows no socket and no session; what it decodes are plain values.

pub mod answer;
mod code;
pub mod event;
pub mod frame;
mod members;
pub mod method;
mod request;
mod strict;
pub mod view;

pub use answer::{batch, error, health, result};
pub use method::Method;
pub use request::{Call, Entry, Id, Incoming, Limits, Rejected, decode};
pub use serde_json::Value;

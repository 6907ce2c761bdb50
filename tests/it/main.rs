//! The one integration binary: the real program, real processes, real sockets, real guests.

#![allow(unreachable_pub, reason = "nothing outside a test binary can reach it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says on stderr what it saw"
)]

mod authentication;
mod cli;
mod clock;
mod configuration;
mod decision_log;
mod doctor;
mod edges;
mod engine;
mod example_policies;
mod examples;
mod exhaustion;
mod faults;
mod followers;
mod following;
mod foreign_clients;
mod frozen;
mod generations;
mod guest_in_c;
mod hostile_guests;
mod http_exec;
mod json_rpc;
mod layers;
mod limits;
mod measurements;
mod openrpc;
mod operations;
mod overload;
mod policy_new;
mod policy_tools;
mod protocol;
mod read_only_preset;
mod resuming;
mod revocation;
mod script_facts;
mod secrets;
mod security;
mod sharing;
mod stall;
mod streams;
mod support;
mod transcripts;
mod transport;
mod warden_room;
mod websocket;

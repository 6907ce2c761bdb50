//! The one integration binary: the real program, real processes, real sockets, real guests.

#![allow(unreachable_pub, reason = "nothing outside a test binary can reach it")]

mod cli;
mod configuration;
mod faults;
mod layers;
mod protocol;
mod streams;
mod support;
mod transport;
mod warden_room;

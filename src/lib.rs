//! execgate: a policy-driven gateway that runs commands for other people's programs and users.
//!
//! The rooms, by rank. A room imports only rooms of lower rank; rooms of one rank never import each other
//! (`tests/it/layers.rs` holds the table and fails on an upward import).
//!
//! | rank | rooms |
//! |---|---|
//! | 0 | [`domain`]: the words of the house as plain values |
//! | 1 | [`verdict`]: what policy said, folded; the only maker of [`verdict::Cleared`] |
//! | 2 | [`facts`]: what a command really is |
//! | 2 | [`rpc`]: JSON-RPC text and binary frames to requests and back; the one failure-to-code table |
//! | 2 | [`policy`]: the WebAssembly engine: load, review, charge |
//! | 2 | [`quota`]: limiter, slots, breaker |
//! | 2 | [`warden`]: the supervisor process that spawns, signals, reaps and kills, and its handle |
//! | 2 | [`stream`]: rings, cursors, credit, pumps, stdin |
//! | 2 | [`audit`]: the decision log |
//! | 3 | [`session`]: sessions and jobs |
//! | 3 | [`cases`]: tables of what policies must say
//! | 4 | [`transport`]: HTTP, WebSocket, authentication, health |
//! | 5 | [`config`]: figment layers, resolved settings, provenance |
//! | 5 | [`telemetry`]: logs |
//! | 6 | [`server`]: the composition root |
//! | 7 | [`cli`]: the command line |

pub mod audit;
pub mod cases;
pub mod cli;
pub mod config;
pub mod domain;
pub mod facts;
pub mod policy;
pub mod quota;
pub mod rpc;
pub mod server;
pub mod session;
pub mod stream;
pub mod telemetry;
pub mod transport;
pub mod verdict;
pub mod warden;

//! A gateway to test against, a client of our own, and independent eyes on /proc and the cgroups.

pub mod client;
pub mod gateway;
pub mod guest;
pub mod http;
pub mod needs;
pub mod pki;
pub mod proc;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod request;
pub mod tenants;

pub use client::Client;
pub use gateway::Gateway;
pub use needs::{needs, needs_root};

use std::time::{Duration, Instant};

/// Long enough for anything that works, on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so. Here and in [`until`] alone tests look again and again.
#[track_caller]
pub fn eventually(within: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    since.elapsed()
}

/// The same for a question that is itself asked asynchronously.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !so().await {
        assert!(since.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    since.elapsed()
}

/// Runs an async test body on a runtime of its own.
pub fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(body)
}

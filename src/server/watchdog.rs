//! Whether the event loop turns.
//!
//! A task sets the pulse; a thread of its own looks at it, because what is stalled cannot report that it is. While the
//! pulse is fresh, systemd hears so; once it is not, `/livez` fails (if it is answered at all) and systemd's own watchdog
//! ends the gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::transport::Pulse;

use super::systemd;

/// How often the pulse beats, and is looked at.
const BEAT: Duration = Duration::from_millis(500);

/// Sets the pulse until the server ends.
pub(super) async fn beat(pulse: Arc<Pulse>, stop: CancellationToken) {
    let mut every = interval(BEAT);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => pulse.beat(),
        }
    }
}

/// Looks at the pulse until the server ends. Runs on a thread of its own.
///
/// # Errors
/// That there is no thread.
pub(super) fn look(pulse: Arc<Pulse>, stop: CancellationToken) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    let look = move || {
        let mut stalled = false;
        while !stop.is_cancelled() {
            std::thread::sleep(BEAT);
            let was = std::mem::replace(&mut stalled, !pulse.is_fresh());
            match (was, stalled) {
                (false, true) => {
                    metrics::counter!("execgate_event_loop_stalls_total").increment(1);
                    tracing::error!(silent = ?pulse.silent_for(), "the event loop stalls");
                }
                (true, false) => tracing::warn!("the event loop turns again"),
                (true, true) => {}
                (false, false) => systemd::alive(),
            }
        }
    };
    thread.spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_worker_stops_the_pulse_and_it_comes_back() {
        let pulse = Arc::new(Pulse::with_limit(Duration::from_millis(300)));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (begun, blocked) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn({
            let (pulse, stop) = (pulse.clone(), stop.clone());
            move || {
                runtime.block_on(async {
                    let beating = tokio::spawn(beat(pulse, stop.clone()));
                    tokio::task::yield_now().await;
                    begun.send(()).unwrap();
                    // The executor's only worker is stuck, as a bug would leave it.
                    released.recv().unwrap();
                    beating.await.unwrap();
                });
            }
        });
        blocked.recv().unwrap();
        let since = std::time::Instant::now();
        while pulse.is_fresh() {
            assert!(since.elapsed() < Duration::from_secs(10), "a stalled loop passed for alive");
            std::thread::yield_now();
        }
        release.send(()).unwrap();
        while !pulse.is_fresh() {
            assert!(since.elapsed() < Duration::from_secs(20), "the pulse never came back");
            std::thread::yield_now();
        }
        stop.cancel();
        thread.join().unwrap();
    }
}

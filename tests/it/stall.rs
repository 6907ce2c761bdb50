//! The event loop of the real program stands still, as a fault of ours would leave it: every worker of the runtime is stopped
//! by ptrace(2), which leaves the other threads and the warden running.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::exhaustion::runtime_threads;
use crate::support::{Client, Gateway, PATIENCE, eventually, needs, run};
use crate::transport::get;

/// The workers of a gateway, stopped by this thread; they go on when it is dropped, or when the thread ends.
struct Stopped(Vec<Pid>);

impl Stopped {
    /// `None` where we may not.
    fn workers(gateway: &Gateway) -> Option<Self> {
        let mut stopped = Self(Vec::new());
        for worker in runtime_threads(gateway.pid()).into_iter().map(Pid::from_raw) {
            let seized = ptrace::seize(worker, ptrace::Options::empty());
            if !needs(seized.is_ok(), "workers are stopped by ptrace, and we may not") {
                return None;
            }
            stopped.0.push(worker);
            ptrace::interrupt(worker).unwrap();
            waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
        }
        assert!(!stopped.0.is_empty(), "there are no workers");
        Some(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for worker in &self.0 {
            // One that has ended has been let go.
            let _ = ptrace::detach(*worker, None);
        }
    }
}

/// A question whether the gateway is alive.
fn probe(gateway: &Gateway) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.address()).unwrap();
    socket.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    socket
}

/// Its answer, if one comes within so long.
fn outcome(mut probe: &TcpStream, within: Duration) -> Option<String> {
    probe.set_read_timeout(Some(within)).unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).is_ok().then_some(answer)
}

#[test]
fn an_event_loop_that_stands_still_fails_liveness_is_told_after_5_s_counted_once_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let hears = || manager.recv(&mut [0; 512]).is_ok();
    let gateway = Gateway::with_environment("", &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let (_, metrics) = get(&gateway, "/metrics").await;
        assert!(metrics.contains("execgate_event_loop_stalls_total 0"), "{metrics}");
        assert!(hears(), "the watchdog of the service manager is fed");

        let since = Instant::now();
        let Some(stopped) = Stopped::workers(&gateway) else { return };
        let asked = probe(&gateway);
        assert_eq!(outcome(&asked, Duration::from_secs(1)), None, "a loop that stands says it is alive");
        manager.set_nonblocking(true).unwrap();
        eventually(PATIENCE, "the stall is told", || {
            // A service manager reads; one that does not would hold up who tells it.
            while hears() {}
            gateway.log().contains("the event loop stalls")
        });
        let told = since.elapsed();
        // The last beat may be half a second old when it stops; the watchdog looks every half a second.
        let in_time = Duration::from_secs(4)..Duration::from_secs(8);
        assert!(in_time.contains(&told), "told after {told:?}");
        while hears() {}
        manager.set_nonblocking(false).unwrap();
        assert!(!hears(), "the service manager is told that all is well");
        assert_eq!(gateway.survivors().len(), 1, "jobs run on");

        let since = Instant::now();
        drop(stopped);
        assert!(outcome(&asked, PATIENCE).is_some(), "who asked in the meantime is answered");
        let well = || outcome(&probe(&gateway), PATIENCE).is_some_and(|a| a.starts_with("HTTP/1.1 200"));
        eventually(PATIENCE, "it is alive again", well);
        let back = since.elapsed();
        eprintln!("event loop stopped: told after {told:?}; alive again {back:?} after its release");
        eventually(PATIENCE, "that is told", || gateway.log().contains("the event loop turns again"));
        assert!(hears(), "the watchdog of the service manager is fed again");
        let (_, metrics) = get(&gateway, "/metrics").await;
        assert!(metrics.contains("execgate_event_loop_stalls_total 1"), "{metrics}");
        assert_eq!(client.call("job.get", json!({"job": job})).await.unwrap()["state"], "running");
    });
}

//! Descriptors in flight: the kernel counts by user what is sent over sockets and not yet received, against the limit of
//! whoever sends next. What a job sends to itself must not keep others of its user from starting.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;

/// Most descriptors that one message takes (SCM_MAX_FD of the kernel).
const A_MESSAGE: usize = 253;
const ENOUGH: usize = 10_000;

/// Sends one descriptor again and again until the kernel takes no more; returns how often.
fn fill(socket: BorrowedFd<'_>, sent: BorrowedFd<'_>) -> usize {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(A_MESSAGE))];
    let all = [sent; A_MESSAGE];
    let full = |_: &usize| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&all)));
        rustix::net::sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::DONTWAIT).is_ok()
    };
    (0..ENOUGH).take_while(full).count() * A_MESSAGE
}

#[test]
#[ignore = "run as a job by one_job_cannot_use_up_what_the_kernel_lets_its_user_have_in_flight"]
fn flood_program() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let mut held = Vec::new();
    let mut sum = 0;
    loop {
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let sent = fill(pair.0.as_fd(), null.as_fd());
        sum += sent;
        held.push(pair);
        if sent == 0 {
            break;
        }
    }
    println!("\nfull {sum} {soft} {hard}");
    std::io::stdout().flush().unwrap();
    nix::unistd::pause();
}

#[tokio::test]
#[ignore = "started by one_job_cannot_use_up_what_the_kernel_lets_its_user_have_in_flight"]
async fn in_flight_child() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let warden = launch(tier_of_environment()).await;
    // As the gateway does once it has a warden.
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let own = std::env::current_exe().unwrap();
    let program = [
        own.to_str().unwrap(),
        "--exact",
        "warden_room::in_flight::flood_program",
        "--ignored",
        "--nocapture",
    ];
    let (flood, ends) = start(&warden, job_id(), &program).await;
    let full = loop {
        let said = line(&ends.stdout).await;
        if said.starts_with("full ") {
            break said;
        }
    };
    let sent: u64 = full.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(sent >= hard / 2 - A_MESSAGE as u64, "it sent little: {full}, of {hard}");
    for _ in 0..3 {
        let (other, _ends) = start(&warden, job_id(), &["true"]).await;
        assert_eq!(other.exited().await, ExitStatus::Code(0));
        other.emptied().await;
    }
    flood.kill();
    assert_eq!(flood.emptied().await.survivors, 0);
    idle(&warden).await;
    println!("alone=passed");
}

#[test]
fn one_job_cannot_use_up_what_the_kernel_lets_its_user_have_in_flight() {
    let own = || Program::new(std::env::current_exe().unwrap());
    let mut child = if is_root() { hostile::as_nobody(None) } else { own() };
    child.env("TIER", "C");
    alone("in_flight::in_flight_child", child);
}

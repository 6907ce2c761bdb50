//! A gateway that has turned hostile, and a host that has run out: the warden gives nothing and lives on.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::resource::Resource;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType};

use super::*;
use crate::support::{PATIENCE, eventually, proc};

/// The gateway's own end of the link, taken from among this process's descriptors: the only socket of its kind in a
/// process of its own.
fn link() -> OwnedFd {
    let numbers = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut links = numbers.filter_map(|number| {
        let path = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        path.to_str()?.starts_with("socket:").then_some(())?;
        #[allow(unsafe_code, reason = "looking at a descriptor by its number")]
        // SAFETY: it was open a moment ago, and this process of one test closes no socket meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let packets = rustix::net::sockopt::socket_type(fd).ok()? == SocketType::SEQPACKET;
        packets.then(|| fd.try_clone_to_owned().unwrap())
    });
    links.next().expect("the link")
}

/// Sends once there is room.
fn send(link: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let io = [std::io::IoSlice::new(bytes)];
        match rustix::net::sendmsg(link, &io, &mut control, SendFlags::NOSIGNAL) {
            // Too many descriptors in flight is the kernel's own bound on a flood.
            Ok(_) | Err(rustix::io::Errno::MSGSIZE | rustix::io::Errno::TOOMANYREFS) => return,
            Err(rustix::io::Errno::AGAIN) => {
                let mut wait = [nix::poll::PollFd::new(link.as_fd(), nix::poll::PollFlags::POLLOUT)];
                nix::poll::poll(&mut wait, 1000_u16).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Numbers as the messages have them, after the number of the request.
fn request(kind: u8, fields: &[u64]) -> Vec<u8> {
    let mut bytes = vec![kind];
    for field in fields {
        bytes.extend(postcard::to_stdvec(field).unwrap());
    }
    bytes
}

/// What a hostile gateway sends: requests about jobs that are not, in states that they are not in, and worse.
fn hostile_requests(victim: u64) -> Vec<Vec<u8>> {
    let (hello, prepare, release, kill, signal, pause, resume, census) = (0, 1, 2, 3, 4, 5, 6, 7);
    let mut all = vec![request(hello, &[1; 20]), request(prepare, &[u64::MAX; 3]), request(census, &[9])];
    for job in [0, 99, 1 << 40, u64::MAX >> 4, u64::MAX] {
        all.extend([
            request(kill, &[job]),
            request(release, &[job, 1, 0, 0, 0, 0, 0, 0]),
            request(release, &[job, 0, 0, 0, 0, 0, 0, 0]),
        ]);
        all.extend([
            request(pause, &[1, job]),
            request(resume, &[1, job]),
            request(signal, &[1, job, 18, 3]),
        ]);
    }
    // To the victim: signals that are none, a target that is none, a release of what runs already.
    for number in [0, 1 << 20, u64::from(u32::MAX)] {
        all.push(request(signal, &[1, victim, number, 3]));
    }
    all.extend([request(signal, &[1, victim, 18, 4]), request(release, &[victim, 0, 0, 0, 0, 0, 0, 0])]);
    let prepare_again =
        [&[prepare][..], &postcard::to_stdvec(&victim).unwrap(), &[1, b'x', 0, 0, 0, 0, 0, 0]].concat();
    all.push(prepare_again);
    all
}

async fn hostile_gateway() {
    let warden = launch(tier_of_environment()).await;
    let (victim, ends) =
        start(&warden, job_id(), &["sh", "-c", "echo ready; while read -r line; do :; done; sleep 1000"])
            .await;
    line(&ends.stdout).await;
    let before = warden.census().await.unwrap();
    let link = link();
    // Its number is one of the first few: each of them is tried.
    for number in 1..8 {
        for bytes in
            hostile_requests(number).iter().filter(|bytes| number == 1 || bytes[0] == 4 || bytes[0] == 2)
        {
            send(&link, bytes, &[]);
        }
    }
    let null = fs::File::open("/dev/null").unwrap();
    let (few, many) = (vec![null.as_fd(); 3], vec![null.as_fd(); 253]);
    for round in 0..200_u32 {
        let garbage: Vec<u8> = (0..300).map(|n| (n * 7 + round * 31) as u8 | 0x80).collect();
        send(&link, &garbage, &[]);
        send(&link, &[0xff; 100_000], &[]);
        send(&link, &request(2, &[u64::from(round), 0, 0, 0, 0, 0, 0, 0]), &few);
        send(&link, &garbage, &many);
        send(&link, &request(7, &[u64::MAX]), &many);
    }
    let refused =
        start_as(&warden, Prepare { identity: Some(7), ..wanted(job_id(), "true") }, &["true"]).await;
    assert_eq!(refused.unwrap_err().stage, SpawnStage::Identity);
    assert_eq!(warden.census().await.unwrap(), before, "nothing was gained, nothing was lost");
    assert!(futures_util::FutureExt::now_or_never(victim.exited()).is_none(), "the victim lives");
    warden.probe().await.unwrap();
    victim.kill();
    assert_eq!(victim.emptied().await.survivors, 0);
    println!("alone=passed");
}

#[tokio::test]
#[ignore = "started by a_hostile_gateway_gets_nothing"]
async fn hostile_gateway_child() {
    hostile_gateway().await;
}

#[test]
fn a_hostile_gateway_gets_nothing() {
    for tier in ["", "B", "C"] {
        let mut child = Program::new(std::env::current_exe().unwrap());
        child.env("TIER", tier);
        alone("distrust::hostile_gateway_child", child);
    }
}

in_each_tier!(a_warden_without_descriptors_refuses_and_lives_on, |warden| async move {
    let (victim, ends) = start(&warden, job_id(), &["sh", "-c", "echo ready; sleep 1000"]).await;
    line(&ends.stdout).await;
    eventually(PATIENCE, "no leader waits", || proc::children(warden.pid().cast_signed()).len() == 1);
    let pid = rustix::process::Pid::from_raw(warden.pid().cast_signed());
    let limit = |soft: Option<u64>| {
        let usual = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let wanted = rustix::process::Rlimit { current: soft.or(usual.current), maximum: usual.maximum };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, wanted).unwrap()
    };
    let open = proc::descriptors(warden.pid().cast_signed()) as u64;
    for spare in [0, 1, 2, 3, 5] {
        limit(Some(open + spare));
        let failure = warden.prepare(wanted(job_id(), "true")).await.expect_err("no descriptor, no job");
        assert!(!failure.is_of_the_request(), "{failure}");
        assert!(futures_util::FutureExt::now_or_never(victim.exited()).is_none(), "the victim lives");
    }
    victim.pause().await.unwrap();
    limit(None);
    victim.resume().await.unwrap();
    warden.probe().await.unwrap();
    victim.kill();
    assert_eq!(victim.emptied().await.survivors, 0);
    idle(&warden).await;
});

in_each_tier!(the_warden_stays_small, |warden| async move {
    for _ in 0..100 {
        let (running, _ends) = start(&warden, job_id(), &["true"]).await;
        running.emptied().await;
    }
    let rss = proc::rss(warden.pid().cast_signed());
    eprintln!("the warden's resident memory: {rss} bytes");
    // Nine tenths of it are the pages of an unoptimised program's text.
    assert!(rss < 48 << 20, "{rss} bytes");
});

in_each_tier!(the_warden_rests_while_a_job_runs, |warden| async move {
    let (running, _ends) = start(&warden, job_id(), &["sleep", "0.5"]).await;
    let warden_pid = warden.pid().cast_signed();
    let before = proc::time_on_cpu(warden_pid);
    assert_eq!(running.exited().await, ExitStatus::Code(0));
    let used = Duration::from_nanos(proc::time_on_cpu(warden_pid) - before);
    assert!(used < Duration::from_millis(50), "{used:?} of half a second");
});

#[tokio::test]
async fn the_warden_takes_all_the_descriptors_it_may() {
    let warden = launch(None).await;
    let (_, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", warden.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some(hard.to_string().as_str()), "{line}");
}

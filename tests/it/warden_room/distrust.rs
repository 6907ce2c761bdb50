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

/// A small generator (xorshift64), so that what failed can be thrown again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    /// A request that is valid, or was before it was damaged, cut, repeated or continued; or none at all.
    fn datagram(&mut self, valid: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = valid[self.throw(valid.len())].clone();
        for _ in 0..self.throw(4) {
            let at = self.throw(bytes.len().max(1));
            match self.throw(5) {
                0 => bytes.truncate(at),
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.throw(8),
                2 if !bytes.is_empty() => bytes[at] = self.throw(256) as u8,
                3 => bytes.insert(at, self.throw(256) as u8),
                _ => bytes.extend((0..self.throw(64)).map(|n| n as u8).collect::<Vec<_>>()),
            }
        }
        if self.throw(8) == 0 {
            bytes = (0..self.throw(300)).map(|_| self.throw(256) as u8).collect();
        }
        bytes
    }
}

/// Whether a datagram could rightly end the victim, whose number is below 16, or the whole warden.
fn may_end(bytes: &[u8]) -> bool {
    // An empty packet reads as the end of the link.
    let Ok((kind, rest)) = postcard::take_from_bytes::<u32>(bytes) else { return bytes.is_empty() };
    let number = |bytes| postcard::take_from_bytes::<u64>(bytes).ok();
    let first = number(rest);
    let of_victim = |job: Option<(u64, &[u8])>| job.is_some_and(|(job, _)| job < 16);
    match kind {
        // Hello, prepare, census: none is about a job that is.
        0 | 1 | 7 => false,
        2 | 3 => of_victim(first),
        8 => true,
        _ => of_victim(first.and_then(|(_, rest)| number(rest))),
    }
}

/// A random request may have the number of one of ours, and its answer be taken for ours: then once more.
async fn answers(warden: &Warden) {
    let mut answer = None;
    for _ in 0..5 {
        let asked = tokio::time::timeout(Duration::from_secs(5), warden.census()).await;
        answer = Some(asked.expect("the warden never blocks"));
        if answer.as_ref().is_some_and(Result::is_ok) {
            return;
        }
    }
    panic!("the warden lives: {answer:?}");
}

async fn random_datagrams() {
    let count: usize = std::env::var("DATAGRAMS").map_or(2_000, |n| n.parse().unwrap());
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let gate = Duration::from_millis(200);
    let warden = Warden::launch(Settings { gate, ..settings(tier_of_environment()) }).await.unwrap();
    let job = job_id();
    let (victim, ends) = start(&warden, job, &["sh", "-c", "echo ready; sleep 1000"]).await;
    line(&ends.stdout).await;
    let link = link();
    let null = fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(); 8];
    let (mut dice, valid) = (Dice(seed), hostile_requests(99));
    let mut sent = 0;
    while sent < count {
        let bytes = dice.datagram(&valid);
        if may_end(&bytes) {
            continue;
        }
        send(&link, &bytes, &fds[..[0, 0, 3, 4, 8][dice.throw(5)]]);
        sent += 1;
        if sent % 500 == 0 {
            answers(&warden).await;
        }
    }
    assert!(
        futures_util::FutureExt::now_or_never(victim.exited()).is_none(),
        "the victim lives, seed {seed}"
    );
    assert!(living(job).contains(&victim.pid()), "and is who it was");
    victim.kill();
    assert_eq!(victim.emptied().await.survivors, 0);
    // What was rightly prepared by the way waits at its gate no longer than that.
    idle(&warden).await;
    warden.probe().await.unwrap();
    println!("alone=passed");
}

#[tokio::test]
#[ignore = "started by random_datagrams_are_survived"]
async fn random_datagrams_child() {
    random_datagrams().await;
}

#[test]
fn random_datagrams_are_survived() {
    for tier in ["", "B", "C"] {
        let mut child = Program::new(std::env::current_exe().unwrap());
        child.env("TIER", tier).stderr(ProgramStdio::null());
        alone("distrust::random_datagrams_child", child);
    }
}

#[test]
#[ignore = "long: a hundred thousand datagrams in each tier"]
fn a_hundred_thousand_random_datagrams_are_survived() {
    for tier in ["", "B", "C"] {
        let mut child = Program::new(std::env::current_exe().unwrap());
        child.env("TIER", tier).env("DATAGRAMS", "100000").stderr(ProgramStdio::null());
        alone("distrust::random_datagrams_child", child);
    }
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

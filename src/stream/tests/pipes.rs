//! Pumps over real pipes and terminals.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pty::OpenptFlags;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::stream::{Drained, Settings, pump};

/// Far longer than anything here takes: a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

struct Job {
    output: Output,
    last_call: CancellationToken,
    pumps: Vec<JoinHandle<std::io::Result<()>>>,
}

fn start(terms: Terms, ends: Vec<(Source, OwnedFd)>) -> Job {
    let (output, last_call) = (Output::new(terms), CancellationToken::new());
    let run = |(source, fd)| tokio::spawn(pump(fd, source, output.clone(), last_call.clone()));
    let pumps = ends.into_iter().map(run).collect();
    Job { output, last_call, pumps }
}

/// A job with stdout only; stderr is closed.
fn start_stdout(terms: Terms) -> (Job, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let (closed, _) = std::io::pipe().unwrap();
    (start(terms, vec![(Source::Stdout, reader.into()), (Source::Stderr, closed.into())]), writer)
}

async fn read_to_end(viewer: &mut Viewer, wake: &Notify) -> Vec<u8> {
    let mut out = Vec::new();
    while !viewer.is_through() {
        match viewer.next(usize::MAX, &mut out) {
            Some(Item::Gap { .. }) => panic!("a gap at {}", out.len()),
            Some(Item::Data { .. } | Item::Eof { .. }) => {}
            None => timeout(LONG, wake.notified()).await.expect("nothing more came"),
        }
    }
    out
}

fn writer(output: &Output) -> (Viewer, Arc<Notify>) {
    let wake = Arc::new(Notify::new());
    let wish = View { from: &[], kind: ViewKind::Write, plane: Plane::Binary, window: None };
    (output.view(wish, Arc::clone(&wake)).unwrap(), wake)
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count as u64).map(|o| byte(Source::Stdout, o)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_flood_arrives_once() {
    let (mut job, mut pipe) = start_stdout(terms(Overflow::Block, 256 * 1024));
    let (mut viewer, wake) = writer(&job.output);
    let expected = pattern(20 << 20);
    let printed = expected.clone();
    let printer = std::thread::spawn(move || pipe.write_all(&printed).unwrap());
    let got = read_to_end(&mut viewer, &wake).await;
    printer.join().unwrap();
    assert!(got == expected, "{} bytes came of {}", got.len(), expected.len());
    job.pumps.remove(0).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_that_read_along_lose_nothing() {
    let (job, mut pipe) = start_stdout(Terms { courtesy: LONG, ..terms(Overflow::Block, 16 * 1024) });
    let expected = Arc::new(pattern(4 << 20));
    let reader = |kind| {
        let wake = Arc::new(Notify::new());
        let wish = View { from: &[], kind, plane: Plane::Binary, window: None };
        let mut viewer = job.output.view(wish, Arc::clone(&wake)).unwrap();
        tokio::spawn(async move { read_to_end(&mut viewer, &wake).await })
    };
    let readers: Vec<_> =
        std::iter::once(ViewKind::Write).chain([ViewKind::Observe; 4]).map(reader).collect();
    let printed = Arc::clone(&expected);
    let printer = std::thread::spawn(move || pipe.write_all(&printed).unwrap());
    for reader in readers {
        assert!(reader.await.unwrap() == *expected);
    }
    printer.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_observer_costs_one_courtesy() {
    let courtesy = Duration::from_millis(100);
    let (job, mut pipe) = start_stdout(Terms { courtesy, ..terms(Overflow::Block, 16 * 1024) });
    let mut stalled = view(&job.output, ViewKind::Observe, None);
    let (mut viewer, wake) = writer(&job.output);
    let expected = pattern(4 << 20);
    let printed = expected.clone();
    let printer = std::thread::spawn(move || pipe.write_all(&printed).unwrap());
    let started = std::time::Instant::now();
    assert!(read_to_end(&mut viewer, &wake).await == expected);
    printer.join().unwrap();
    // 256 rings: waiting for each of them would take 25 s.
    assert!((courtesy..LONG).contains(&started.elapsed()), "{:?}", started.elapsed());
    let missed = |(item, _): &(Item, Vec<u8>)| matches!(item, Item::Gap { from: 0, .. });
    assert!(take_all(&mut stalled).iter().any(missed));
}

#[tokio::test]
async fn a_stalled_viewer_blocks_the_child_within_the_bound() {
    let (job, mut pipe) = start_stdout(terms(Overflow::Block, 64 * 1024));
    let (viewer, _wake) = writer(&job.output);
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    // stderr was looked at once: a page.
    let bound = 64 * 1024 + 4096;
    let most = 64 * 1024 + rustix::pipe::fcntl_getpipe_size(&pipe).unwrap();
    let written = flood_until_blocked(&job.output, &mut pipe).await;
    assert!(written <= most, "{written} bytes are somewhere");
    assert!(job.output.allocated() <= bound, "{}", job.output.allocated());
    drop(viewer);
    let mut more = 0;
    while more < 10 << 20 {
        more += pipe.write(&[7; 4096]).unwrap_or(0);
        tokio::task::yield_now().await;
    }
    assert!(job.output.allocated() <= bound, "{}", job.output.allocated());
}

/// Writes until neither the pipe nor the pump takes a byte more.
async fn flood_until_blocked(output: &Output, pipe: &mut std::io::PipeWriter) -> usize {
    let mut written = 0;
    loop {
        match pipe.write(&[7; 4096]) {
            Ok(count) => written += count,
            Err(_) if output.is_blocked(Source::Stdout) => return written,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_descendant_that_holds_the_pipe_delays_the_end_only_so_long() {
    let (mut job, mut pipe) = start_stdout(terms(Overflow::Block, 4096));
    let settings = Settings { drain_idle: Duration::from_millis(20), ..Settings::default() };
    let (mut viewer, wake) = writer(&job.output);
    pipe.write_all(b"before").unwrap();
    assert_eq!(timeout(LONG, job.output.drain(&settings)).await, Ok(Drained::Idle));
    pipe.write_all(b" and after").unwrap();
    job.last_call.cancel();
    assert_eq!(read_to_end(&mut viewer, &wake).await, b"before and after");
    job.pumps.remove(0).await.unwrap().unwrap();
    assert_eq!(timeout(LONG, job.output.drain(&settings)).await, Ok(Drained::Ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descendant_that_never_falls_silent_is_cut_off() {
    let (job, mut pipe) = start_stdout(terms(Overflow::Ring, 4096));
    let bounds = (Duration::from_millis(200), Duration::from_millis(400));
    let settings = Settings { drain_idle: bounds.0, drain_total: bounds.1, ..Settings::default() };
    let printer = std::thread::spawn(move || while pipe.write_all(&[1; 512]).is_ok() {});
    assert_eq!(timeout(LONG, job.output.drain(&settings)).await, Ok(Drained::Deadline));
    drop(job.pumps.into_iter().map(|pump| pump.abort()).collect::<Vec<()>>());
    printer.join().unwrap();
}

#[tokio::test]
async fn time_without_room_does_not_count() {
    let (job, mut pipe) = start_stdout(terms(Overflow::Block, 4096));
    let short = Duration::from_millis(10);
    let settings = Settings { drain_idle: short, drain_total: short, ..Settings::default() };
    let (viewer, _wake) = writer(&job.output);
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    flood_until_blocked(&job.output, &mut pipe).await;
    assert!(timeout(10 * short, job.output.drain(&settings)).await.is_err(), "it gave up on a blocked pump");
    drop(viewer);
    drop(pipe);
    assert_eq!(timeout(LONG, job.output.drain(&settings)).await, Ok(Drained::Ended));
}

#[tokio::test]
async fn the_last_call_reads_what_a_blocked_pump_left_in_the_pipe() {
    let (mut job, mut pipe) = start_stdout(terms(Overflow::Block, 4096));
    let (mut viewer, wake) = writer(&job.output);
    let expected = pattern(40_000);
    pipe.write_all(&expected).unwrap();
    job.last_call.cancel();
    assert!(read_to_end(&mut viewer, &wake).await == expected);
    job.pumps.remove(0).await.unwrap().unwrap();
    drop(pipe);
}

#[tokio::test]
async fn a_pump_over_the_limit_says_so_and_keeps_the_pipe_open() {
    let (mut job, mut pipe) = start_stdout(Terms { limit: Some(1000), ..terms(Overflow::Block, 4096) });
    let (mut viewer, wake) = writer(&job.output);
    pipe.write_all(&pattern(3000)).unwrap();
    timeout(LONG, job.output.over_limit().cancelled()).await.expect("it noticed");
    pipe.write_all(b"no SIGPIPE").unwrap();
    job.last_call.cancel();
    assert!(read_to_end(&mut viewer, &wake).await == pattern(1000));
    job.pumps.remove(0).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pump_that_is_aborted_ends_its_stream() {
    let (job, _pipe) = start_stdout(terms(Overflow::Block, 4096));
    let (mut viewer, wake) = writer(&job.output);
    job.pumps.iter().for_each(JoinHandle::abort);
    assert!(read_to_end(&mut viewer, &wake).await.is_empty());
    timeout(LONG, job.output.keep_tail(0)).await.expect("nobody waits for anything");
}

#[tokio::test]
async fn a_terminal_yields_what_was_written_before_its_last_process_went() {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let mut slave = std::fs::File::options().write(true).read(true).open(name.to_str().unwrap()).unwrap();
    let mut job = start(
        Terms { plumbing: Plumbing::Terminal, ..terms(Overflow::Block, 4096) },
        vec![(Source::Pty, master)],
    );
    let (mut viewer, wake) = writer(&job.output);
    slave.write_all(b"last words\n").unwrap();
    drop(slave);
    assert_eq!(read_to_end(&mut viewer, &wake).await, b"last words\r\n");
    job.pumps.remove(0).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_mebibytes_go_in_while_as_many_come_out() {
    use crate::stream::{Stdin, StdinPort, StdinRefused, feed};
    let (mut job, mut stdout) = start_stdout(terms(Overflow::Block, 64 * 1024));
    let (mut viewer, wake) = writer(&job.output);
    let (mut child_in, stdin_pipe) = std::io::pipe().unwrap();
    let stdin = Stdin::new(64 * 1024);
    let fed = tokio::spawn(feed(stdin_pipe.into(), StdinPort::Pipe, stdin.clone(), CancellationToken::new()));
    // Prints twice what it reads, so that both pipes are full most of the time.
    let child = std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            let count = child_in.read(&mut buffer).unwrap();
            if count == 0 {
                return;
            }
            stdout.write_all(&buffer[..count]).unwrap();
            stdout.write_all(&buffer[..count]).unwrap();
        }
    });
    let mut watch = stdin.watch(&wake);
    let (total, mut sent, mut got, mut out) = (10 << 20, 0usize, 0, Vec::new());
    while !viewer.is_through() {
        if let Some(credit) = watch.poll() {
            assert_eq!(credit.offset, sent as u64);
        }
        let chunk = pattern(16 * 1024);
        while sent < total {
            match stdin.offer(Some(sent as u64), &chunk, sent + chunk.len() == total) {
                Ok(accepted) => sent = accepted as usize,
                Err(refused) => {
                    assert!(matches!(refused, StdinRefused::Busy { .. }));
                    break;
                }
            }
        }
        match viewer.next(usize::MAX, &mut out) {
            Some(_) => got += out.len(),
            None => timeout(LONG, wake.notified()).await.expect("deadlock"),
        }
        out.clear();
    }
    assert_eq!((sent, got), (total, 2 * total));
    fed.await.unwrap().unwrap();
    child.join().unwrap();
    job.pumps.remove(0).await.unwrap().unwrap();
}

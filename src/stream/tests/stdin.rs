//! The way in, over real pipes and terminals.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pty::OpenptFlags;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Arc;
use crate::stream::{Stdin, StdinCredit, StdinPort, StdinRefused, feed};

/// Far longer than anything here takes: a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn an_offer_is_taken_whole_or_not_at_all() {
    let stdin = Stdin::new(10);
    assert_eq!(stdin.offer(Some(1), b"x", false), Err(StdinRefused::WrongOffset { expected: 0 }));
    assert_eq!(stdin.offer(Some(0), b"12345678", false), Ok(8));
    assert_eq!(stdin.offer(Some(8), b"90!", true), Err(StdinRefused::Busy { free: 2 }));
    assert_eq!(stdin.offer(None, b"90", true), Ok(10));
    assert_eq!(stdin.offer(None, b"", false), Err(StdinRefused::Closed));
}

#[tokio::test]
async fn credit_is_told_at_first_and_whenever_half_the_queue_frees() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdin = Stdin::new(1000);
    let wake = Arc::new(Notify::new());
    let mut watch = stdin.watch(&wake);
    assert_eq!(watch.poll(), Some(StdinCredit { offset: 0, free: 1000 }));
    assert_eq!(watch.poll(), None);
    stdin.offer(None, &[b'x'; 499], false).unwrap();
    let fed = tokio::spawn(feed(writer.into(), StdinPort::Pipe, stdin.clone(), CancellationToken::new()));
    until(&wake, || stdin.credit().free == 1000).await;
    assert_eq!(watch.poll(), None, "less than half is not worth a message");
    stdin.offer(None, b"y", false).unwrap();
    until(&wake, || stdin.credit().free == 1000).await;
    assert_eq!(watch.poll(), Some(StdinCredit { offset: 500, free: 1000 }));
    stdin.offer(None, b"", true).unwrap();
    fed.await.unwrap().unwrap();
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 500);
}

async fn until(wake: &Notify, reached: impl Fn() -> bool) {
    while !reached() {
        timeout(LONG, wake.notified()).await.expect("never");
    }
}

#[tokio::test]
async fn a_job_that_closes_its_stdin_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    let stdin = Stdin::new(1000);
    drop(reader);
    stdin.offer(None, b"nobody reads this", false).unwrap();
    let end =
        timeout(LONG, feed(writer.into(), StdinPort::Pipe, stdin.clone(), CancellationToken::new())).await;
    end.unwrap().unwrap();
    assert_eq!(stdin.offer(None, b"x", false), Err(StdinRefused::Closed));
    assert_eq!(stdin.credit().free, 0);
}

#[tokio::test]
async fn a_job_that_never_reads_keeps_the_queue_bounded_and_ends() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let stdin = Stdin::new(64 * 1024);
    let ended = CancellationToken::new();
    let wake = Arc::new(Notify::new());
    let _watch = stdin.watch(&wake);
    let fed = tokio::spawn(feed(writer.into(), StdinPort::Pipe, stdin.clone(), ended.clone()));
    stdin.offer(None, &[1; 64 * 1024], false).unwrap();
    until(&wake, || stdin.credit().free == 64 * 1024).await;
    stdin.offer(None, &[2; 64 * 1024], false).unwrap();
    assert!(matches!(stdin.offer(None, b"x", false), Err(StdinRefused::Busy { free: 0 })));
    ended.cancel();
    timeout(LONG, fed).await.unwrap().unwrap().unwrap();
    assert_eq!(stdin.offer(None, b"x", false), Err(StdinRefused::Closed));
}

#[test]
fn a_full_terminal_that_nobody_holds_any_more_keeps_no_thread_busy() {
    let (done, ended) = std::sync::mpsc::channel();
    // A thread that is left behind: one that spins can be neither joined nor timed out from within.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        done.send(runtime.block_on(fill_and_let_go())).unwrap();
    });
    assert!(matches!(ended.recv_timeout(LONG), Ok(Ok(()))));
}

/// Fills a terminal's input until bytes are left over, lets go of the terminal, then ends the job.
async fn fill_and_let_go() -> std::io::Result<()> {
    let (master, slave) = terminal();
    let mut raw = rustix::termios::tcgetattr(&slave).unwrap();
    raw.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &raw).unwrap();
    let stdin = Stdin::new(1 << 20);
    stdin.offer(None, &[b'x'; 1 << 20], false).unwrap();
    let ended = CancellationToken::new();
    let keep = master.try_clone().unwrap();
    let fed = tokio::spawn(feed(master, StdinPort::Terminal, stdin.clone(), ended.clone()));
    while takes_more(&keep) {
        tokio::task::yield_now().await;
    }
    drop(slave);
    // Woken by the same news as the feed, which has its turn then.
    pipe::Receiver::from_owned_fd_unchecked(keep).unwrap().readable().await.unwrap();
    tokio::task::yield_now().await;
    ended.cancel();
    fed.await.unwrap()
}

fn takes_more(master: &OwnedFd) -> bool {
    let mut wait = [PollFd::new(master.as_fd(), PollFlags::POLLOUT)];
    poll(&mut wait, PollTimeout::ZERO).unwrap() > 0
}

#[tokio::test]
async fn the_end_of_a_terminals_stdin_reaches_a_reader_in_mid_line() {
    for (typed, expected) in [("", ""), ("whole\n", "whole\n"), ("whole\nhalf", "whole\nhalf")] {
        let (master, mut slave) = terminal();
        let stdin = Stdin::new(1000);
        stdin.offer(None, typed.as_bytes(), true).unwrap();
        let keep = master.try_clone().unwrap();
        feed(master, StdinPort::Terminal, stdin, CancellationToken::new()).await.unwrap();
        let mut got = String::new();
        slave.read_to_string(&mut got).unwrap();
        assert_eq!(got, expected);
        drop(keep);
    }
}

fn terminal() -> (OwnedFd, std::fs::File) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (master, slave)
}

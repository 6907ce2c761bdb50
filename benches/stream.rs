//! Numbers S2, S3 and S4: one binary stream to a loopback socket, beside a bare relay in the same run; and nine fast
//! viewers with and without a stalled one.
//!
//! The floor is one thread that reads the pipe and writes the socket. Ours is pump, ring, viewer and a 16-byte header a
//! frame. Both have the same producer, the same consumer and the same send buffer. Rounds alternate and the median
//! counts, so that a busy machine hurts both.
//!
//! `cargo bench --bench stream [MiB a round] [rounds]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

use std::io::{PipeReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::BytesMut;
use execgate::stream::{
    Item, Output, Overflow, Plane, Plumbing, Settings, Source, Terms, View, ViewKind, Viewer, pump,
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The send buffer of the gateway's sockets, bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// What the producer writes at once, as a program with buffered output does.
const WRITE: usize = 8 * 1024;
const HEADER: usize = 16;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let bytes = numbers.first().copied().unwrap_or(1024) << 20;
    let rounds = numbers.get(1).copied().unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(measure(bytes, 0, relay));
        ours.push(measure(bytes, HEADER, |pipe, socket| runtime.block_on(gateway(pipe, socket))));
    }
    let (floor, ours) = (median(floor), median(ours));
    println!("bare relay     {floor:7.0} MB/s");
    println!("pump and view  {ours:7.0} MB/s");
    println!("ratio          {:7.2}", ours / floor);
    let (mut alone, mut beside, mut lost_alone, mut lost_beside) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..rounds {
        for (stalled, rates, lost) in [(0, &mut alone, &mut lost_alone), (1, &mut beside, &mut lost_beside)] {
            let (rate, gaps) = runtime.block_on(fan_out(bytes / 2, stalled));
            rates.push(rate);
            *lost += gaps;
        }
    }
    let (alone, beside) = (median(alone), median(beside));
    println!("9 viewers      {alone:7.0} MB/s each, {lost_alone} bytes lost");
    println!("beside stalled {beside:7.0} MB/s each, {lost_beside} bytes lost");
    println!("ratio          {:7.2}", beside / alone);
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Megabytes of payload a second through `carry`.
fn measure(bytes: usize, header: usize, carry: impl FnOnce(PipeReader, TcpStream) -> usize) -> f64 {
    let (reader, writer) = std::io::pipe().unwrap();
    let (socket, consumer) = connect();
    let producer = produce(writer, bytes);
    let started = Instant::now();
    let frames = carry(reader, socket);
    let received = consumer.join().unwrap();
    let elapsed = started.elapsed();
    producer.join().unwrap();
    assert_eq!(received, bytes + frames * header, "bytes were lost");
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}

fn produce(mut pipe: impl Write + Send + 'static, bytes: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        let text = b"y\n".repeat(WRITE / 2);
        let mut left = bytes;
        while left > 0 {
            let count = left.min(text.len());
            pipe.write_all(text.get(..count).unwrap_or_default()).unwrap();
            left -= count;
        }
    })
}

/// A socket and a thread that counts what comes out of it.
fn connect() -> (TcpStream, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER).unwrap();
    let consumer = thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        let mut total = 0;
        loop {
            match peer.read(&mut buffer).unwrap() {
                0 => return total,
                count => total += count,
            }
        }
    });
    (socket, consumer)
}

fn relay(mut pipe: PipeReader, mut socket: TcpStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = 0;
    loop {
        let count = pipe.read(&mut buffer).unwrap();
        if count == 0 {
            return frames;
        }
        socket.write_all(buffer.get(..count).unwrap_or_default()).unwrap();
        frames += 1;
    }
}

/// Carries the pipe to one write viewer.
async fn gateway(pipe: PipeReader, socket: TcpStream) -> usize {
    let job = start(pipe);
    let write = tokio::spawn(write(&job, ViewKind::Write, socket));
    write.await.unwrap().frames
}

/// Megabytes a second to each of nine fast viewers, and the bytes that they lost, beside `stalled` that read nothing.
async fn fan_out(bytes: usize, stalled: usize) -> (f64, u64) {
    let (reader, writer) = std::io::pipe().unwrap();
    let job = start(reader);
    let wish = View { from: &[], kind: ViewKind::Observe, plane: Plane::Binary, window: None };
    let _stalled: Vec<Viewer> =
        (0..stalled).map(|_| job.view(wish, Arc::new(Notify::new())).unwrap()).collect();
    let (mut writers, mut consumers) = (Vec::new(), Vec::new());
    for number in 0..9 {
        let kind = if number == 0 { ViewKind::Write } else { ViewKind::Observe };
        let (socket, consumer) = connect();
        writers.push(tokio::spawn(write(&job, kind, socket)));
        consumers.push(consumer);
    }
    let started = Instant::now();
    let producer = produce(writer, bytes);
    let mut lost = 0;
    for writer in writers {
        lost += writer.await.unwrap().lost;
    }
    let elapsed = started.elapsed();
    producer.join().unwrap();
    let received: Vec<usize> = consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect();
    assert!(received.iter().all(|count| *count > 0));
    (bytes as f64 / 1e6 / elapsed.as_secs_f64(), lost)
}

fn start(pipe: PipeReader) -> Output {
    let settings = Settings::default();
    let output = Output::new(Terms {
        plumbing: Plumbing::Pipes,
        overflow: Overflow::Block,
        ring_bytes: settings.ring_bytes,
        limit: None,
        viewers: settings.viewers,
        courtesy: settings.courtesy,
    });
    let (closed, _) = std::io::pipe().unwrap();
    let last_call = CancellationToken::new();
    tokio::spawn(pump(pipe.into(), Source::Stdout, output.clone(), last_call.clone()));
    tokio::spawn(pump(closed.into(), Source::Stderr, output.clone(), last_call));
    output
}

struct Written {
    frames: usize,
    lost: u64,
}

/// What the writer task of a socket does for one viewer.
fn write(output: &Output, kind: ViewKind, socket: TcpStream) -> impl Future<Output = Written> + use<> {
    let wake = Arc::new(Notify::new());
    let wish = View { from: &[], kind, plane: Plane::Binary, window: None };
    let mut viewer = output.view(wish, Arc::clone(&wake)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut socket = tokio::net::TcpStream::from_std(socket).unwrap();
    async move {
        let mut frame = BytesMut::with_capacity(HEADER + 64 * 1024);
        let mut written = Written { frames: 0, lost: 0 };
        while !viewer.is_through() {
            frame.clear();
            frame.extend_from_slice(&[0; HEADER]);
            match viewer.next(64 * 1024, &mut frame) {
                Some(Item::Data { .. }) => {
                    socket.write_all(&frame).await.unwrap();
                    written.frames += 1;
                }
                Some(Item::Gap { from, to, .. }) => written.lost += to - from,
                Some(Item::Eof { .. }) => {}
                None => wake.notified().await,
            }
        }
        written
    }
}

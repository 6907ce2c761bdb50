//! Tests of the room as a whole: against a trivial model, and with real pipes and terminals.

mod model;
mod parts;
mod pipes;
mod stdin;
mod views;

use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::output::{Filled, Output, Overflow, Terms};
use super::{Item, Plane, Plumbing, Source, View, ViewError, ViewKind, Viewer, Window};
use crate::domain::StreamName;

/// The byte that every test's job prints at this place.
fn byte(source: Source, offset: u64) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8 ^ source.name() as u8
}

fn terms(overflow: Overflow, ring_bytes: u32) -> Terms {
    Terms {
        plumbing: Plumbing::Pipes,
        overflow,
        ring_bytes,
        limit: None,
        viewers: 16,
        courtesy: Duration::ZERO,
    }
}

/// What a pump would do with `count` bytes waiting: returns how many went in.
fn print(output: &Output, source: Source, count: usize) -> usize {
    let before = produced(output, source);
    let mut left = count;
    while left > 0 {
        let at = produced(output, source);
        let filled = output
            .fill(source, |slices| Ok(scatter(slices, (at..at + left as u64).map(|o| byte(source, o)))));
        match filled.unwrap() {
            Filled::Bytes => left = count - (produced(output, source) - before) as usize,
            Filled::End | Filled::NoRoom | Filled::OverLimit | Filled::Polite(_) => break,
        }
    }
    count - left
}

fn print_text(output: &Output, source: Source, text: &[u8]) {
    let filled = output.fill(source, |slices| Ok(scatter(slices, text.iter().copied())));
    assert_eq!(filled.unwrap(), Filled::Bytes);
}

fn scatter(slices: &mut [IoSliceMut<'_>], mut bytes: impl Iterator<Item = u8>) -> usize {
    let mut count = 0;
    for slice in slices {
        for spot in slice.iter_mut() {
            let Some(byte) = bytes.next() else { return count };
            *spot = byte;
            count += 1;
        }
    }
    count
}

fn produced(output: &Output, source: Source) -> u64 {
    output.status().into_iter().find(|status| status.stream == source.name()).unwrap().next
}

fn oldest(output: &Output, source: Source) -> u64 {
    output.status().into_iter().find(|status| status.stream == source.name()).unwrap().oldest
}

fn view(output: &Output, kind: ViewKind, window: Option<u32>) -> Viewer {
    try_view(output, kind, &[], window).unwrap()
}

fn try_view(
    output: &Output,
    kind: ViewKind,
    from: &[(StreamName, u64)],
    window: Option<u32>,
) -> Result<Viewer, ViewError> {
    let window = window.map(|bytes| Window::new(bytes).unwrap());
    output.view(View { from, kind, plane: Plane::Binary, window }, Arc::new(Notify::new()))
}

/// Everything the viewer can have now.
fn take_all(viewer: &mut Viewer) -> Vec<(Item, Vec<u8>)> {
    let mut items = Vec::new();
    loop {
        let mut out = Vec::new();
        let Some(item) = viewer.next(usize::MAX, &mut out) else { return items };
        items.push((item, out));
    }
}

fn would_block() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

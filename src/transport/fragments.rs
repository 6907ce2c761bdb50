//! How many frames one message may come in.
//!
//! The library bounds the bytes of a message and not its frames, so a message of empty fragments would never be too long
//! and never end. This counts them on the way from the socket to the library (RFC 6455 section 5.2 and 5.4), looking at
//! the heads of frames only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most frames of one message: what a message of 1 MiB takes in pieces of 1 KiB.
pub(super) const MOST: u32 = 1024;

/// A message came in more than [`MOST`] frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message in more than {MOST} fragments")]
pub(super) struct TooMany;

/// The socket below a WebSocket. A message of too many fragments is an error of reading it.
#[derive(Debug)]
pub(super) struct Fragments<S> {
    inner: S,
    count: Count,
}

#[derive(Debug, Default)]
struct Count {
    at: At,
    /// Frames of the message so far.
    frames: u32,
}

/// What the next byte from the peer is.
///
/// ```text
/// First ─> Second ─┬─> Length ─┬─> Skip ─> First
///                  └───────────┘
/// ```
#[derive(Debug, Clone, Copy, Default)]
enum At {
    /// FIN, reserved bits and opcode.
    #[default]
    First,
    /// Mask bit and short length.
    Second,
    /// One of `left` bytes of an extended length.
    Length { masked: bool, left: u8, length: u64 },
    /// One of `left` bytes of mask and payload.
    Skip { left: u64 },
}

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const SHORT: u8 = 0x7f;

impl<S> Fragments<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, count: Count::default() }
    }

    /// What is below, to read what nobody looks at any more.
    pub(super) const fn inner(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl Count {
    /// Looks at bytes as they come.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), TooMany> {
        while let Some((first, rest)) = bytes.split_first() {
            if let At::Skip { left } = self.at {
                let skipped = left.min(bytes.len() as u64);
                self.at = skip(left - skipped);
                bytes = bytes.get(usize::try_from(skipped).unwrap_or(usize::MAX)..).unwrap_or_default();
            } else {
                self.head(*first)?;
                bytes = rest;
            }
        }
        Ok(())
    }

    /// One byte of the head of a frame.
    fn head(&mut self, byte: u8) -> Result<(), TooMany> {
        self.at = match self.at {
            At::First => {
                self.begin(byte)?;
                At::Second
            }
            At::Second => {
                let masked = byte & MASKED != 0;
                match byte & SHORT {
                    126 => At::Length { masked, left: 2, length: 0 },
                    127 => At::Length { masked, left: 8, length: 0 },
                    short => body(masked, short.into()),
                }
            }
            At::Length { masked, left, length } => {
                let length = length << 8 | u64::from(byte);
                if left == 1 { body(masked, length) } else { At::Length { masked, left: left - 1, length } }
            }
            At::Skip { left } => skip(left.saturating_sub(1)),
        };
        Ok(())
    }

    /// A frame begins. Control frames may come between the fragments of a message and are none of them.
    fn begin(&mut self, first: u8) -> Result<(), TooMany> {
        if first & OPCODE & CONTROL != 0 {
            return Ok(());
        }
        self.frames += 1;
        if self.frames > MOST {
            return Err(TooMany);
        }
        if first & FIN != 0 {
            self.frames = 0;
        }
        Ok(())
    }
}

/// Where a head is followed by its mask and payload.
fn body(masked: bool, length: u64) -> At {
    skip(length.saturating_add(if masked { 4 } else { 0 }))
}

fn skip(left: u64) -> At {
    if left == 0 { At::First } else { At::Skip { left } }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fragments<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, count } = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(count.take(fresh).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fragments<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            short @ 0..=125 => bytes.push(MASKED | short as u8),
            long @ 126..=65535 => {
                bytes.push(MASKED | 126);
                bytes.extend((long as u16).to_be_bytes());
            }
            longer => {
                bytes.push(MASKED | 127);
                bytes.extend((longer as u64).to_be_bytes());
            }
        }
        // A payload that looks like heads of frames.
        bytes.extend(vec![0; 4 + length]);
        bytes
    }

    #[test]
    fn as_many_fragments_as_there_may_be_are_a_message_and_one_more_is_none() {
        let most: Vec<u8> = (1..MOST).flat_map(|_| frame(0, 0)).collect();
        let mut count = Count::default();
        for _ in 0..3 {
            count.take(&frame(1, 3)).unwrap();
            count.take(&most[..most.len() - 6]).unwrap();
            count.take(&frame(FIN | 9, 5)).unwrap();
            count.take(&frame(FIN, 1)).unwrap();
        }
        count.take(&frame(2, 0)).unwrap();
        count.take(&most).unwrap();
        assert_eq!(count.take(&frame(0, 0)), Err(TooMany));
    }

    proptest! {
        #[test]
        fn whole_messages_of_any_length_are_passed_over_however_they_are_cut(
            lengths in prop::collection::vec(prop_oneof![0usize..300, 65000usize..66000], 1..20),
            cuts in prop::collection::vec(1usize..5000, 1..50),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(FIN | 2, *length)).collect();
            let mut count = Count::default();
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                prop_assert_eq!(count.take(piece), Ok(()));
                rest = left;
            }
            prop_assert!(matches!(count.at, At::First));
            prop_assert_eq!(count.frames, 0);
        }
    }
}

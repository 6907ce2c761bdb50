//! Binary frames: a 16-byte big-endian header, then the payload.
//!
//! `kind u8 | stream u8 | flags u16 | channel u32 | offset u64`

use crate::domain::{GapReason, StreamName};

/// Bytes of the header.
pub const HEADER: usize = 16;
/// Largest payload from a client, bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

const OUTPUT: u8 = 1;
const STDIN: u8 = 2;
const ACK: u8 = 3;
const GAP: u8 = 4;

/// The last frame of its stream.
const LAST: u16 = 1;

/// A frame from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// Bytes for a job's stdin.
    Stdin {
        /// Of the job viewed on this channel.
        channel: u32,
        /// Where they begin.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// The input ends with them.
        last: bool,
    },
    /// Everything of the stream before `offset` was consumed.
    Ack {
        /// Of the job viewed on this channel.
        channel: u32,
        /// Of this stream.
        stream: StreamName,
        /// Before this byte.
        offset: u64,
        /// The window from now on.
        window: u32,
    },
}

/// A frame that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrame {
    /// Short, or with a kind, stream or flag that a client may not send.
    Malformed,
    /// With more payload than allowed.
    TooLarge,
}

impl BadFrame {
    /// What the connection is closed with (RFC 6455 section 7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Malformed => 1002,
            Self::TooLarge => 1009,
        }
    }
}

/// Reads a client's frame.
///
/// # Errors
/// [`BadFrame`], for which the connection is closed.
pub fn decode(bytes: &[u8]) -> Result<ClientFrame<'_>, BadFrame> {
    let (head, payload) = bytes.split_first_chunk::<HEADER>().ok_or(BadFrame::Malformed)?;
    if payload.len() > MAX_PAYLOAD {
        return Err(BadFrame::TooLarge);
    }
    let [kind, stream, f0, f1, c0, c1, c2, c3, o0, o1, o2, o3, o4, o5, o6, o7] = *head;
    let flags = u16::from_be_bytes([f0, f1]);
    let channel = u32::from_be_bytes([c0, c1, c2, c3]);
    let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    match (kind, stream_of(stream), flags) {
        (STDIN, Some(StreamName::Stdin), 0 | LAST) => {
            Ok(ClientFrame::Stdin { channel, offset, data: payload, last: flags == LAST })
        }
        (ACK, Some(stream @ (StreamName::Stdout | StreamName::Stderr | StreamName::Pty)), 0) => {
            let window = payload.try_into().map_err(|_| BadFrame::Malformed)?;
            Ok(ClientFrame::Ack { channel, stream, offset, window: u32::from_be_bytes(window) })
        }
        _ => Err(BadFrame::Malformed),
    }
}

fn stream_of(number: u8) -> Option<StreamName> {
    match number {
        0 => Some(StreamName::Stdin),
        1 => Some(StreamName::Stdout),
        2 => Some(StreamName::Stderr),
        3 => Some(StreamName::Pty),
        _ => None,
    }
}

fn header(kind: u8, stream: StreamName, flags: u16, channel: u32, offset: u64) -> [u8; HEADER] {
    let [f0, f1] = flags.to_be_bytes();
    let [c0, c1, c2, c3] = channel.to_be_bytes();
    let [o0, o1, o2, o3, o4, o5, o6, o7] = offset.to_be_bytes();
    [kind, stream as u8, f0, f1, c0, c1, c2, c3, o0, o1, o2, o3, o4, o5, o6, o7]
}

/// The header of an output frame, to stand before its payload.
pub fn output_header(channel: u32, stream: StreamName, offset: u64) -> [u8; HEADER] {
    header(OUTPUT, stream, 0, channel, offset)
}

/// The empty frame that ends a stream.
pub fn last_output(channel: u32, stream: StreamName, offset: u64) -> Vec<u8> {
    header(OUTPUT, stream, LAST, channel, offset).to_vec()
}

/// A gap of `from..to`.
pub fn gap(channel: u32, stream: StreamName, from: u64, to: u64, reason: GapReason) -> Vec<u8> {
    let mut frame = header(GAP, stream, 0, channel, from).to_vec();
    frame.extend_from_slice(&to.to_be_bytes());
    frame.push(reason as u8);
    frame
}

/// Stdin credit: `offset` bytes taken, `free` more fit.
pub fn stdin_credit(channel: u32, offset: u64, free: u32) -> Vec<u8> {
    let mut frame = header(ACK, StreamName::Stdin, 0, channel, offset).to_vec();
    frame.extend_from_slice(&free.to_be_bytes());
    frame
}

/// A frame from the gateway, as a client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// Bytes of a stream.
    Output {
        /// Which.
        stream: StreamName,
        /// The first byte's offset.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// It is the stream's last frame.
        last: bool,
    },
    /// Bytes that will never come.
    Gap {
        /// Of which stream.
        stream: StreamName,
        /// The first.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// How much stdin may be sent.
    Credit {
        /// Bytes taken in total.
        offset: u64,
        /// Bytes that fit.
        free: u64,
    },
}

impl<'a> ServerFrame<'a> {
    /// Reads a frame; `None` for what a newer gateway may send.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, data) = bytes.split_first_chunk::<HEADER>()?;
        let [kind, stream, f0, f1, _, _, _, _, offset @ ..] = *head;
        let (stream, offset) = (stream_of(stream)?, u64::from_be_bytes(offset));
        match kind {
            OUTPUT => Some(Self::Output { stream, offset, data, last: u16::from_be_bytes([f0, f1]) == LAST }),
            GAP => Some(Self::Gap { stream, from: offset, to: u64::from_be_bytes(*data.first_chunk()?) }),
            ACK => Some(Self::Credit { offset, free: u32::from_be_bytes(data.try_into().ok()?).into() }),
            _ => None,
        }
    }
}

/// A client's stdin frame.
pub fn client_stdin(channel: u32, offset: u64, data: &[u8], last: bool) -> Vec<u8> {
    let mut frame = header(STDIN, StreamName::Stdin, if last { LAST } else { 0 }, channel, offset).to_vec();
    frame.extend_from_slice(data);
    frame
}

/// A client's acknowledgement.
pub fn client_ack(channel: u32, stream: StreamName, offset: u64, window: u32) -> Vec<u8> {
    let mut frame = header(ACK, stream, 0, channel, offset).to_vec();
    frame.extend_from_slice(&window.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_sixteen_bytes_big_endian() {
        let bytes = output_header(0x0102_0304, StreamName::Stderr, 0x0506_0708_090a_0b0c);
        assert_eq!(bytes, [1, 2, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn what_a_client_may_send_is_read_back() {
        let mut frame = header(STDIN, StreamName::Stdin, LAST, 7, 9).to_vec();
        frame.extend_from_slice(b"hi");
        assert_eq!(decode(&frame), Ok(ClientFrame::Stdin { channel: 7, offset: 9, data: b"hi", last: true }));
        let mut frame = header(ACK, StreamName::Stdout, 0, 7, 9).to_vec();
        frame.extend_from_slice(&4096u32.to_be_bytes());
        assert_eq!(
            decode(&frame),
            Ok(ClientFrame::Ack { channel: 7, stream: StreamName::Stdout, offset: 9, window: 4096 })
        );
    }

    #[test]
    fn everything_else_is_malformed_or_too_large() {
        let bad = [
            header(OUTPUT, StreamName::Stdout, 0, 1, 0).to_vec(),
            header(STDIN, StreamName::Stdout, 0, 1, 0).to_vec(),
            header(STDIN, StreamName::Stdin, 2, 1, 0).to_vec(),
            header(ACK, StreamName::Stdin, 0, 1, 0).to_vec(),
            header(ACK, StreamName::Stdout, 0, 1, 0).to_vec(),
            vec![0; 15],
            vec![],
            [&[2, 9][..], &[0; 14]].concat(),
        ];
        for frame in bad {
            assert_eq!(decode(&frame), Err(BadFrame::Malformed), "{frame:?}");
        }
        let large = [&header(STDIN, StreamName::Stdin, 0, 1, 0)[..], &vec![0; MAX_PAYLOAD + 1]].concat();
        assert_eq!(decode(&large), Err(BadFrame::TooLarge));
    }
}

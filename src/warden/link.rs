//! One packet at a time over a SOCK_SEQPACKET pair, descriptors beside it. Knows bytes, not messages.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::proto::{MAX_FDS, MAX_MESSAGE};

/// What a read of the link gave.
#[derive(Debug)]
pub(super) enum Received {
    /// Bytes of one packet and its descriptors (CLOEXEC).
    Packet(Vec<u8>, Vec<OwnedFd>),
    /// A packet that was too long or had too many descriptors: no message.
    Garbage,
    /// The other end is gone. (An empty packet looks the same and nobody sends one.)
    End,
}

/// A connected pair, both ends CLOEXEC; `flags` says whether they block.
pub(super) fn pair(flags: SocketFlags) -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | flags, None)
}

/// Sends one packet, whole or not at all; never raises SIGPIPE.
pub(super) fn send(link: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
}

/// Receives one packet; one longer than `scratch` is garbage.
pub(super) fn receive(link: BorrowedFd<'_>, scratch: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(link, &mut [IoSliceMut::new(scratch)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Received::Garbage);
    }
    match scratch.get(..got.bytes) {
        Some([]) | None => Ok(Received::End),
        Some(bytes) => Ok(Received::Packet(bytes.to_vec(), fds)),
    }
}

/// A buffer for [`receive`] that the next packet just fits in; waits for it on a blocking link. In a fork, each page of a larger
/// one would be a fault.
pub(super) fn room_for_next(link: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(link, &mut [0_u8; 0], flags))?;
    Ok(vec![0; length.min(MAX_MESSAGE)])
}

/// A buffer for [`receive`].
pub(super) fn scratch() -> Vec<u8> {
    vec![0; MAX_MESSAGE]
}

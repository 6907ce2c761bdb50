//! Pipes and terminals for a job: the job's ends to hand over, the gateway's ends to keep.
//!
//! The gateway's ends never block and close on exec; the job's ends block, as programs expect.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::domain::TerminalSize;

/// The job's ends. They leave this process with the release and are closed here.
#[derive(Debug)]
pub struct Stdio {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) terminal: bool,
}

/// The gateway's ends of three pipes, O_NONBLOCK.
#[derive(Debug)]
pub struct PipeEnds {
    /// Write end; absent when the job's stdin is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Read end.
    pub stdout: OwnedFd,
    /// Read end.
    pub stderr: OwnedFd,
}

/// The gateway's ends of a terminal.
#[derive(Debug)]
pub struct PtyEnds {
    /// The master, O_NONBLOCK: read output, write input. Reading gives EIO while nobody holds the terminal.
    pub master: OwnedFd,
    /// The terminal itself, for who has it to hold: a job may let go of it for a while and open it anew.
    pub slave: OwnedFd,
}

impl Stdio {
    /// Three pipes; without `stdin`, the job reads `/dev/null`.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn pipes(stdin: bool) -> io::Result<(Self, PipeEnds)> {
        let (job_in, our_in) = if stdin {
            let (read, write) = pipe()?;
            (read, Some(never_block(write)?))
        } else {
            (rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, None)
        };
        let (our_out, job_out) = pipe()?;
        let (our_err, job_err) = pipe()?;
        let job = Self { stdin: job_in, stdout: job_out, stderr: job_err, terminal: false };
        let ours = PipeEnds { stdin: our_in, stdout: never_block(our_out)?, stderr: never_block(our_err)? };
        Ok((job, ours))
    }

    /// A terminal of this size, as stdin, stdout and stderr at once; it becomes the job's controlling terminal.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOSPC where the host has no more terminals.
    pub fn pty(size: TerminalSize) -> io::Result<(Self, PtyEnds)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        resize(&master, size)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        let (stdin, stdout, stderr) = (slave.try_clone()?, slave.try_clone()?, slave.try_clone()?);
        let job = Self { stdin, stdout, stderr, terminal: true };
        Ok((job, PtyEnds { master: never_block(master)?, slave }))
    }

    /// Whether this is a terminal.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }
}

/// Gives a terminal another size; its foreground group gets SIGWINCH.
///
/// # Errors
/// ENOTTY when `master` is no terminal.
pub fn resize(master: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows(), ws_col: size.cols(), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn never_block(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    Ok(fd)
}

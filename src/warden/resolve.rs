//! Finding out what a command is: the leader, under its own identity, opens the working directory, the program
//! and a script's interpreter, each by O_PATH, and keeps what it opened. What is executed later is these very
//! files, whatever their names point to by then.
//!
//! Runs in the fork: a path on a dead file system hangs the leader, never the warden. [`look_up`] finds out the same in this
//! process, for who wants to know and not to run.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{Access, FileType, Mode, OFlags};

use super::confine::errno;
use super::proto::{WireFacts, WireFailure, WireFile, WireInterpreter};
use super::running::SpawnFailure;
use crate::domain::{Executable, SpawnStage};

/// How much of a first line is looked at, bytes: the kernel's own bound (BINPRM_BUF_SIZE).
const FIRST_LINE: usize = 256;

/// The files a start will use.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) program: OwnedFd,
    pub(super) interpreter: Option<OwnedFd>,
    pub(super) facts: WireFacts,
}

/// What a leader would find, as who this process is: the program, and the canonical working directory, which it enters.
///
/// # Errors
/// What a start would fail with.
pub fn look_up(name: &str, path: &[PathBuf], cwd: &str) -> Result<(Executable, String), SpawnFailure> {
    let facts = program(name, path, enter(cwd)?)?.facts;
    let cwd = facts.cwd.clone();
    Ok((facts.executable(name.to_owned()), cwd))
}

/// Opens and enters the working directory; returns its canonical path.
pub(super) fn enter(directory: &str) -> Result<String, WireFailure> {
    let fail = |errno| WireFailure::new(SpawnStage::Chdir, errno, directory);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(|e| fail(errno(e)))?;
    rustix::process::fchdir(&opened).map_err(|e| fail(errno(e)))?;
    canonical(&opened).map_err(fail)
}

/// Opens the program, looked for on `path` when its name has no `/`, and its interpreter.
pub(super) fn program(name: &str, path: &[PathBuf], cwd: String) -> Result<Opened, WireFailure> {
    let fail = |errno| WireFailure::new(SpawnStage::Exec, errno, name);
    let (found, program) = if name.contains('/') {
        (None, open_program(Path::new(name)).map_err(fail)?)
    } else {
        let (found, program) = search(name, path).map_err(fail)?;
        (Some(found), program)
    };
    let file = describe(&program).map_err(fail)?;
    let interpreter = match shebang(&program).map_err(fail)? {
        None => None,
        Some((requested, argument)) => Some(open_interpreter(requested, argument)?),
    };
    let (interpreter, described) = interpreter.unzip();
    Ok(Opened { program, interpreter, facts: WireFacts { cwd, found, file, interpreter: described } })
}

/// This binary itself, opened by the warden at its start.
pub(super) fn own_binary(program: OwnedFd, cwd: String) -> Result<Opened, WireFailure> {
    let file = describe(&program).map_err(|e| WireFailure::new(SpawnStage::Exec, e, "probe"))?;
    Ok(Opened { program, interpreter: None, facts: WireFacts { cwd, found: None, file, interpreter: None } })
}

fn search(name: &str, path: &[PathBuf]) -> Result<(String, OwnedFd), Errno> {
    let mut worst = Errno::ENOENT;
    if name.is_empty() {
        return Err(worst);
    }
    for directory in path.iter().filter(|d| d.is_absolute()) {
        let candidate = directory.join(name);
        match open_program(&candidate) {
            Ok(program) => return Ok((text(candidate)?, program)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    Err(worst)
}

/// A regular file that this identity may execute, and that still has a name.
fn open_program(path: &Path) -> Result<OwnedFd, Errno> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
    let stat = rustix::fs::fstat(&opened).map_err(errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::EACCES);
    }
    if stat.st_nlink == 0 {
        return Err(Errno::ENOENT);
    }
    rustix::fs::access(magic(&opened), Access::EXEC_OK).map_err(errno)?;
    Ok(opened)
}

fn open_interpreter(
    requested: String,
    argument: Option<String>,
) -> Result<(OwnedFd, WireInterpreter), WireFailure> {
    let fail = |errno| WireFailure::new(SpawnStage::Exec, errno, &requested);
    let opened = open_program(Path::new(&requested)).map_err(fail)?;
    if shebang(&opened).map_err(fail)?.is_some() {
        return Err(fail(Errno::ENOEXEC));
    }
    let file = describe(&opened).map_err(fail)?;
    Ok((opened, WireInterpreter { requested, argument, file }))
}

fn describe(opened: &OwnedFd) -> Result<WireFile, Errno> {
    let stat = rustix::fs::fstat(opened).map_err(errno)?;
    let bits = stat.st_mode & (Mode::SUID | Mode::SGID).as_raw_mode() != 0;
    let mut capability = [0_u8; 64];
    let capable = rustix::fs::getxattr(magic(opened), "security.capability", &mut capability).is_ok();
    Ok(WireFile {
        canonical: canonical(opened)?,
        device: stat.st_dev,
        inode: stat.st_ino,
        setuid: bits || capable,
    })
}

/// The interpreter and argument named in the first line of a script; `None` when it is none, or unreadable.
fn shebang(program: &OwnedFd) -> Result<Option<(String, Option<String>)>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(readable) = rustix::fs::open(magic(program), flags, Mode::empty()) else { return Ok(None) };
    let mut head = [0; FIRST_LINE];
    let read = rustix::io::pread(&readable, &mut head, 0).map_err(errno)?;
    parse_shebang(head.get(..read).unwrap_or_default(), read == FIRST_LINE)
}

/// Stricter than the kernel in one thing: a line that does not end within the bound is refused, not cut.
fn parse_shebang(head: &[u8], cut: bool) -> Result<Option<(String, Option<String>)>, Errno> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = match rest.iter().position(|b| *b == b'\n') {
        Some(end) => rest.get(..end).unwrap_or_default(),
        None if cut => return Err(Errno::ENOEXEC),
        None => rest,
    };
    if line.contains(&0) {
        return Err(Errno::ENOEXEC);
    }
    let line = std::str::from_utf8(line).map_err(|_| Errno::EILSEQ)?.trim_matches([' ', '\t']);
    let (name, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if name.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let argument = argument.trim_matches([' ', '\t']);
    Ok(Some((name.to_owned(), (!argument.is_empty()).then(|| argument.to_owned()))))
}

/// The path of an opened file. What is not UTF-8 cannot be shown to policy truthfully and is refused.
fn canonical(opened: &OwnedFd) -> Result<String, Errno> {
    let path = rustix::fs::readlink(magic(opened), Vec::new()).map_err(errno)?;
    path.into_string().map_err(|_| Errno::EILSEQ)
}

fn text(path: PathBuf) -> Result<String, Errno> {
    path.into_os_string().into_string().map_err(|_| Errno::EILSEQ)
}

/// The name under which this process reaches what it has opened.
pub(super) fn magic(opened: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[u8]) -> Result<Option<(String, Option<String>)>, Errno> {
        parse_shebang(line, line.len() == FIRST_LINE)
    }

    #[test]
    fn a_first_line_names_an_interpreter_and_at_most_one_argument() {
        assert_eq!(parsed(b"#!/bin/sh\nexit"), Ok(Some(("/bin/sh".into(), None))));
        assert_eq!(parsed(b"#! \t/bin/sh -e -u \n"), Ok(Some(("/bin/sh".into(), Some("-e -u".into())))));
        assert_eq!(parsed(b"#!/bin/sh"), Ok(Some(("/bin/sh".into(), None))));
        assert_eq!(parsed(b"\x7fELF"), Ok(None));
        assert_eq!(parsed(b""), Ok(None));
    }

    #[test]
    fn a_first_line_that_names_nothing_or_does_not_end_is_refused() {
        assert_eq!(parsed(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!   \n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!/bin/\0sh\n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!/bin/\xff\n"), Err(Errno::EILSEQ));
        let mut long = b"#!/".to_vec();
        long.resize(FIRST_LINE, b'a');
        assert_eq!(parsed(&long), Err(Errno::ENOEXEC));
    }
}

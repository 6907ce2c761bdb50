//! Profiles that configuration names, beside `base`: file roots, and no network.
//!
//! Each set of file roots is a Landlock domain of its own inside the one before: what several profiles allow is
//! what all of them allow. They are built in the leader, under its identity, so that a root on a dead file system
//! hangs nobody else, and a root that is missing allows nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use rustix::fs::{FileType, Mode, OFlags};

use super::super::settings::{FileRoots, Profile};
use super::super::sys;
use super::filter::{self, Sockets};

/// Newest kernel interface whose rights are handled, where the kernel has them.
const RIGHTS: ABI = ABI::V9;
/// Devices that every program may expect, whatever its roots.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Moves this process to an empty network namespace where one of the profiles wants none and the kernel lets it:
/// only before the identity is taken. Says whether it did.
pub(in super::super) fn leave_network(profiles: &[&Profile]) -> bool {
    profiles.iter().any(|profile| profile.offline) && nix::sched::unshare(CloneFlags::CLONE_NEWNET).is_ok()
}

/// Puts the profiles on this process, for good. `namespaced` is what [`leave_network`] said.
///
/// # Errors
/// The profile that is required and cannot be had, with EOPNOTSUPP; or the system's error.
pub(in super::super) fn put_on(
    profiles: &[&Profile],
    home: &Path,
    namespaced: bool,
) -> Result<(), (String, Errno)> {
    for profile in profiles {
        let had = match &profile.files {
            Some(roots) => restrict(roots, home),
            None => Ok(()),
        };
        let had = had.and_then(|()| if profile.offline { disconnect(namespaced) } else { Ok(()) });
        match had {
            Err(Errno::EOPNOTSUPP) if !profile.required => {}
            had => had.map_err(|errno| (profile.name.clone(), errno))?,
        }
    }
    Ok(())
}

fn disconnect(namespaced: bool) -> Result<(), Errno> {
    let sockets = if namespaced { Sockets::Namespaced } else { Sockets::Local };
    filter::apply(&filter::offline(sockets).map_err(|_| Errno::EOPNOTSUPP)?)
}

fn restrict(roots: &FileRoots, home: &Path) -> Result<(), Errno> {
    let lacking = |_| Errno::EOPNOTSUPP;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut ruleset =
        ruleset.handle_access(AccessFs::from_all(RIGHTS)).and_then(Ruleset::create).map_err(lacking)?;
    let read = roots.read.iter().map(|root| (root, AccessFs::from_read(RIGHTS)));
    let write = roots.write.iter().map(|root| (root, AccessFs::from_all(RIGHTS)));
    let devices = DEVICES.map(PathBuf::from);
    let usable = AccessFs::from_all(RIGHTS) & !AccessFs::Execute;
    for (root, access) in read.chain(write).chain(devices.iter().map(|device| (device, usable))) {
        let Some((fd, access)) = at_home(root, home).and_then(|root| open(&root, access)) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(lacking)?;
    }
    let ruleset = Option::<OwnedFd>::from(ruleset).ok_or(Errno::EOPNOTSUPP)?;
    sys::restrict_self(ruleset.as_fd())
}

/// `~` at the beginning stands for the identity's home; `/` is everybody's, and nobody's home.
fn at_home(root: &Path, home: &Path) -> Option<PathBuf> {
    match root.strip_prefix("~") {
        Ok(rest) => (home != Path::new("/")).then(|| home.join(rest)),
        Err(_) => Some(root.to_owned()),
    }
}

fn open(root: &Path, access: BitFlags<AccessFs>) -> Option<(OwnedFd, BitFlags<AccessFs>)> {
    let fd = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode) == FileType::Directory;
    Some((fd, if is_directory { access } else { access & AccessFs::from_file(RIGHTS) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_below_home_is_below_home() {
        let home = Path::new("/home/acme");
        for (root, is) in [("~", "/home/acme/"), ("~/work", "/home/acme/work"), ("/usr", "/usr")] {
            assert_eq!(at_home(Path::new(root), home), Some(PathBuf::from(is)));
        }
    }

    #[test]
    fn whoever_has_no_home_does_not_get_everything_for_it() {
        for (root, is) in [("~", None), ("~/work", None), ("/usr", Some(PathBuf::from("/usr")))] {
            assert_eq!(at_home(Path::new(root), Path::new("/")), is, "{root}");
        }
    }
}

//! `base`: the confinement of every job.
//!
//! Landlock keeps a job from writing below any cgroup mount, so that it cannot leave its leaf, below `/proc`, where it
//! could choose who dies for want of memory, and from signalling whatever is outside the job; being in a domain of its
//! own, it can trace and read nobody outside either. Seccomp refuses what reaches past that. Built once at the warden's
//! start. What only refuses goes on the warden itself, which makes none of the calls it refuses, and leaders inherit it:
//! the kernel compiles a filter each time one is put on, which took longer than the fork. What the warden cannot be
//! without, its groups and clone3, each leader gives up as soon as it is born.
//!
//! Landlock knows no denial: what is beside the sealed mounts is allowed, found by walking down to each. Effects: no
//! job can mount anything (the kernel's rule for such domains) or map users in a namespace of its own; what is made
//! directly in `/`, or in another directory on the way to a cgroup mount, after the start can only be read by jobs
//! until the next start.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope, make_bitflags,
};
use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags};
use seccompiler::BpfProgram;

use super::super::{cgroup, sys};
use super::filter;

/// Holds files of every process that its user may write, whatever Landlock says of tracing it. Sealed whole, because a
/// rule stands for one file, and a job's processes are yet to come.
const PROCESSES: &str = "/proc";
/// Types of file system that groups are in.
const GROUPS: [&str; 2] = ["cgroup", "cgroup2"];

/// Most files and directories beside the sealed mounts and on the way to them; a host has some fifty.
const MAX_SIBLINGS: usize = 4096;

/// What changes a file or the tree of groups. Moving between directories must be handled to be allowed at all.
const CHANGES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | MakeDir | RemoveDir | Refer});

/// The confinement of every job, ready to be put on.
#[derive(Debug)]
pub(in super::super) struct Base {
    ruleset: Option<OwnedFd>,
    without_clone3: Option<BpfProgram>,
    lacks: Vec<String>,
    seals_groups: bool,
}

impl Base {
    /// Builds it, as far as this kernel can, and puts what it can bear of it on this process, for good.
    pub(in super::super) fn put_on_warden() -> Self {
        let mut base = Self { ruleset: None, without_clone3: None, lacks: Vec::new(), seals_groups: false };
        match filter_calls() {
            Ok(without_clone3) => base.without_clone3 = Some(without_clone3),
            Err(why) => base.lacks.push(format!(
                "no filter of system calls ({why}; a kernel with CONFIG_SECCOMP_FILTER has it): a job can use io_uring, bpf and the \
                 like, and change limits and priorities of processes of its own user"
            )),
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string());
        let others = mountinfo.iter().flat_map(|text| mounts_of(text, &["proc"]));
        base.lacks.extend(others.filter(|place| *place != Path::new(PROCESSES)).map(|place| {
            format!(
                "proc is mounted at {} too: through it a job can write what it may not below {PROCESSES}, such as the \
                 oom_score_adj of other processes of its user; unmount it, or give tenants an identity",
                place.display()
            )
        }));
        let sealed = mountinfo.map(|text| [mounts_of(&text, &GROUPS), vec![PROCESSES.into()]].concat());
        let siblings = sealed.and_then(|sealed| siblings_of(&sealed));
        match siblings.and_then(|beside| base.landlock(&beside)) {
            Ok(ruleset) => {
                base.ruleset = Some(ruleset);
                base.seals_groups = true;
            }
            Err(why) => base.lacks.push(format!(
                "no Landlock ({why}; Linux 5.19 has it, with \"landlock\" in its lsm= list): a job can signal and \
                 trace processes of its own user, and leave its group if it may write there"
            )),
        }
        base
    }

    fn landlock(&mut self, beside: &[PathBuf]) -> Result<OwnedFd, String> {
        ruleset(beside, Scope::Signal | Scope::AbstractUnixSocket).or_else(|_| {
            let ruleset = ruleset(beside, BitFlags::EMPTY)?;
            self.lacks.push(
                "Landlock without scopes (Linux 6.12 has them): a job can signal processes of its own user outside"
                    .into(),
            );
            Ok(ruleset)
        })
    }

    /// Whether a job cannot write any cgroup file, and so cannot leave its leaf.
    pub(in super::super) const fn seals_groups(&self) -> bool {
        self.seals_groups
    }

    /// What this kernel lacks of it, one sentence each.
    pub(in super::super) fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// The descriptor that [`Self::put_on`] needs; close-on-exec.
    pub(in super::super) fn ruleset(&self) -> Option<BorrowedFd<'_>> {
        self.ruleset.as_ref().map(AsFd::as_fd)
    }

    /// Puts the rest of it on this process, a fork of the one that built it, for good. `ruleset` is [`Self::ruleset`], or a
    /// copy.
    pub(in super::super) fn put_on(&self, ruleset: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        super::no_new_privileges()?;
        ruleset.map_or(Ok(()), sys::restrict_self)?;
        self.without_clone3.as_ref().map_or(Ok(()), filter::apply)
    }
}

/// Puts the filter for the warden and its jobs on this process; returns the one that is for jobs only.
fn filter_calls() -> Result<BpfProgram, String> {
    let [refusing, without_pinning, without_clone3] = filter::base()?;
    super::no_new_privileges()
        .and_then(|()| filter::apply(&refusing))
        .and_then(|()| filter::apply(&without_pinning))
        .map_err(|errno| errno.to_string())?;
    Ok(without_clone3)
}

/// A ruleset that allows changes beneath these only.
fn ruleset(beneath: &[PathBuf], scopes: BitFlags<Scope>) -> Result<OwnedFd, String> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(CHANGES).map_err(|e| e.to_string())?;
    let ruleset = if scopes.is_empty() { Ok(ruleset) } else { ruleset.scope(scopes) };
    let mut ruleset = ruleset.and_then(Ruleset::create).map_err(|e| e.to_string())?;
    for path in beneath {
        // What cannot be opened or ruled over (it went, it is a link) is not allowed, no more.
        let Some((fd, access)) = open(path) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|e| e.to_string())?;
    }
    Option::<OwnedFd>::from(ruleset).ok_or_else(|| "the kernel gave no ruleset".to_owned())
}

/// Opens without following or waiting: names only.
fn open(path: &Path) -> Option<(OwnedFd, BitFlags<AccessFs>)> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode) {
        FileType::Directory => Some((fd, CHANGES)),
        FileType::Symlink => None,
        _ => Some((fd, AccessFs::WriteFile.into())),
    }
}

/// Everything that is neither one of the sealed nor above one, as high up as possible.
fn siblings_of(sealed: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let (mut beside, mut above) = (Vec::new(), vec![PathBuf::from("/")]);
    while let Some(directory) = above.pop() {
        let entries = fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if sealed.contains(&path) {
                continue;
            }
            let list =
                if sealed.iter().any(|mount| mount.starts_with(&path)) { &mut above } else { &mut beside };
            list.push(path);
        }
        if beside.len() + above.len() > MAX_SIBLINGS {
            return Err(format!("more than {MAX_SIBLINGS} files beside the cgroup mounts"));
        }
    }
    Ok(beside)
}

/// Where file systems of these types are mounted, from the text of `/proc/self/mountinfo`.
fn mounts_of(mountinfo: &str, types: &[&str]) -> Vec<PathBuf> {
    cgroup::mounts(mountinfo).filter(|mount| types.contains(&mount.kind)).map(|mount| mount.place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_types() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
            42 31 0:39 / /odd\\040place rw - cgroup cgroup rw,memory\n";
        let found = mounts_of(text, &GROUPS);
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/odd place")]);
        assert_eq!(mounts_of(text, &["tmpfs"]), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn siblings_leave_out_what_leads_to_a_group() {
        let root = tempfile::tempdir().unwrap();
        for path in ["groups/a", "groups/b", "beside"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let beside = siblings_of(&[root.path().join("groups/a")]).unwrap();
        let is = |path: &str| beside.contains(&root.path().join(path));
        assert!(is("beside") && is("groups/b") && !is("groups") && !is("groups/a"));
        assert!(!beside.contains(&PathBuf::from("/")) && beside.contains(&PathBuf::from("/proc")));
    }
}

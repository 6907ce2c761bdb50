//! Daemons that do work for whoever can reach their socket. What they start for a job is no descendant of it, so no tier can
//! promise its end; `doctor` names those that jobs can reach.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::warden::Identity;

/// Sockets through which anybody who may write to them can have programs started.
const KNOWN: [&str; 9] = [
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/libvirt/libvirt-sock",
    "/run/user/UID/bus",
    "/run/user/UID/systemd/private",
];

/// The known sockets that one of these can write to, with who it is. `invoker` is the uid of jobs without an identity.
pub(super) fn reachable(identities: &[Identity], invoker: Option<(u32, u32)>) -> Vec<(PathBuf, String)> {
    let own = invoker.map(|(uid, gid)| (uid, vec![gid], format!("uid {uid}")));
    let named = identities.iter().map(|identity| {
        let groups = identity.groups.iter().copied().chain([identity.gid]).collect();
        (identity.uid, groups, identity.user.clone())
    });
    let people: Vec<(u32, Vec<u32>, String)> = own.into_iter().chain(named).collect();
    let mut found = Vec::new();
    for (uid, groups, name) in &people {
        for known in KNOWN {
            let path = PathBuf::from(known.replace("UID", &uid.to_string()));
            if may_write(&path, *uid, groups) {
                found.push((path, name.clone()));
            }
        }
    }
    found
}

/// By the modes of the path alone (path_resolution(7)); access control lists are not looked at.
fn may_write(path: &Path, uid: u32, groups: &[u32]) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let open = real.ancestors().skip(1).all(|directory| allows(directory, uid, groups, 1));
    open && allows(&real, uid, groups, 2)
}

fn allows(path: &Path, uid: u32, groups: &[u32], bit: u32) -> bool {
    let Ok(found) = fs::metadata(path) else { return false };
    let class = if found.uid() == uid {
        6
    } else if groups.contains(&found.gid()) {
        3
    } else {
        0
    };
    uid == 0 || found.mode() >> class & bit != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_socket_is_reachable_by_the_modes_on_the_way_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        fs::write(&path, "").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let group = fs::metadata(&path).unwrap().gid();
        mode(directory.path(), 0o755);
        mode(&path, 0o660);
        assert!(
            may_write(&path, 0, &[]) && !may_write(&path, 65533, &[]) && may_write(&path, 65533, &[group])
        );
        mode(directory.path(), 0o700);
        mode(&path, 0o666);
        assert!(!may_write(&path, 65533, &[65533]));
        assert!(!may_write(&directory.path().join("none"), 0, &[]));
    }
}

//! What a host lacks for a better tier, and the exact step that would give it, in words for the operator.
//!
//! Reads what the host says of itself and promises nothing: whether a step helped is found out by the next trial.

use std::fs;

use nix::unistd::Uid;

/// Of tier C.
pub(super) const BEST_EFFORT: &str = "no exact containment: a job that forks faster than it can be stopped, or that is stronger than its keeper, may leave processes behind";

/// Of a namespace that shows the host's processes.
pub(super) const SHARED_PROC: &str = "jobs see the host's /proc: the kernel refuses another one here, as it does where parts of /proc are masked (container: --security-opt systempaths=unconfined)";

/// Of a gateway that was started from a terminal.
pub(super) const OWN_TERMINAL: &str = "jobs that run as this user can open the terminal that this was started from, write to it and read what is typed there: start it as a service, or by `setsid -f`, or give tenants an identity";

/// What would give cgroup2 groups, where making one failed with these words.
pub(super) fn groups(why: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let contained = in_container();
    if why.contains("no cgroup2 hierarchy") {
        steps.push(if contained {
            "give the container cgroup2: docker or podman run --cgroupns=private on a host that mounts it".to_owned()
        } else {
            "mount cgroup2: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1".to_owned()
        });
    } else if contained && (why.contains("Read-only") || Uid::effective().is_root()) {
        steps.push("let the container write its own group: docker run --cgroupns=private --security-opt writable-cgroups=true (Docker 28 and later), or --privileged; podman run --cgroupns=private --security-opt unmask=/sys/fs/cgroup".to_owned());
    } else if why.contains("Read-only") {
        steps.push("remount cgroup2 writable: mount -o remount,rw on its mount point".to_owned());
    } else if systemd() {
        steps.push("delegate a group: run as a service with Delegate=yes, or start it by `systemd-run --user --scope -p Delegate=yes execgate serve`".to_owned());
    } else {
        steps.push(format!("hand over a group: as root, mkdir GROUP && chown -R {} GROUP below the cgroup2 mount, and start execgate from a shell whose number was written to GROUP/cgroup.procs; or start it as root and give tenants an identity", Uid::effective()));
    }
    steps
}

/// What would give PID namespaces.
pub(super) fn namespaces() -> Vec<String> {
    let mut steps = Vec::new();
    let number = |file: &str| fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
    for limit in ["user.max_user_namespaces", "user.max_pid_namespaces"] {
        if number(&format!("/proc/sys/{}", limit.replace('.', "/"))) == Some(0) {
            steps.push(format!("allow namespaces: sysctl -w {limit}=10000"));
        }
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        steps.push("allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1".to_owned());
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        steps.push("allow user namespaces: give execgate an AppArmor profile with `userns,`, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".to_owned());
    }
    if steps.is_empty() && in_container() {
        steps.push("let the container make namespaces: docker or podman run --cap-add SYS_ADMIN, or a seccomp profile that allows clone with CLONE_NEWUSER and CLONE_NEWPID".to_owned());
    }
    if steps.is_empty() {
        steps.push(
            "start execgate as root with CAP_SYS_ADMIN, or on a kernel with CONFIG_USER_NS and CONFIG_PID_NS"
                .to_owned(),
        );
    }
    steps
}

/// Of jobs that can leave their leaf.
pub(super) fn leaves(who: &str, sealed: bool) -> String {
    let step = if sealed {
        "report this: Landlock is in force and did not deny it"
    } else {
        "use a kernel with Landlock, or give tenants an identity of their own (tenant.NAME.identity)"
    };
    format!(
        "tier A', not A: a process of {who} can move itself out of its leaf; such a process is ended when its job ends, unless it finds a parent elsewhere; {step}"
    )
}

fn systemd() -> bool {
    fs::exists("/run/systemd/system").unwrap_or(false)
}

/// Whether this looks like the inside of a container.
fn in_container() -> bool {
    let files = ["/.dockerenv", "/run/.containerenv"];
    let kubernetes = fs::exists("/var/run/secrets/kubernetes.io").unwrap_or(false);
    kubernetes || files.iter().any(|file| fs::exists(file).unwrap_or(false))
}

//! The preset `developer`: any program but those that administer the host.
//!
//! It restrains mistakes, not attackers: whoever may run a compiler or a shell may run anything.

use execgate_policy_sdk::prelude::*;

use crate::pattern::last_part;

/// Programs that administer the host or change who one is.
const ADMIN: [&str; 22] = [
    "sudo", "su", "doas", "pkexec", "runuser", "setpriv", "shutdown", "reboot", "halt", "poweroff", "init",
    "telinit", "fdisk", "sfdisk", "cfdisk", "parted", "mount", "umount", "swapon", "swapoff", "losetup",
    "mkswap",
];

/// Programs that run the program their operands name.
#[rustfmt::skip]
const WRAPPERS: [&str; 20] = [
    "env", "nice", "timeout", "nohup", "setsid", "stdbuf", "xargs", "busybox", "toybox", "ionice", "chrt", "taskset", "time",
    "unshare", "flock", "watch", "strace", "ltrace", "script", "find",
];

/// Allows everything but administration and files that would gain privileges.
pub(crate) fn decide(request: &CommandRequest) -> Result<Permission, Denial> {
    let executable = &request.executable;
    if let Some(program) = admin_program(request) {
        let message = format!("{:?} administers the host, which jobs may not", last_part(program));
        return Err(Denial::new("developer.admin-programs", "admin_program", message)
            .remedy("do it outside execgate, or ask the operator for a rule that allows it"));
    }
    if executable.setuid || executable.interpreter.as_ref().is_some_and(|i| i.setuid) {
        let requested = &executable.requested;
        let message = format!(
            "{requested:?} is setuid, setgid or carries capabilities; in a job it would not gain them"
        );
        return Err(Denial::new("developer.setuid", "setuid_program", message)
            .remedy("use a program that needs no privileges"));
    }
    Ok(Permission::by("developer.any"))
}

/// The program itself, one it wraps, or one that its script would run.
fn admin_program(request: &CommandRequest) -> Option<&str> {
    let executable = &request.executable;
    let own = [Some(&executable.requested), executable.found.as_ref(), Some(&executable.canonical)];
    let wraps = executable.found.as_deref().is_some_and(|found| WRAPPERS.contains(&last_part(found)));
    let wrapped = request.argv.iter().skip(1).filter(|_| wraps);
    let scripted =
        request.script.iter().flat_map(|script| &script.commands).filter_map(|command| command.first());
    own.into_iter()
        .flatten()
        .chain(wrapped)
        .chain(scripted)
        .map(String::as_str)
        .find(|program| is_admin(program))
}

fn is_admin(program: &str) -> bool {
    let name = last_part(program);
    ADMIN.contains(&name) || name.starts_with("mkfs")
}

//! Programs known by name.

/// Interpreters of other languages, by the name before any version number.
const LANGUAGES: [&str; 34] = [
    "python",
    "pypy",
    "perl",
    "ruby",
    "irb",
    "node",
    "nodejs",
    "php",
    "lua",
    "luajit",
    "tclsh",
    "wish",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "original-awk",
    "bwk",
    "expect",
    "guile",
    "java",
    "jshell",
    "deno",
    "bun",
    "scala",
    "groovy",
    "erl",
    "escript",
    "elixir",
    "iex",
    "julia",
    "Rscript",
    "octave",
    "gdb",
];

/// Programs that run what they are given, in ways that are not followed.
pub(super) const LOOSE_WRAPPERS: [&str; 50] = [
    "unshare",
    "nsenter",
    "chroot",
    "flock",
    "watch",
    "script",
    "strace",
    "ltrace",
    "setpriv",
    "prlimit",
    "runuser",
    "sudo",
    "doas",
    "su",
    "pkexec",
    "parallel",
    "systemd-run",
    "unbuffer",
    "chpst",
    "setuidgid",
    "softlimit",
    "linux32",
    "linux64",
    "setarch",
    "i386",
    "x86_64",
    "uname26",
    "numactl",
    "cgexec",
    "firejail",
    "bwrap",
    "dbus-run-session",
    "dbus-launch",
    "catchsegv",
    "proot",
    "fakeroot",
    "fakechroot",
    "faketime",
    "ssh-agent",
    "start-stop-daemon",
    "capsh",
    "cpulimit",
    "rlwrap",
    "socat",
    "valgrind",
    "perf",
    "tini",
    "dumb-init",
    "eatmydata",
    "run-parts",
];

pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a program of this name has script facts.
pub(super) fn is_special(name: &str) -> bool {
    super::shell::dialect(name).is_some()
        || is_language(name)
        || LOOSE_WRAPPERS.contains(&name)
        || name.starts_with("ld-linux")
        || super::wrapper::grammar(name).is_some()
}

pub(super) fn is_language(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    LANGUAGES.contains(&name)
}

//! Programs through which an argument, a file they read or a key they are sent runs any other program, or writes any file.
//!
//! Whoever may run one of them without a bound on its arguments may run everything: the operator is warned.

use crate::pattern::last_part;

/// By name, without version numbers.
#[rustfmt::skip]
pub(crate) const NAMES: &[&str] = &[
    "7z", "ab", "ansible", "ansible-playbook", "apt", "apt-get", "ar", "aria", "ash", "at", "awk", "aws", "bash", "batch", "bc",
    "bpftrace", "bundle", "bundler", "bun", "busctl", "busybox", "capsh", "cargo", "cc", "certbot", "chroot", "chrt", "clang",
    "cmake", "cobc", "composer", "cowsay", "cp", "cpan", "cpio", "crontab", "csh", "csplit", "csvtool", "curl", "dash", "dc", "dd",
    "debugfs", "deno", "dialog", "distcc", "dmsetup", "dnf", "docker", "doas", "dosbox", "dpkg", "dvips", "easy_install", "ed",
    "elvish", "emacs", "enscript", "env", "ex", "exiftool", "expect", "facter", "file", "find", "fish", "flock", "ftp", "g++",
    "gawk", "gcc", "gcloud", "gdb", "gem", "genie", "ghc", "ghci", "gimp", "ginsh", "git", "go", "gpg", "groovy", "grub-mkconfig",
    "gtester", "guile", "hping", "iconv", "iftop", "install", "ionice", "irb", "ispell", "java", "jjs", "joe", "journalctl",
    "jrunscript", "jshell", "julia", "knife", "ksh", "kubectl", "latex", "ld.so", "ldconfig", "less", "lftp", "ln", "loginctl",
    "logsave", "look", "ltrace", "lua", "luajit", "luatex", "lwp-download", "m4", "mail", "make", "man", "mawk", "minicom", "mksh",
    "more", "mosh", "mount", "mutt", "mv", "mysql", "nano", "nawk", "nc", "ncat", "neofetch", "nice", "ninja", "nmap", "node",
    "nodejs", "nohup", "npm", "npx", "nroff", "nsenter", "nvim", "octave", "openssl", "openvpn", "parallel", "patch", "pdb", "perf",
    "perl", "pexec", "pg", "php", "pic", "pico", "pip", "pkexec", "pnpm", "podman", "poetry", "posh", "pry", "psftp", "psql",
    "puppet", "pwsh", "python", "qemu", "R", "rake", "rbash", "rc", "red", "restic", "rg", "rlwrap", "rpm", "rpmdb", "rsync",
    "rtorrent", "ruby", "run-mailcap", "run-parts", "runuser", "rustc", "rview", "rvim", "scala", "scanmem", "scp", "screen",
    "script", "sed", "service", "setarch", "setpriv", "setsid", "sftp", "sg", "sh", "shuf", "slsh", "smbclient", "socat",
    "softlimit", "sort", "split", "sqlite", "sqlite3", "ss", "ssh", "ssh-agent", "ssh-keygen", "start-stop-daemon", "stdbuf",
    "strace", "su", "sudo", "swift", "systemctl", "systemd-run", "tar", "taskset", "tclsh", "tcpdump", "tcsh", "tee", "telnet",
    "terraform", "tex", "time", "timeout", "tmate", "tmux", "top", "torify", "toybox", "tree", "troff", "ts-node", "uniq",
    "unshare", "unzip", "uudecode", "uv", "vagrant", "valgrind", "vi", "view", "vigr", "vim", "vimdiff", "vipw", "watch", "wget",
    "whiptail", "wine", "wish", "xargs", "xdotool", "xelatex", "xetex", "xxd", "yarn", "yash", "yum", "zathura", "zip", "zsh",
    "zypper",
];

/// Whether a free hand with this program, or with what this pattern matches, is a free hand with everything.
pub(crate) fn allows_everything(program: &str) -> bool {
    let name = last_part(program);
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-*".contains(c));
    NAMES.contains(&name) || NAMES.contains(&bare) || bare.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers_do_not_hide_an_interpreter() {
        for program in [
            "python3.11",
            "/usr/bin/perl5.36",
            "lua5.4",
            "vim",
            "gcc-12",
            "/usr/bin/*",
            "/opt/ruby*",
            "sort",
            "uniq",
        ] {
            assert!(allows_everything(program), "{program}");
        }
        for program in ["ls", "cat", "true", "sha256sum", "tail"] {
            assert!(!allows_everything(program), "{program}");
        }
    }
}

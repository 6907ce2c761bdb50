//! The programs of the preset and the options that only read (GNU coreutils 9, grep 3, procps 4, util-linux 2.38, ripgrep 13, jq
//! 1.6, tree 2.1, file 5.44; checked against each program's manual).
//!
//! Left out on purpose, with the reason:
//! `sort -o -T --compress-program` write and run; `uniq IN OUT` writes; `date -s` and `date MMDDhhmm` set the clock; `file -C -z
//! -p -m -s` writes, runs, touches, loads and opens devices; `tree -o -R` write; `rg --pre -z --hostname-bin` run; `diff -l` runs pr;
//! `dmesg -c -C -H` clear and page; `shuf -o`, `iconv -o` write; `hostname NAME` sets; `locale -m` runs gzip; `jq -L -f --argfile` load.

use super::Operands::{Any, Judged, Most, None as NoOperands};
use super::{Operands, Program, small};

const fn program(name: &'static str, operands: Operands, options: &'static [&'static str]) -> Program {
    Program { name, options, operands, processes: Some(1) }
}

#[rustfmt::skip]
const SUMS: &[&str] = &[
    "-bctwz", "--binary", "--check", "--tag", "--text", "--zero", "--ignore-missing", "--quiet", "--status", "--strict", "--warn",
];

#[rustfmt::skip]
pub(super) const PROGRAMS: &[Program] = &[
    program("ls", Any, &[
        "-aAbBcCdfFgGhHiklLmnNopqQrRsStuUvxXZ1", "-I=", "-w=", "-T=", "--all", "--almost-all", "--author", "--escape",
        "--block-size=", "--ignore-backups", "--color=?", "--directory", "--dired", "--classify=?", "--file-type", "--format=",
        "--full-time", "--no-group", "--group-directories-first", "--human-readable", "--si", "--dereference-command-line",
        "--dereference", "--hide=", "--hyperlink=?", "--indicator-style=", "--inode", "--ignore=", "--kibibytes", "--literal",
        "--numeric-uid-gid", "--hide-control-chars", "--show-control-chars", "--quote-name", "--quoting-style=", "--reverse",
        "--recursive", "--size", "--sort=", "--time=", "--time-style=", "--tabsize=", "--width=", "--context", "--zero",
    ]),
    program("cat", Any, &[
        "-AbeEnstTuv", "--show-all", "--number-nonblank", "--show-ends", "--number", "--squeeze-blank", "--show-tabs",
        "--show-nonprinting",
    ]),
    program("tac", Any, &["-br", "-s=", "--before", "--regex", "--separator="]),
    program("head", Any, &["-qvz", "-c=", "-n=", "-NUM", "--bytes=", "--lines=", "--quiet", "--silent", "--verbose", "--zero-terminated"]),
    program("tail", Any, &[
        "-fFqvz", "-c=", "-n=", "-s=", "-NUM", "--bytes=", "--lines=", "--follow=?", "--pid=", "--quiet", "--silent", "--retry",
        "--sleep-interval=", "--verbose", "--zero-terminated",
    ]),
    program("wc", Any, &["-clmwL", "--bytes", "--chars", "--lines", "--words", "--max-line-length"]),
    program("sort", Any, &[
        "-bcCdfghiMmnRrsuVz", "-k=", "-S=", "-t=", "--ignore-leading-blanks", "--dictionary-order", "--ignore-case",
        "--general-numeric-sort", "--human-numeric-sort", "--ignore-nonprinting", "--month-sort", "--numeric-sort",
        "--random-sort", "--reverse", "--version-sort", "--sort=", "--check=?", "--debug", "--key=", "--merge", "--field-separator=",
        "--stable", "--buffer-size=", "--parallel=", "--unique", "--zero-terminated",
    ]),
    program("uniq", Most(1), &[
        "-cdDiuz", "-f=", "-s=", "-w=", "-NUM", "--count", "--repeated", "--all-repeated=?", "--group=?", "--skip-fields=",
        "--ignore-case", "--skip-chars=", "--unique", "--zero-terminated", "--check-chars=",
    ]),
    program("cut", Any, &[
        "-nsz", "-b=", "-c=", "-d=", "-f=", "--bytes=", "--characters=", "--delimiter=", "--fields=", "--complement",
        "--only-delimited", "--output-delimiter=", "--zero-terminated",
    ]),
    program("tr", Any, &["-cCdst", "--complement", "--delete", "--squeeze-repeats", "--truncate-set1"]),
    program("comm", Any, &["-123z", "--check-order", "--nocheck-order", "--output-delimiter=", "--total", "--zero-terminated"]),
    program("join", Any, &[
        "-iz", "-a=", "-e=", "-j=", "-o=", "-t=", "-v=", "-1=", "-2=", "--ignore-case", "--check-order", "--nocheck-order",
        "--header", "--zero-terminated",
    ]),
    program("paste", Any, &["-sz", "-d=", "--serial", "--delimiters=", "--zero-terminated"]),
    program("nl", Any, &["-p", "-b=", "-d=", "-f=", "-h=", "-i=", "-l=", "-n=", "-s=", "-v=", "-w=", "--body-numbering=", "--number-width="]),
    program("fold", Any, &["-bs", "-w=", "-NUM", "--bytes", "--spaces", "--width="]),
    program("fmt", Any, &["-cstu", "-w=", "-p=", "-g=", "-NUM", "--split-only", "--uniform-spacing", "--width="]),
    program("expand", Any, &["-i", "-t=", "--initial", "--tabs="]),
    program("unexpand", Any, &["-a", "-t=", "--all", "--first-only", "--tabs="]),
    program("rev", Any, &[]),
    program("column", Any, &["-tx", "-s=", "-o=", "-c=", "--table", "--separator=", "--output-separator="]),
    program("od", Any, &[
        "-abcdfilosvx", "-A=", "-j=", "-N=", "-t=", "-w=?", "--address-radix=", "--skip-bytes=", "--read-bytes=", "--format=",
        "--output-duplicates", "--width=?",
    ]),
    program("hexdump", Any, &["-bcCdovx", "-n=", "-s=", "--canonical", "--length=", "--skip=", "--no-squeezing"]),
    program("base64", Most(1), &["-di", "-w=", "--decode", "--ignore-garbage", "--wrap="]),
    program("base32", Most(1), &["-di", "-w=", "--decode", "--ignore-garbage", "--wrap="]),
    program("md5sum", Any, SUMS),
    program("sha1sum", Any, SUMS),
    program("sha224sum", Any, SUMS),
    program("sha256sum", Any, SUMS),
    program("sha384sum", Any, SUMS),
    program("sha512sum", Any, SUMS),
    program("b2sum", Any, SUMS),
    program("cksum", Any, &["-a=", "--algorithm=", "--untagged", "--length="]),
    program("sum", Any, &["-rs", "--sysv"]),
    program("shuf", Any, &["-erz", "-i=", "-n=", "--echo", "--repeat", "--input-range=", "--head-count=", "--zero-terminated"]),
    program("seq", Most(3), &["-w", "-f=", "-s=", "-NUM", "--equal-width", "--format=", "--separator="]),
    program("iconv", Judged(small::iconv), &["-cls", "-f=", "-t=", "--from-code=", "--to-code=", "--list", "--silent"]),
    program("cmp", Any, &["-bls", "-i=", "-n=", "--print-bytes", "--ignore-initial=", "--verbose", "--bytes=", "--quiet", "--silent"]),
    program("diff", Any, &[
        "-abBcdeEfiNnpqrstTuwyZ", "-C=", "-F=", "-I=", "-S=", "-U=", "-W=", "-x=", "-X=", "--text", "--ignore-space-change",
        "--ignore-blank-lines", "--brief", "--context=?", "--minimal", "--exclude=", "--exclude-from=", "--ignore-case",
        "--ignore-all-space", "--ignore-trailing-space", "--ignore-tab-expansion", "--label=", "--new-file", "--normal",
        "--recursive", "--report-identical-files", "--side-by-side", "--suppress-common-lines", "--left-column",
        "--show-c-function", "--strip-trailing-cr", "--unified=?", "--width=", "--color=?", "--no-dereference", "--expand-tabs",
    ]),
    program("grep", Any, GREP),
    Program { name: "rg", options: RG, operands: Any, processes: None },
    program("sed", Judged(small::sed), &["-nEsz", "--quiet", "--silent", "--separate", "--null-data", "--regexp-extended"]),
    program("stat", Any, &["-fLt", "-c=", "--dereference", "--file-system", "--cached=", "--format=", "--printf=", "--terse"]),
    program("file", Any, &[
        "-bhikLnNr0", "-e=", "-F=", "--brief", "--exclude=", "--extension", "--keep-going", "--dereference", "--no-dereference",
        "--mime", "--mime-type", "--mime-encoding", "--raw", "--print0", "--no-pad", "--separator=",
    ]),
    program("readlink", Any, &["-efmnqsvz", "--canonicalize", "--canonicalize-existing", "--canonicalize-missing", "--no-newline", "--zero"]),
    program("realpath", Any, &[
        "-eLmPqsz", "--canonicalize-existing", "--canonicalize-missing", "--logical", "--physical", "--quiet", "--relative-to=",
        "--relative-base=", "--no-symlinks", "--zero",
    ]),
    program("basename", Any, &["-az", "-s=", "--multiple", "--suffix=", "--zero"]),
    program("dirname", Any, &["-z", "--zero"]),
    program("pwd", NoOperands, &["-LP", "--logical", "--physical"]),
    program("du", Any, &[
        "-0abcDhHklLmPsSx", "-B=", "-d=", "-t=", "-X=", "--all", "--apparent-size", "--block-size=", "--bytes", "--total",
        "--dereference-args", "--max-depth=", "--human-readable", "--inodes", "--count-links", "--dereference", "--no-dereference",
        "--separate-dirs", "--si", "--summarize", "--threshold=", "--time=?", "--time-style=", "--exclude=", "--one-file-system", "--null",
    ]),
    program("df", Any, &[
        "-ahHiklPTv", "-B=", "-t=", "-x=", "--all", "--block-size=", "--human-readable", "--si", "--inodes", "--local", "--no-sync",
        "--output=?", "--portability", "--total", "--type=", "--print-type", "--exclude-type=",
    ]),
    program("tree", Any, &[
        "-adfilqNQpugshDFrtcUvxnCASJX", "-L:", "-P:", "-I:", "--noreport", "--dirsfirst", "--filesfirst", "--du", "--si", "--prune",
        "--matchdirs", "--ignore-case", "--inodes", "--device",
    ]),
    program("jq", Any, &[
        "-acCejMnrRsS", "--ascii-output", "--compact-output", "--color-output", "--exit-status", "--join-output",
        "--monochrome-output", "--null-input", "--raw-output", "--raw-input", "--slurp", "--sort-keys", "--tab", "--seq", "--stream",
        "--unbuffered", "--arg=2", "--argjson=2", "--indent=",
    ]),
    program("date", Judged(small::date), &[
        "-uR", "-d=", "-r=", "-I=?", "--date=", "--reference=", "--utc", "--universal", "--rfc-email", "--rfc-3339=", "--iso-8601=?",
    ]),
    program("uname", NoOperands, &[
        "-asnrvmpio", "--all", "--kernel-name", "--nodename", "--kernel-release", "--kernel-version", "--machine", "--processor",
        "--hardware-platform", "--operating-system",
    ]),
    program("arch", NoOperands, &[]),
    program("nproc", NoOperands, &["--all", "--ignore="]),
    program("hostname", NoOperands, &["-sI", "--short", "--all-ip-addresses"]),
    program("uptime", NoOperands, &["-ps", "--pretty", "--since"]),
    program("free", NoOperands, &["-bkmghltvw", "-s=", "-c=", "--bytes", "--kibi", "--mebi", "--gibi", "--human", "--si", "--lohi", "--total", "--wide"]),
    program("vmstat", Any, &["-adfmnstw", "-S=", "--active", "--slabs", "--one-header", "--stats", "--disk", "--timestamp", "--wide"]),
    program("id", Any, &["-aGgnruzZ", "--group", "--groups", "--name", "--real", "--user", "--zero", "--context"]),
    program("groups", Any, &[]),
    program("who", Any, &["-abdHlmpqrstTuw", "--all", "--boot", "--heading", "--users", "--count"]),
    program("w", Any, &["-fhiosu", "--no-header", "--short", "--from", "--ip-addr"]),
    program("users", NoOperands, &[]),
    program("last", Any, &["-aFiRwx", "-n=", "-NUM", "--limit=", "--fulltimes", "--ip", "--fullnames", "--system"]),
    program("whoami", NoOperands, &[]),
    program("logname", NoOperands, &[]),
    program("tty", NoOperands, &["-s", "--silent", "--quiet"]),
    program("printenv", Any, &["-0", "--null"]),
    program("locale", Any, &["-ack", "--all-locales", "--category-name", "--keyword-name"]),
    program("getconf", Any, &["-a"]),
    program("pgrep", Any, &[
        "-acflnoiwxv", "-d=", "-g=", "-G=", "-P=", "-s=", "-t=", "-u=", "-U=", "--list-name", "--list-full", "--count", "--full",
        "--newest", "--oldest", "--exact", "--ignore-case", "--parent=", "--euid=", "--uid=", "--delimiter=",
    ]),
    program("pidof", Any, &["-sxq", "-o="]),
    program("lscpu", NoOperands, &["-abcJx", "-e=?", "-p=?", "--all", "--online", "--offline", "--json", "--extended=?", "--parse=?"]),
    program("lsblk", Any, &[
        "-abdfilmnOpPrStJ", "-o=", "--all", "--bytes", "--nodeps", "--fs", "--json", "--list", "--noheadings", "--output=", "--paths",
        "--raw", "--topology",
    ]),
    program("lsmod", NoOperands, &[]),
    program("dmesg", NoOperands, &[
        "-ekPrTtuxJ", "-f=", "-l=", "--ctime", "--decode", "--facility=", "--level=", "--kernel", "--userspace", "--notime", "--nopager",
        "--raw", "--reltime", "--since=", "--until=", "--json",
    ]),
    program("ss", Judged(small::ss), &[
        "-0aeHilmnopstuwx46", "--all", "--extended", "--listening", "--memory", "--numeric", "--options", "--processes", "--summary",
        "--tcp", "--udp", "--raw", "--unix", "--ipv4", "--ipv6", "--info", "--no-header", "--oneline",
    ]),
];

#[rustfmt::skip]
const GREP: &[&str] = &[
    "-aEFGHIPLRTUVZbchilnoqrsvwxyz", "-A=", "-B=", "-C=", "-d=", "-D=", "-e=", "-f=", "-m=", "-NUM", "--extended-regexp",
    "--fixed-strings", "--basic-regexp", "--perl-regexp", "--regexp=", "--file=", "--ignore-case", "--no-ignore-case",
    "--word-regexp", "--line-regexp", "--null-data", "--no-messages", "--invert-match", "--max-count=", "--byte-offset",
    "--line-number", "--line-buffered", "--with-filename", "--no-filename", "--label=", "--only-matching", "--quiet", "--silent",
    "--binary-files=", "--text", "--directories=", "--devices=", "--recursive", "--dereference-recursive", "--include=", "--exclude=",
    "--exclude-from=", "--exclude-dir=", "--files-without-match", "--files-with-matches", "--count", "--initial-tab", "--null",
    "--before-context=", "--after-context=", "--context=", "--color=?", "--colour=?", "--binary",
];

#[rustfmt::skip]
const RG: &[&str] = &[
    "-acFHiIlLnNopPqsSuUvwx0.", "-A=", "-B=", "-C=", "-e=", "-E=", "-f=", "-g=", "-j=", "-m=", "-M=", "-r=", "-t=", "-T=",
    "--after-context=", "--before-context=", "--context=", "--regexp=", "--file=", "--encoding=", "--glob=", "--iglob=", "--threads=",
    "--max-count=", "--max-columns=", "--max-depth=", "--max-filesize=", "--replace=", "--type=", "--type-not=", "--type-list",
    "--color=", "--colors=", "--column", "--count", "--count-matches", "--files", "--files-with-matches", "--files-without-match",
    "--fixed-strings", "--follow", "--heading", "--no-heading", "--hidden", "--ignore-case", "--smart-case", "--case-sensitive",
    "--invert-match", "--json", "--line-number", "--no-line-number", "--line-regexp", "--multiline", "--multiline-dotall",
    "--no-config", "--no-ignore", "--no-ignore-vcs", "--no-ignore-parent", "--no-messages", "--null", "--only-matching",
    "--one-file-system", "--passthru", "--pcre2", "--pretty", "--quiet", "--sort=", "--sortr=", "--stats", "--text", "--trim",
    "--unrestricted", "--vimgrep", "--with-filename", "--no-filename", "--word-regexp", "--crlf", "--null-data", "--line-buffered",
];

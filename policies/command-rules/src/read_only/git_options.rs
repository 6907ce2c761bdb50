//! git's subcommands that only read, and their options (git 2.47, git-log(1) and the others).
//!
//! Left out on purpose: `--output` (writes), `-O` of grep (opens a pager), `--ext-diff`, `--textconv`, `--filters`,
//! `--show-signature`, `--open-files-in-pager` (run programs), `--recurse-submodules`, `--submodule`, `--ignore-submodules` (run git
//! in a submodule, whose configuration is not held down), `-v` of status (prints patches, and has no `--no-textconv`), `--contents`, `--broken`, `--dirty` of describe (writes the index, whatever GIT_OPTIONAL_LOCKS says).

use crate::options::{Arguments, Objection};

/// A subcommand that may be run.
pub(super) struct Subcommand {
    pub(super) name: &'static str,
    /// Lists of options, as [`crate::options::read`] takes them.
    pub(super) options: &'static [&'static [&'static str]],
    /// What the arguments must be beyond that.
    pub(super) judge: for<'a> fn(&Arguments<'a>) -> Result<(), Objection<'a>>,
    /// What is run in its place.
    pub(super) alias: Option<&'static str>,
}

const fn plain(name: &'static str, options: &'static [&'static [&'static str]]) -> Subcommand {
    Subcommand { name, options, judge: anything, alias: None }
}

const fn judged(
    name: &'static str,
    options: &'static [&'static [&'static str]],
    judge: for<'a> fn(&Arguments<'a>) -> Result<(), Objection<'a>>,
) -> Subcommand {
    Subcommand { name, options, judge, alias: None }
}

const fn aliased(
    name: &'static str,
    options: &'static [&'static [&'static str]],
    alias: &'static str,
) -> Subcommand {
    Subcommand { name, options, judge: anything, alias: Some(alias) }
}

#[rustfmt::skip]
pub(super) const SUBCOMMANDS: &[Subcommand] = &[
    aliased("log", &[DIFF, WALK, LOOKS, PATCHES], "log --no-ext-diff --no-textconv --ignore-submodules=all"),
    aliased("show", &[DIFF, WALK, LOOKS, PATCHES], "show --no-ext-diff --no-textconv --ignore-submodules=all"),
    aliased("diff", &[DIFF, &["--cached", "--staged", "--merge-base"]], "diff --no-ext-diff --no-textconv --ignore-submodules=all"),
    aliased("status", &[STATUS], "status --ignore-submodules=all"),
    aliased("blame", &[BLAME], "blame --no-textconv"),
    plain("shortlog", &[&["-nse", "-w=?", "--numbered", "--summary", "--email", "--group=", "--format="], WALK]),
    plain("rev-list", &[WALK, LOOKS, &["-n=", "--count", "--objects", "--header", "--timestamp", "--disk-usage=?"]]),
    judged("reflog", &[WALK, LOOKS], reads_the_reflog),
    judged("branch", &[LIST, &["-arvi", "--all", "--remotes", "--verbose", "--show-current", "--abbrev=", "--no-abbrev"]], lists),
    judged("tag", &[LIST, &["-il", "-n=?"]], lists),
    judged("remote", &[&["-v", "--verbose", "--all", "--push"]], names_remotes),
    judged("config", &[CONFIG], asks),
    judged("worktree", &[&["-vz", "--porcelain", "--verbose"]], lists_worktrees),
    plain("rev-parse", &[REV_PARSE]),
    plain("ls-files", &[LS_FILES]),
    plain("ls-tree", &[&[
        "-drtlz", "--long", "--name-only", "--name-status", "--object-only", "--full-name", "--full-tree", "--abbrev=?", "--format=",
    ]]),
    plain("cat-file", &[&["-tspe", "--batch=?", "--batch-check=?", "--batch-all-objects", "--buffer", "--unordered"]]),
    plain("describe", &[&[
        "--all", "--tags", "--contains", "--abbrev=", "--candidates=", "--exact-match", "--long", "--match=", "--exclude=", "--always",
        "--first-parent",
    ]]),
    plain("for-each-ref", &[LIST, &["--count=", "--omit-empty"]]),
    plain("show-ref", &[&["-dqs", "--head", "--heads", "--branches", "--tags", "--verify", "--hash=?", "--abbrev=?", "--dereference", "--quiet"]]),
    plain("name-rev", &[&["--tags", "--refs=", "--all", "--name-only", "--always"]]),
    plain("merge-base", &[&["-a", "--all", "--octopus", "--is-ancestor", "--independent", "--fork-point"]]),
    plain("count-objects", &[&["-vH", "--verbose", "--human-readable"]]),
    plain("check-ignore", &[&["-qvnz", "--quiet", "--verbose", "--stdin", "--non-matching", "--no-index"]]),
    plain("check-attr", &[&["-az", "--all", "--cached", "--stdin"]]),
    plain("grep", &[GREP]),
];

#[rustfmt::skip]
const DIFF: &[&str] = &[
    "-puwbBaRzsW", "-U=", "-M=?", "-C=?", "-S=", "-G=", "-l=", "--patch", "--no-patch", "--unified=", "--raw", "--patch-with-raw",
    "--patch-with-stat", "--stat=?", "--numstat", "--shortstat", "--dirstat=?", "--summary", "--compact-summary", "--name-only",
    "--name-status", "--color=?", "--no-color", "--color-words=?", "--word-diff=?", "--word-diff-regex=", "--color-moved=?",
    "--no-color-moved", "--no-renames", "--check", "--full-index", "--binary", "--abbrev=?", "--find-renames=?", "--find-copies=?",
    "--find-copies-harder", "--diff-filter=", "--pickaxe-regex", "--pickaxe-all", "--text", "--ignore-all-space",
    "--ignore-space-change", "--ignore-space-at-eol", "--ignore-cr-at-eol", "--ignore-blank-lines", "--function-context",
    "--exit-code", "--quiet", "--src-prefix=", "--dst-prefix=", "--no-prefix", "--minimal", "--patience", "--histogram",
    "--diff-algorithm=", "--anchored=", "--inter-hunk-context=", "--relative=?", "--no-relative", "--no-ext-diff", "--no-textconv",
    "--line-prefix=", "--irreversible-delete", "--indent-heuristic", "--no-index",
];

#[rustfmt::skip]
const WALK: &[&str] = &[
    "-iEFP", "-n=", "-NUM", "--max-count=", "--skip=", "--since=", "--after=", "--until=", "--before=", "--author=", "--committer=",
    "--grep=", "--all-match", "--invert-grep", "--regexp-ignore-case", "--extended-regexp", "--fixed-strings", "--perl-regexp",
    "--merges", "--no-merges", "--min-parents=", "--max-parents=", "--first-parent", "--all", "--branches=?", "--tags=?",
    "--remotes=?", "--glob=", "--exclude=", "--reflog", "--left-right", "--left-only", "--right-only", "--cherry", "--cherry-mark",
    "--cherry-pick", "--full-history", "--dense", "--sparse", "--simplify-by-decoration", "--simplify-merges", "--ancestry-path=?",
    "--date-order", "--topo-order", "--author-date-order", "--reverse", "--boundary", "--not", "--no-walk=?", "--do-walk",
];

#[rustfmt::skip]
const LOOKS: &[&str] = &[
    "-gq", "--walk-reflogs", "--graph", "--no-graph", "--decorate=?", "--no-decorate", "--decorate-refs=",
    "--decorate-refs-exclude=", "--source", "--follow", "--oneline", "--pretty=?", "--format=", "--abbrev-commit",
    "--no-abbrev-commit", "--date=", "--relative-date", "--parents", "--children", "--notes=?", "--no-notes", "--encoding=",
    "--expand-tabs=?", "--no-expand-tabs", "--mailmap", "--use-mailmap", "--no-mailmap", "--log-size",
    "--no-diff-merges", "--show-pulls", "--quiet",
];

/// They print patches, and those convert text by the repository's programs: only where an alias says otherwise.
const PATCHES: &[&str] = &["-cm", "-L=", "--cc", "--diff-merges=", "--combined-all-paths"];

#[rustfmt::skip]
const STATUS: &[&str] = &[
    "-sbz", "-u=?", "-M=?", "--short", "--branch", "--show-stash", "--porcelain=?", "--long", "--untracked-files=?",
    "--ignored=?", "--column=?", "--no-column", "--ahead-behind", "--no-ahead-behind", "--renames", "--no-renames", "--find-renames=?",
];

#[rustfmt::skip]
const BLAME: &[&str] = &[
    "-bclnpstwfe", "-L=", "-M=?", "-C=?", "-S=", "--root", "--show-stats", "--porcelain", "--line-porcelain", "--incremental",
    "--show-name", "--show-number", "--show-email", "--date=", "--abbrev=", "--since=", "--first-parent", "--reverse", "--color-lines",
    "--color-by-age", "--ignore-rev=", "--ignore-revs-file=",
];

/// Of branch, tag and for-each-ref.
#[rustfmt::skip]
const LIST: &[&str] = &[
    "--list", "--sort=", "--format=", "--contains=?", "--no-contains=?", "--merged=?", "--no-merged=?", "--points-at=?",
    "--ignore-case", "--color=?", "--no-color", "--column=?", "--no-column",
];

#[rustfmt::skip]
const CONFIG: &[&str] = &[
    "-lz", "--list", "--get", "--get-all", "--get-regexp", "--get-urlmatch", "--show-origin", "--show-scope", "--name-only", "--null",
    "--local", "--global", "--system", "--worktree", "--type=", "--bool", "--int", "--path", "--includes", "--default=",
];

#[rustfmt::skip]
const REV_PARSE: &[&str] = &[
    "-q", "--quiet", "--verify", "--short=?", "--abbrev-ref=?", "--symbolic", "--symbolic-full-name", "--show-toplevel", "--git-dir",
    "--git-common-dir", "--absolute-git-dir", "--is-inside-work-tree", "--is-inside-git-dir", "--is-bare-repository",
    "--is-shallow-repository", "--show-prefix", "--show-cdup", "--show-object-format=?", "--path-format=", "--all", "--branches=?",
    "--tags=?", "--remotes=?",
];

#[rustfmt::skip]
const LS_FILES: &[&str] = &[
    "-cdomiskuvftz", "-x=", "-X=", "--cached", "--deleted", "--others", "--modified", "--ignored", "--stage", "--killed", "--unmerged",
    "--exclude=", "--exclude-from=", "--exclude-standard", "--directory", "--no-empty-directory", "--error-unmatch", "--full-name",
    "--abbrev=?", "--eol", "--deduplicate", "--format=",
];

#[rustfmt::skip]
const GREP: &[&str] = &[
    "-aiIhHEGFPnlLzcpwvoWq", "-A=", "-B=", "-C=", "-e=", "-f=", "-m=", "-NUM", "--cached", "--untracked", "--no-index",
    "--exclude-standard", "--no-exclude-standard", "--text", "--ignore-case", "--word-regexp", "--invert-match",
    "--extended-regexp", "--basic-regexp", "--perl-regexp", "--fixed-strings", "--line-number", "--column", "--files-with-matches",
    "--name-only", "--files-without-match", "--null", "--only-matching", "--count", "--color=?", "--no-color", "--break",
    "--heading", "--show-function", "--function-context", "--context=", "--after-context=", "--before-context=", "--all-match",
    "--and", "--or", "--not", "--max-depth=", "--max-count=", "--quiet", "--full-name",
];

const fn anything<'a>(_: &Arguments<'a>) -> Result<(), Objection<'a>> {
    Ok(())
}

/// Operands name what is listed only where an option says that it lists; else they would make a branch or a tag.
fn lists<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    const LISTING: [&str; 7] =
        ["-l", "--list", "--contains", "--no-contains", "--merged", "--no-merged", "--points-at"];
    match read.operands.first() {
        Some(operand) if !read.has(&LISTING) => {
            Err(Objection::Because(operand, "without --list it would be made, not listed"))
        }
        _ => Ok(()),
    }
}

/// `git remote`, `git remote get-url NAME`.
fn names_remotes<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    match read.operands.as_slice() {
        [] | ["get-url", _] => Ok(()),
        [operand, ..] => Err(Objection::Because(
            operand,
            "only get-url NAME may follow; all else changes remotes or calls them",
        )),
    }
}

/// With an option or a word that asks; else two operands would set. (To a git that does not know the words yet they are keys without a dot,
/// which it refuses.)
fn asks<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    const ASKING: [&str; 6] = ["-l", "--list", "--get", "--get-all", "--get-regexp", "--get-urlmatch"];
    match read.operands.as_slice() {
        _ if read.has(&ASKING) => Ok(()),
        ["list"] | ["get", _] => Ok(()),
        [operand, ..] => {
            Err(Objection::Because(operand, "say --get or --list; without it a value could be set"))
        }
        [] => Err(Objection::Because("config", "say --get or --list")),
    }
}

fn lists_worktrees<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    match read.operands.as_slice() {
        ["list"] => Ok(()),
        [operand, ..] => Err(Objection::Because(operand, "only list may be said of worktrees")),
        [] => Err(Objection::Because("worktree", "only list may be said of worktrees")),
    }
}

fn reads_the_reflog<'a>(read: &Arguments<'a>) -> Result<(), Objection<'a>> {
    const CHANGING: [&str; 4] = ["expire", "delete", "drop", "write"];
    match read.operands.iter().find(|operand| CHANGING.contains(operand)) {
        Some(operand) => Err(Objection::Because(operand, "it changes the reflog")),
        None => Ok(()),
    }
}

//! git: the subcommands that only read, made safe against the repository's own configuration.
//!
//! A repository may come from anybody, and its `.git/config` names programs: pagers, hooks, a file-system monitor, external diffs,
//! text conversions, filters, signature checkers. So beyond the options:
//! - the environment sets, with the precedence of `-c`, what would otherwise name a program ([`config`], [`VARIABLES`]);
//! - external diffs, text conversions and submodules can only be turned off by options, which must stand behind the
//!   subcommand: it is replaced by an alias, given by the environment, that is the subcommand with these options;
//! - filters (`filter.NAME.clean`) cannot be turned off at all: the job may hold no more processes than git itself needs, so that
//!   nothing else can be started. Where a host cannot limit processes, filters of a hostile repository run.
//!
//! Measured with git 2.47 on a repository that names a program in every place known to us: see the policy's README.

use crate::options::{self, Arguments, Objection};

use super::git_options::{SUBCOMMANDS, Subcommand};
use super::{NO_TEMPORARY, Terms};

/// Before the subcommand. `-c`, `-C`, `--exec-path`, `--git-dir`, `--work-tree`, `--config-env`, `-p` and the others are left out: they
/// name programs, other repositories or a pager.
const GLOBAL: [&str; 9] = [
    "--no-pager",
    "-P",
    "--no-optional-locks",
    "--no-replace-objects",
    "--literal-pathspecs",
    "--glob-pathspecs",
    "--noglob-pathspecs",
    "--icase-pathspecs",
    "--no-lazy-fetch",
];

/// What the alias of a subcommand is called: this and the subcommand.
const ALIAS: &str = "execgate-";

/// A program that does nothing and fails, by its path, so that no PATH is searched.
const NOTHING: &str = "/bin/false";

/// Set whatever they were.
const VARIABLES: [(&str, &str); 12] = [
    ("GIT_PAGER", "cat"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_ALLOW_PROTOCOL", "none"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_EDITOR", NOTHING),
    ("GIT_ASKPASS", NOTHING),
    ("GIT_SSH_COMMAND", NOTHING),
    // Checking a signature writes it to a temporary file, and a repository's own configuration can ask for that.
    NO_TEMPORARY,
];

/// Configuration with the precedence of `-c`. One thread each, because threads count as processes.
const CONFIG: [(&str, &str); 17] = [
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    // A tree can hold the files of a bare repository, which belong to whoever checked it out: `safe.directory` trusts them.
    ("safe.bareRepository", "explicit"),
    // Else diff locks the index, whatever GIT_OPTIONAL_LOCKS says, and dies of the file size limit.
    ("diff.autoRefreshIndex", "false"),
    ("core.attributesFile", "/dev/null"),
    ("gpg.program", NOTHING),
    ("gpg.openpgp.program", NOTHING),
    ("gpg.x509.program", NOTHING),
    ("gpg.ssh.program", NOTHING),
    ("log.showSignature", "false"),
    // What `-m` means: to merge once more writes objects.
    ("log.diffMerges", "separate"),
    ("diff.submodule", "short"),
    ("status.submoduleSummary", "false"),
    ("core.preloadIndex", "false"),
    ("index.threads", "1"),
    ("grep.threads", "1"),
    ("pack.threads", "1"),
];

/// The terms on which git may run with these arguments.
pub(super) fn judge(arguments: &[String]) -> Result<Terms, Objection<'_>> {
    let global = |argument: &&String| GLOBAL.contains(&argument.as_str());
    let at = arguments.iter().take_while(global).count();
    let Some((name, rest)) = arguments.get(at..).and_then(<[String]>::split_first) else {
        return Err(Objection::Because("git", "it has no subcommand"));
    };
    if rest.is_empty() && matches!(name.as_str(), "--version" | "-v" | "version") {
        return Ok(terms(None));
    }
    let plain = name.strip_prefix(ALIAS).unwrap_or(name);
    let subcommand = SUBCOMMANDS.iter().find(|known| known.name == plain).ok_or_else(|| refused(name))?;
    if plain != name && subcommand.alias.is_none() {
        return Err(refused(name));
    }
    let read = read(subcommand, rest)?;
    (subcommand.judge)(&read)?;
    let place = u32::try_from(at + 1).unwrap_or(u32::MAX);
    Ok(terms(subcommand.alias.map(|alias| (place, plain, alias))))
}

fn read<'a>(subcommand: &Subcommand, rest: &'a [String]) -> Result<Arguments<'a>, Objection<'a>> {
    let allowed: Vec<&str> = subcommand.options.iter().flat_map(|list| list.iter().copied()).collect();
    let read = options::read(&allowed, rest)?;
    let signed = |(name, value): &(String, Option<&'a str>)| {
        let formats = matches!(name.as_str(), "--format" | "--pretty" | "--sort");
        value.filter(|value| formats && (names_signature(value) || value.contains("signature")))
    };
    // `remerge` and whatever else may come to write.
    #[rustfmt::skip]
    const DIFFS: [&str; 11] =
        ["off", "none", "on", "m", "1", "first-parent", "separate", "c", "combined", "cc", "dense-combined"];
    let merged = |(name, value): &(String, Option<&'a str>)| {
        value.filter(|value| name == "--diff-merges" && !DIFFS.contains(value))
    };
    if let Some(format) = read.options.iter().find_map(signed) {
        return Err(Objection::Because(format, "checking signatures runs another program"));
    }
    match read.options.iter().find_map(merged) {
        Some(how) => Err(Objection::Because(how, "merging once more writes objects")),
        None => Ok(read),
    }
}

/// `%G?` and its kin, also as `%+G?`, `%-G?` and `% G?`.
fn names_signature(format: &str) -> bool {
    format.split('%').skip(1).any(|rest| rest.trim_start_matches(['+', '-', ' ']).starts_with('G'))
}

fn refused(name: &str) -> Objection<'_> {
    if name == "-C" {
        let why = "the repository is that of the job's working directory";
        return Objection::Instead(name, why, "start the job there: cwd of job.start, -C of execgate exec");
    }
    if name.starts_with('-') {
        return Objection::Because(name, "before the subcommand only --no-pager and its like may stand");
    }
    Objection::Because(name, "it is not one of git's subcommands that only read")
}

/// The environment, and an alias in place of the subcommand.
fn terms(alias: Option<(u32, &str, &str)>) -> Terms {
    let mut config: Vec<(String, String)> =
        CONFIG.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    // git runs an alias as a process of its own.
    let processes = if alias.is_some() { 2 } else { 1 };
    let argument = alias.map(|(at, name, expansion)| {
        config.push((format!("alias.{ALIAS}{name}"), expansion.to_owned()));
        (at, format!("{ALIAS}{name}"))
    });
    let mut env: Vec<(String, String)> =
        VARIABLES.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env.push(("GIT_CONFIG_COUNT".to_owned(), config.len().to_string()));
    for (at, (key, value)) in config.into_iter().enumerate() {
        env.push((format!("GIT_CONFIG_KEY_{at}"), key));
        env.push((format!("GIT_CONFIG_VALUE_{at}"), value));
    }
    Terms { processes: Some(processes), argument, env }
}

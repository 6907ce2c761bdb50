//! What can be typed after `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::{From, Target};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyCommand {
    /// Write a new policy that builds and passes its tests at once
    New(New),
    /// Build a policy: a component, ready to be named in the configuration
    Build(Build),
    /// Load every policy as the server would, and run their tests
    Check(Check),
    /// Say what a module is
    Inspect(Inspect),
    /// Run tables of cases
    Test(Test),
    /// Measure decisions
    Bench(Bench),
    /// Say what would be decided about a command, rule by rule
    Explain(Explain),
    /// Decide a recorded log anew, and say what would have been decided differently
    Replay(Replay),
}

/// The hook that a new policy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum HookName {
    /// May this command run?
    Command,
    /// May this session be opened?
    Session,
    /// What does this call cost?
    Rate,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Its name, also that of its folder: lower-case letters, digits and hyphens
    pub(super) name: String,
    /// What it decides about
    #[arg(long, value_enum, default_value = "command")]
    pub(super) hook: HookName,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// The policy's folder
    #[arg(default_value = ".")]
    pub(super) folder: PathBuf,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    pub(super) from: From,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// A .wasm file, or builtin:NAME
    pub(super) module: String,
    /// Print the schema of its settings only
    #[arg(long, conflicts_with = "json")]
    pub(super) schema: bool,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    pub(super) from: From,
    /// Tables of cases [default: tests/*.toml]
    pub(super) tables: Vec<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(super) filter: Option<String>,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// Every case and every rule that was named, not only what went wrong
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    pub(super) from: From,
    /// Tables of cases [default: tests/*.toml]
    pub(super) tables: Vec<PathBuf>,
    /// How long to measure each table
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(super) time: std::time::Duration,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    pub(super) from: From,
    #[command(flatten)]
    pub(super) target: Target,
    /// Ask the gateway that runs, as whoever the token says, instead of the configuration
    #[arg(long, conflicts_with_all = ["config", "set", "tenant", "subject", "group"])]
    pub(super) live: bool,
    /// For whom
    #[arg(long, default_value = "local")]
    pub(super) tenant: String,
    /// For whom
    #[arg(long, default_value = "somebody")]
    pub(super) subject: String,
    /// A group of his; may be given more than once
    #[arg(long)]
    pub(super) group: Vec<String>,
    /// Working directory
    #[arg(short = 'C', long, value_name = "DIRECTORY")]
    pub(super) cwd: Option<String>,
    /// With a terminal
    #[arg(short = 't', long)]
    pub(super) pty: bool,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    pub(super) from: From,
    /// The decision log, rotated files included
    #[arg(long, value_name = "FILE")]
    pub(super) log: PathBuf,
    /// Most differences to print; all are counted
    #[arg(long, default_value_t = 20)]
    pub(super) limit: usize,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::policy::PolicyCommand;

/// Runs commands for others, under policy, contained.
#[derive(Debug, Parser)]
#[command(
    name = "execgate",
    version,
    about = "A gateway that runs commands for other people's programs and users",
    after_help = "Exit codes: exec, shell and attach pass on the command's code, and 128 + n when signal n ended it. Else: 0 done, \
                  1 failed, 2 wrong usage, 69 gateway not reachable, 75 try again later, 77 refused, 126 the program cannot be \
                  executed, 127 there is no such program."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway; needs no configuration on loopback
    Serve(Serve),
    /// Run a command through a gateway; its exit code is the command's
    Exec(Exec),
    /// Open an interactive shell through a gateway
    Shell(Shell),
    /// Follow a running job; write to it when its session is yours and free
    Attach(Attach),
    /// List jobs
    Ps(Ps),
    /// End a job and everything it started
    Kill(Kill),
    /// Pause a job
    Pause(Job),
    /// Let a paused job run on
    Resume(Job),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write, test and look at policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Look at the decision log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say what this host can promise, and why not more
    Doctor(Doctor),
    /// Print completions for a shell: execgate completions bash > /etc/bash_completion.d/execgate
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Where configuration comes from.
#[derive(Debug, Args)]
pub(super) struct From {
    /// A configuration file, on top of the system's; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(super) config: Vec<PathBuf>,
    /// Sets one key, on top of everything: --set limits.jobs=10
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) from: From,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<SocketAddr>,
}

/// Which gateway.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The gateway's URL [default: $EXECGATE_URL, else http://127.0.0.1:7171]
    #[arg(long)]
    pub(super) url: Option<String>,
    /// A file that holds the token [default: the token $EXECGATE_TOKEN, else the file $EXECGATE_TOKEN_FILE, else none with
    /// --cert, else the file that `serve` made]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificates to trust besides the system's, PEM [default: $EXECGATE_CA]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// A certificate to show, PEM, for gateways with `server.tls.client_ca` [default: $EXECGATE_CERT]
    #[arg(long, value_name = "FILE")]
    pub(super) cert: Option<PathBuf>,
    /// The key of --cert, PEM [default: $EXECGATE_KEY]
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
}

impl Target {
    /// Whether any of it was typed.
    pub(super) const fn is_typed(&self) -> bool {
        self.url.is_some()
            || self.token_file.is_some()
            || self.ca.is_some()
            || self.cert.is_some()
            || self.key.is_some()
    }
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    pub(super) target: Target,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub(super) pty: bool,
    /// Run it through a gateway within this process; no server is needed
    #[arg(long, conflicts_with_all = ["url", "token_file", "ca", "cert", "key"])]
    pub(super) local: bool,
    /// Set a variable; may be given more than once
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub(super) env: Vec<(String, String)>,
    /// Working directory
    #[arg(short = 'C', long, value_name = "DIRECTORY")]
    pub(super) cwd: Option<String>,
    /// End it after this long, e.g. 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<std::time::Duration>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Shell {
    #[command(flatten)]
    pub(super) target: Target,
    /// Run it through a gateway within this process; no server is needed
    #[arg(long, conflicts_with_all = ["url", "token_file", "ca", "cert", "key"])]
    pub(super) local: bool,
    /// Working directory
    #[arg(short = 'C', long, value_name = "DIRECTORY")]
    pub(super) cwd: Option<String>,
    /// Which shell [default: bash, else sh]
    pub(super) program: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Attach {
    #[command(flatten)]
    pub(super) target: Target,
    /// Take the session over from the connection that owns it
    #[arg(long, conflicts_with = "observe")]
    pub(super) takeover: bool,
    /// Only look, whoever owns it
    #[arg(long)]
    pub(super) observe: bool,
    /// The job's id, as `ps` shows it
    pub(super) job: String,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[command(flatten)]
    pub(super) target: Target,
    /// Ended jobs too
    #[arg(short, long)]
    pub(super) all: bool,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    #[command(flatten)]
    pub(super) target: Target,
    /// Send SIGTERM first, and KILL after this long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) grace: Option<std::time::Duration>,
    /// The job's id, as `ps` shows it
    pub(super) job: String,
}

#[derive(Debug, Args)]
pub(super) struct Job {
    #[command(flatten)]
    pub(super) target: Target,
    /// The job's id, as `ps` shows it
    pub(super) job: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check everything, policies included
    Check(From),
    /// Print the JSON Schema of configuration files, for editors
    Schema,
    /// Show every value and where it comes from
    Show {
        #[command(flatten)]
        from: From,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Prove that no line was changed, or name the first that was
    Verify(Verify),
    /// Print decisions
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The decision log; older files beside it belong to it
    pub(super) file: PathBuf,
    /// The hash of a line that was noted elsewhere: prove that it is there still
    #[arg(long, value_name = "HASH")]
    pub(super) head: Option<String>,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The decision log; older files beside it belong to it
    pub(super) file: PathBuf,
    /// Only of this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Only of this subject
    #[arg(long)]
    pub(super) subject: Option<String>,
    /// Only this decision
    #[arg(long)]
    pub(super) decision: Option<String>,
    /// Only what came out so: allow, deny, changed, failed
    #[arg(long)]
    pub(super) outcome: Option<String>,
    /// Only the last so many; 0: all
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(super) last: usize,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    pub(super) from: From,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("must be KEY=VALUE".to_owned()),
    }
}

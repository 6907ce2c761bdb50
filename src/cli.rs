//! The command line: one command a file. Human output to a terminal, `--json` for programs, documented exit codes.
//!
//! Exit codes: what the job's own was for `exec`, 128 + n when signal n ended it; else 0 done, 1 failed, 2 wrong usage, 69 the
//! gateway is not reachable, 75 try again later, 77 refused (sysexits.h), 126 the program cannot be executed, 127 there is no
//! such program (as shells say it).

mod args;
mod attach;
mod audit;
mod client;
mod config;
mod daemons;
mod doctor;
mod exec;
mod follow;
mod jobs;
mod local;
mod output;
mod policy;
mod serve;
mod stdio;
mod target;
mod terminal;
mod tls;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Arguments, Command};
use output::{Trouble, say};

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Exec(exec) => exec::run(&exec),
        Command::Shell(shell) => exec::shell(&shell),
        Command::Attach(attach) => attach::run(&attach),
        Command::Ps(ps) => jobs::ps(&ps),
        Command::Kill(kill) => jobs::kill(&kill),
        Command::Pause(job) => jobs::pause(&job, "job.pause"),
        Command::Resume(job) => jobs::pause(&job, "job.resume"),
        Command::Config(command) => config::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Completions { shell } => {
            // Into memory first: the generator panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "execgate", &mut script);
            say(String::from_utf8_lossy(&script).trim_end()).map(|()| ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|trouble: Trouble| trouble.report())
}

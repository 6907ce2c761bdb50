//! `policy …`: what a security team lives in. One command a file.

mod ask;
mod bench;
mod build;
mod check;
mod explain;
mod inspect;
mod new;
mod options;
mod replay;
mod test;

pub(super) use options::PolicyCommand;

use std::process::ExitCode;

use super::output::Trouble;

pub(super) fn run(command: &PolicyCommand) -> Result<ExitCode, Trouble> {
    match command {
        PolicyCommand::New(args) => new::run(args),
        PolicyCommand::Build(args) => build::run(args),
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Inspect(args) => inspect::run(args),
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Bench(args) => bench::run(args),
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Replay(args) => replay::run(args),
    }
}

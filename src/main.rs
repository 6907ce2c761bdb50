//! Parses arguments and hands over.

use std::process::ExitCode;

use execgate::{cli, warden};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == warden::PROBE_NAME) {
        return warden::answer_probe();
    }
    if arguments.next().is_some_and(|first| first == warden::WARDEN_ARGUMENT) {
        return warden::main();
    }
    cli::run()
}

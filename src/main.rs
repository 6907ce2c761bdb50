//! Parses arguments and hands over.

use std::process::ExitCode;

use execgate::warden;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    if name.is_some_and(|name| name == warden::PROBE_NAME) {
        return warden::answer_probe();
    }
    if arguments.next().is_some_and(|first| first == warden::WARDEN_ARGUMENT) {
        return warden::main();
    }
    ExitCode::FAILURE
}

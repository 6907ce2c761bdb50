//! What a test needs of the host it runs on.

use std::io::Write as _;
use std::panic::Location;

/// Whether the host has what a test needs. Where it has not, the test passes without having shown anything: that is told past the
/// harness, which keeps to itself what a test that passes has printed; and with `FULL_TESTS=1` it is a failure.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "how a test is told that the host has everything")]
pub fn needs(has: bool, what: &str) -> bool {
    if !has {
        let note = format!("NOTE: NOT SHOWN HERE, {}: {what}\n", Location::caller());
        assert_ne!(std::env::var_os("FULL_TESTS"), Some("1".into()), "{note}");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    has
}

/// The same for what takes root.
#[track_caller]
pub fn needs_root() -> bool {
    needs(nix::unistd::geteuid().is_root(), "it takes root")
}

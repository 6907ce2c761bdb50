//! Lines for the operator's log: the one thing a policy may do besides answering.

pub use crate::bindings::known::execgate::policy::log::Level;

/// Writes a line to the operator's log. The host cuts it at 1 KiB and keeps 16 lines a call. Outside of WebAssembly, in tests,
/// it goes to standard output.
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::known::execgate::policy::log::log(level, message);
    #[cfg(not(target_family = "wasm"))]
    println!("{level:?}: {message}");
}

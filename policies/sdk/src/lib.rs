//! Write policies for execgate in Rust.
//!
//! A policy is a pure function of its settings and of what the host tells it. Make the bindings of the world you implement
//! with [`world!`], implement its `Guest` traits for a unit struct, and export it:
//!
//! ```ignore
//! mod wit {
//!     execgate_policy_sdk::world!("command-policy", "../../wit");
//! }
//! struct Policy;
//! // impl wit::exports::execgate::policy::plugin::Guest for Policy { … }
//! // impl wit::exports::execgate::policy::command::Guest for Policy { … }
//! #[cfg(target_family = "wasm")]
//! wit::export!(Policy with_types_in wit);
//! ```
//! Worlds: `command-policy`, `session-policy`, `rate-policy`, and `policy` for all three. Keep settings in a [`Configured`]; the host
//! snapshots the policy after `configure`, so every decision finds them ready.

mod settings;

pub use settings::{Configured, Problem, read};
pub use wit_bindgen;

/// Makes the bindings of a world; the second argument is the folder of the interface files, from the crate's own folder.
#[macro_export]
macro_rules! world {
    ($world:literal, $path:literal) => {
        $crate::wit_bindgen::generate!({
            world: $world,
            path: $path,
            runtime_path: "::execgate_policy_sdk::wit_bindgen::rt",
        });
    };
}

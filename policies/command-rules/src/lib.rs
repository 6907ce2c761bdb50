//! command-rules: which commands may run.
//!
//! Rules are looked at in order and the first that matches decides; what none matches is denied. A preset adds rules after
//! them. Settings:
//! ```json
//! {"preset": "read-only",
//!  "rules": [{"id": "deploy", "effect": "allow", "groups": ["ops"], "programs": ["systemctl"], "args": [["restart", "web-*"]]}]}
//! ```

mod policy;
mod presets;
mod rules;

#[cfg(target_family = "wasm")]
use policy::Policy;

#[allow(missing_docs, reason = "generated from the interface files, which document it")]
mod wit {
    execgate_policy_sdk::world!("command-policy", "../../wit");
}

#[cfg(target_family = "wasm")]
wit::export!(Policy with_types_in wit);

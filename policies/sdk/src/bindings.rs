//! Bindings of the interface files, one part an interface, so that a policy exports the hooks it has and no others.
//!
//! Each part is a world of its own; where a guest takes several, their descriptions are merged when it is made a component.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated from the interface files, which document it"
)]

/// What policies share, and the log.
pub mod known {
    wit_bindgen::generate!({
        inline: "package execgate:sdk; world known { import execgate:policy/types@1.0.0; import execgate:policy/log@1.0.0; }",
        path: "../../wit",
        world: "execgate:sdk/known",
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq],
        pub_export_macro: true,
        runtime_path: "::execgate_policy_sdk::bindings::rt",
    });
}

macro_rules! part {
    ($name:ident, $wit:literal, $world:literal, $export:literal, $module:literal) => {
        pub mod $name {
            wit_bindgen::generate!({
                inline: $wit,
                path: "../../wit",
                world: $world,
                with: {
                    "execgate:policy/types@1.0.0": crate::bindings::known::execgate::policy::types,
                },
                generate_all,
        generate_unused_types: true,
                additional_derives: [PartialEq],
                pub_export_macro: true,
                export_macro_name: $export,
                default_bindings_module: $module,
                runtime_path: "::execgate_policy_sdk::bindings::rt",
            });
        }
    };
}

part!(
    plugin,
    "package execgate:sdk; world plugin-part { export execgate:policy/plugin@1.0.0; }",
    "execgate:sdk/plugin-part",
    "export_plugin",
    "execgate_policy_sdk::bindings::plugin"
);
part!(
    command,
    "package execgate:sdk; world command-part { export execgate:policy/command@1.0.0; }",
    "execgate:sdk/command-part",
    "export_command",
    "execgate_policy_sdk::bindings::command"
);
part!(
    session,
    "package execgate:sdk; world session-part { export execgate:policy/session@1.0.0; }",
    "execgate:sdk/session-part",
    "export_session",
    "execgate_policy_sdk::bindings::session"
);
part!(
    rate,
    "package execgate:sdk; world rate-part { export execgate:policy/rate@1.0.0; }",
    "execgate:sdk/rate-part",
    "export_rate",
    "execgate_policy_sdk::bindings::rate"
);

pub use wit_bindgen::rt;

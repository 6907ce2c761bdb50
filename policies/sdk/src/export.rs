//! Makes a policy what the host asks for.

use crate::bindings::plugin::exports::execgate::policy::plugin::Description;
use crate::policy::Policy;
use crate::settings::{Configured, read};
use crate::types::SettingError;
use crate::{Level, log, setting_error};

/// Exports a policy with the hooks it implements: `export!(Mine: command)`, `export!(Mine: command, session, rate)`.
#[macro_export]
macro_rules! export {
    ($policy:ident : $($hook:ident),+ $(,)?) => {
        #[allow(unsafe_code, reason = "what the host calls has fixed names")]
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::plugin::exports::execgate::policy::plugin;

            static SETTINGS: $crate::Configured<<$policy as $crate::Policy>::Settings> = $crate::Configured::new();

            struct Exported;

            impl plugin::Guest for Exported {
                fn describe() -> plugin::Description {
                    $crate::describe::<$policy>()
                }

                fn configure(settings: String) -> Result<(), Vec<$crate::types::SettingError>> {
                    $crate::configure::<$policy>(&SETTINGS, &settings)
                }
            }

            $crate::bindings::plugin::export_plugin!(Exported with_types_in $crate::bindings::plugin);
            $( $crate::export!(@ $hook $policy Exported SETTINGS); )+
        };
    };
    (@ command $policy:ident $exported:ident $settings:ident) => {
        impl $crate::bindings::command::exports::execgate::policy::command::Guest for $exported {
            fn review(request: $crate::types::CommandRequest) -> $crate::types::CommandVerdict {
                match $settings.get() {
                    Some(settings) => <$policy as $crate::CommandPolicy>::review(settings, &request),
                    None => $crate::types::CommandVerdict::Abstain,
                }
            }
        }
        $crate::bindings::command::export_command!($exported with_types_in $crate::bindings::command);
    };
    (@ session $policy:ident $exported:ident $settings:ident) => {
        impl $crate::bindings::session::exports::execgate::policy::session::Guest for $exported {
            fn admit(request: $crate::types::SessionRequest) -> $crate::types::SessionVerdict {
                match $settings.get() {
                    Some(settings) => <$policy as $crate::SessionPolicy>::admit(settings, &request),
                    None => $crate::types::SessionVerdict::Abstain,
                }
            }
        }
        $crate::bindings::session::export_session!($exported with_types_in $crate::bindings::session);
    };
    (@ rate $policy:ident $exported:ident $settings:ident) => {
        impl $crate::bindings::rate::exports::execgate::policy::rate::Guest for $exported {
            fn charge_for(
                call: $crate::types::Call,
            ) -> Result<Vec<$crate::types::Charge>, $crate::types::Denial> {
                match $settings.get() {
                    Some(settings) => <$policy as $crate::RatePolicy>::charge_for(settings, &call),
                    None => Err($crate::types::Denial::new("sdk", "not_configured", "the policy was not configured")),
                }
            }
        }
        $crate::bindings::rate::export_rate!($exported with_types_in $crate::bindings::rate);
    };
}

/// What the policy says of itself.
pub fn describe<P: Policy>() -> Description {
    Description {
        name: P::NAME.to_owned(),
        version: P::VERSION.to_owned(),
        summary: P::SUMMARY.to_owned(),
        settings_schema: P::SCHEMA.to_owned(),
    }
}

/// Reads, checks and keeps the settings.
///
/// # Errors
/// What is wrong with them: the first thing that cannot be read, or all that do not make sense.
pub fn configure<P: Policy>(place: &Configured<P::Settings>, json: &str) -> Result<(), Vec<SettingError>> {
    let settings = prepare::<P>(json)?;
    for warning in P::warnings(&settings) {
        log(Level::Warn, &warning);
    }
    place.set(settings);
    Ok(())
}

/// Reads and checks settings.
pub(crate) fn prepare<P: Policy>(json: &str) -> Result<P::Settings, Vec<SettingError>> {
    let settings: P::Settings =
        read(json).map_err(|problem| vec![setting_error(problem.path, problem.message)])?;
    let errors = P::check(&settings);
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

//! working-hours: nothing is opened and nothing is started outside of the hours that are allowed.
//!
//! It only ever refuses: within the hours it abstains, and other policies decide. The time is a fact of the request, in the zone
//! that the operator configured for the gateway; a policy reads no clock, so a decision can be replayed.

use execgate_policy_sdk::prelude::*;

/// Settings of working-hours.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The zone the hours are meant in. A gateway that is configured for another zone is refused everything.
    zone: String,
    /// The hours; none at all: never.
    hours: Vec<Hours>,
    /// Members of one of these groups may work at any time.
    #[serde(default)]
    except_groups: Vec<String>,
}

/// Some hours of some days.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Hours {
    /// 1 is Monday, 7 is Sunday.
    days: Vec<u8>,
    /// The first minute, as `HH:MM`.
    from: Minute,
    /// The first minute after, as `HH:MM`; `24:00` is the end of the day. Hours over midnight are two entries.
    to: Minute,
}

/// Minutes since midnight, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Minute(u16);

#[cfg(not(target_family = "wasm"))]
impl schemars::JsonSchema for Minute {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Minute".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$" })
    }
}

impl TryFrom<String> for Minute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time of day; write 09:00");
        let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
        let part = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse::<u16>().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let (hour, minute) = (part(hour)?, part(minute)?);
        if minute < 60 && (hour < 24 || (hour, minute) == (24, 0)) {
            Ok(Self(hour * 60 + minute))
        } else {
            Err(wrong())
        }
    }
}

/// The policy.
#[derive(Debug)]
pub struct WorkingHours;

impl Policy for WorkingHours {
    type Settings = Settings;
    const NAME: &'static str = "working-hours";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "nothing outside of working hours";
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn check(settings: &Settings) -> Vec<SettingError> {
        let mut errors = Vec::new();
        for (at, hours) in settings.hours.iter().enumerate() {
            if hours.days.is_empty() || hours.days.iter().any(|day| !(1..=7).contains(day)) {
                errors.push(setting_error(format!("hours[{at}].days"), "some of 1 (Monday) to 7 (Sunday)"));
            }
            if hours.from >= hours.to {
                errors.push(setting_error(
                    format!("hours[{at}].to"),
                    "must be later than from; hours over midnight are two entries",
                ));
            }
        }
        errors
    }
}

impl CommandPolicy for WorkingHours {
    fn review(settings: &Settings, request: &CommandRequest) -> CommandVerdict {
        match settings.objection(&request.principal, &request.when) {
            Some(denial) => CommandVerdict::Deny(denial),
            None => CommandVerdict::Abstain,
        }
    }
}

impl SessionPolicy for WorkingHours {
    fn admit(settings: &Settings, request: &SessionRequest) -> SessionVerdict {
        match settings.objection(&request.principal, &request.when) {
            Some(denial) => SessionVerdict::Deny(denial),
            None => SessionVerdict::Abstain,
        }
    }
}

execgate_policy_sdk::export!(WorkingHours: command, session);

impl Settings {
    fn objection(&self, who: &Principal, when: &When) -> Option<Denial> {
        if who.groups.iter().any(|group| self.except_groups.contains(group)) {
            return None;
        }
        if when.zone != self.zone {
            let message = format!(
                "the hours are meant in {:?}, the gateway tells the time of {:?}",
                self.zone, when.zone
            );
            return Some(
                Denial::new("hours.zone", "other_zone", message)
                    .remedy("have the operator set one zone in both"),
            );
        }
        let now = Minute(when.minute_of_day);
        let open = |hours: &Hours| hours.days.contains(&when.weekday) && hours.from <= now && now < hours.to;
        if self.hours.iter().any(open) {
            return None;
        }
        let message = format!(
            "it is {:02}:{:02} of day {}, outside of working hours",
            now.0 / 60,
            now.0 % 60,
            when.weekday
        );
        Some(Denial::new("hours", "outside_hours", message).remedy(self.next()))
    }

    fn next(&self) -> String {
        let written = |hours: &Hours| {
            let days: Vec<_> = hours.days.iter().map(ToString::to_string).collect();
            let (from, to) = (hours.from.0, hours.to.0);
            format!(
                "days {} from {:02}:{:02} to {:02}:{:02}",
                days.join(","),
                from / 60,
                from % 60,
                to / 60,
                to % 60
            )
        };
        let hours: Vec<_> = self.hours.iter().map(written).collect();
        format!("come back within the hours (1 is Monday): {}", hours.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use execgate_policy_sdk::harness::{self, Tables};

    #[test]
    fn the_schema_is_the_settings() {
        harness::schema::<WorkingHours>(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.json"));
    }

    #[test]
    fn tables() {
        Tables::<WorkingHours>::of(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).command().session().run();
    }

    #[test]
    fn times_that_are_none_are_refused_by_path() {
        for time in ["9:00", "24:01", "12:60", "25:00", "noon", "+1:00", ""] {
            let json = format!(r#"{{"zone":"UTC","hours":[{{"days":[1],"from":{time:?},"to":"17:00"}}]}}"#);
            let errors = harness::settings::<WorkingHours>(&json).unwrap_err();
            assert!(errors[0].path.starts_with("hours[0]"), "{time}: {errors:?}");
        }
        let json = r#"{"zone":"UTC","hours":[{"days":[0],"from":"22:00","to":"06:00"}]}"#;
        assert_eq!(harness::settings::<WorkingHours>(json).unwrap_err().len(), 2);
    }
}

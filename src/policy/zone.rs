//! The time that policies are told, in the zone the operator chose. Guests have no clock.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::domain::When;

use super::load::PolicyFault;

/// A zone by its name.
pub(super) struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

impl Zone {
    /// # Errors
    /// [`PolicyFault::NoZone`] for a name that this host has no data of.
    pub(super) fn new(name: &str) -> Result<Self, PolicyFault> {
        let zone = match name {
            "UTC" => TimeZone::UTC,
            _ => TimeZone::get(name).map_err(|_| PolicyFault::NoZone(name.to_owned()))?,
        };
        Ok(Self { name: name.into(), zone })
    }

    pub(super) fn now(&self) -> When {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.at(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn at(&self, unix_ms: u64) -> When {
        let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let local = timestamp.unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(self.zone.clone());
        let part = |value: i8| u16::try_from(value).unwrap_or(0);
        When {
            unix_ms,
            weekday: u8::try_from(local.weekday().to_monday_one_offset()).unwrap_or(1),
            minute_of_day: part(local.hour()) * 60 + part(local.minute()),
            zone: self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_moment_is_another_hour_elsewhere() {
        // 2026-03-29T01:30:00Z, half an hour after Berlin went from +1 to +2. A Sunday.
        let moment = 1_774_747_800_000;
        let utc = Zone::new("UTC").unwrap().at(moment);
        assert_eq!((utc.weekday, utc.minute_of_day, &*utc.zone), (7, 90, "UTC"));
        match Zone::new("Europe/Berlin") {
            Ok(berlin) => assert_eq!(berlin.at(moment).minute_of_day, 210),
            Err(_) => eprintln!("NOTE: this host has no time zone data"),
        }
        assert!(Zone::new("Atlantis/Capital").is_err());
    }
}

//! Durations and sizes with units, and limits that can be unlimited by a word.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration with its unit: `"30s"`, `"10ms"`, `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Time(pub Duration);

/// A number of bytes with its unit: `"64KiB"`, `"1MiB"`, `"512B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct Size(pub u64);

/// A limit, or the word `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap<T> {
    /// No limit.
    Unlimited,
    /// At most this.
    At(T),
}

impl<T> Cap<T> {
    /// The limit, where there is one.
    pub fn limit(self) -> Option<T> {
        match self {
            Self::Unlimited => None,
            Self::At(limit) => Some(limit),
        }
    }
}

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        let digits = text.strip_suffix(unit)?.trim_end();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u64>().ok()?.checked_mul(*factor).map(Self)
    }

    /// As `usize`; what does not fit is the largest that does.
    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = fits.unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

/// The longest duration: added to any clock it must not overflow, and no server is up for longer.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = with_unit(deserializer, "a duration with its unit, such as \"30s\"")?;
        let time = humantime::parse_duration(&text).map_err(|e| {
            D::Error::custom(format!(
                "{text:?} is no duration ({e}); write it with its unit, such as \"30s\""
            ))
        })?;
        if time > LONGEST {
            return Err(D::Error::custom(format!("{text:?} is too long; at most \"3650days\"")));
        }
        Ok(Self(time))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = with_unit(deserializer, "a size with its unit, such as \"64KiB\"")?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no size; write it in B, KiB, MiB or GiB, such as \"64KiB\""
            ))
        })
    }
}

/// A string; a bare number is the mistake to explain.
fn with_unit<'de, D: Deserializer<'de>>(deserializer: D, expected: &str) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Integer(i64),
        Float(f64),
    }
    match Written::deserialize(deserializer) {
        Ok(Written::Text(text)) => Ok(text),
        Ok(Written::Integer(n)) => Err(D::Error::custom(format!("{n} has no unit; write {expected}"))),
        Ok(Written::Float(n)) => Err(D::Error::custom(format!("{n} has no unit; write {expected}"))),
        Err(_) => Err(D::Error::custom(format!("write {expected}"))),
    }
}

impl schemars::JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "examples": ["30s", "10ms", "1h 30m"]})
    }
}

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB)$"})
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Cap<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Cap_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let limit = generator.subschema_for::<T>();
        schemars::json_schema!({"anyOf": [limit, {"const": "unlimited"}]})
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Cap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <figment::value::Value as Deserialize>::deserialize(deserializer)?;
        if value.as_str() == Some("unlimited") {
            return Ok(Self::Unlimited);
        }
        value.deserialize().map(Self::At).map_err(|e: figment::Error| D::Error::custom(e.kind))
    }
}

impl<T: Serialize> Serialize for Cap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unlimited => serializer.serialize_str("unlimited"),
            Self::At(limit) => limit.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_units() {
        assert_eq!(Size::parse("64KiB"), Some(Size(65_536)));
        assert_eq!(Size::parse("0B"), Some(Size(0)));
        for text in ["64", "64KB", "-1KiB", "1.5MiB", "KiB", "99999999999999GiB", "1 k"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_is_written() {
        for text in ["64KiB", "1MiB", "1000B", "0B", "3GiB"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
    }
}

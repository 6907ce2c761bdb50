//! JSON within bounds, read strictly (RFC 8259).
//!
//! serde_json alone would let duplicate keys pass (the last wins), build a tree forty times the size of its text, and
//! turn a long integer into a float. Here depth and number of values are counted while reading, before anything is
//! built for them (the depth allowed is below serde_json's own limit); a key seen twice is an error of its own.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Limits;

/// Why a text was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It is not JSON, or too deep, or too many values.
    Syntax(String),
    /// It is JSON with a key twice in one object.
    DuplicateKey(String),
}

/// Reads one JSON value and nothing after it.
pub(super) fn read(text: &str, limits: &Limits) -> Result<Value, NotTaken> {
    let budget = Budget { nodes: Cell::new(limits.nodes), duplicate: Cell::new(None) };
    let mut reader = serde_json::Deserializer::from_str(text);
    let node = Node { budget: &budget, depth: limits.depth };
    let read = node.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match (read, budget.duplicate.take()) {
        (Ok(value), _) => Ok(value),
        (Err(_), Some(key)) => Err(NotTaken::DuplicateKey(key)),
        (Err(error), None) => Err(NotTaken::Syntax(error.to_string())),
    }
}

struct Budget {
    nodes: Cell<usize>,
    duplicate: Cell<Option<String>>,
}

#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { depth, ..self })
    }

    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.budget.nodes.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.budget.nodes.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.count()?;
            if map.contains_key(&key) {
                self.budget.duplicate.set(Some(key));
                return Err(A::Error::custom("duplicate key"));
            }
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> bool {
        read(text, &Limits::default()).is_ok()
    }

    #[test]
    fn what_rfc_8259_accepts_is_taken() {
        for text in [
            "{}",
            "[]",
            " [] ",
            "0",
            "-0",
            "1e5",
            "1E+2",
            "-1.5",
            "\"\"",
            "\"\\u00e9\"",
            "\"\\ud83d\\ude00\"",
            "\"\\/\"",
            "null",
            "true",
            "[1,2]",
            "{\"a\":{\"b\":[]}}",
            "\"\u{7f}\"",
            "[\"\u{2028}\"]",
            "\t\r\n 1",
            "{\"\":0}",
            "\"\\u0000\"",
        ] {
            assert!(taken(text), "{text:?}");
        }
    }

    #[test]
    fn what_rfc_8259_refuses_is_refused() {
        for text in [
            "",
            " ",
            "\u{feff}{}",
            "{} {}",
            "{}x",
            "[1,]",
            "[,1]",
            "{\"a\":}",
            "{\"a\" 1}",
            "{a:1}",
            "{'a':1}",
            "[1",
            "]",
            "01",
            "+1",
            ".5",
            "1.",
            "0x1",
            "1e",
            "NaN",
            "Infinity",
            "-",
            "\"\\x\"",
            "\"\n\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\u12\"",
            "tru",
            "nul",
            "[1 2]",
            "{\"a\":1,}",
            "\0",
            "[]\0",
            "/* */1",
            "//\n1",
            "1e400",
            "-1e400",
            "\"",
        ] {
            assert!(matches!(read(text, &Limits::default()), Err(NotTaken::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn text_is_taken_as_it_is_written() {
        for (text, expected) in [
            (r#""\u0041\u00e4\u20ac\ud83d\ude00""#, "A\u{e4}\u{20ac}\u{1f600}"),
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            ("\"\u{7f}\u{80}\u{feff}\u{fffe}\u{10ffff}\"", "\u{7f}\u{80}\u{feff}\u{fffe}\u{10ffff}"),
            (r#""\u0000""#, "\0"),
            (r#""\uFfFf""#, "\u{ffff}"),
        ] {
            assert_eq!(read(text, &Limits::default()), Ok(Value::from(expected)), "{text}");
        }
        for text in [
            r#""\ud800\ud800""#,
            r#""\ude00\ud83d""#,
            r#""\ud83dx""#,
            r#""\ud83d\n""#,
            r#""\u{41}""#,
            r#""\u00G0""#,
            r#""\x41""#,
            r#""\U0041""#,
            r#""\'""#,
            r#""\"#,
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\r\n\"",
        ] {
            assert!(!taken(text), "{text}");
        }
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        for (text, expected) in [
            ("18446744073709551615", Value::from(u64::MAX)),
            ("-9223372036854775808", Value::from(i64::MIN)),
            ("-1", Value::from(-1)),
            ("0", Value::from(0)),
        ] {
            assert_eq!(read(text, &Limits::default()), Ok(expected), "{text}");
        }
        // Beyond 64 bits it is a number still, and none that any parameter takes.
        for text in ["18446744073709551616", "-9223372036854775809", "1e2", "1.0", "-0", "-0.0", "1E-400"] {
            let value = read(text, &Limits::default()).unwrap();
            assert_eq!((value.as_u64(), value.is_number()), (None, true), "{text}");
        }
        for text in [
            "00",
            "-01",
            "1.e1",
            "1e+",
            "1e1.0",
            "0e",
            "--1",
            "+0",
            "1_000",
            "0b1",
            "1 .0",
            ".0",
            "-.1",
            "1e9999",
            "-Infinity",
            "\u{ff11}",
        ] {
            assert!(!taken(text), "{text}");
        }
    }

    #[test]
    fn structure_is_closed_as_it_was_opened() {
        for text in [
            "[1}",
            "{\"a\":1]",
            "[[]",
            "[]]",
            "{{}}",
            "{}}",
            "[,]",
            "{,}",
            "[1,,2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1:2}",
            "{:1}",
            "{1:1}",
            "{null:1}",
            "{\"a\",1}",
            "[1:2]",
            "{\"a\":1 \"b\":2}",
            "[\"a\" \"b\"]",
            "[1;2]",
            "<1>",
            "(1)",
            "[1],",
            ",[1]",
            "nulll",
            "True",
            "undefined",
            "[\u{a0}1]",
            "[\u{c}1]",
            "[\u{b}]",
            "\u{2028}1",
            "[#\n1]",
            "{\"a\":/*x*/1}",
            "\"a\" \"b\"",
        ] {
            assert!(matches!(read(text, &Limits::default()), Err(NotTaken::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn the_bounds_are_met_exactly() {
        let limits = Limits { depth: 3, nodes: 6, batch: 50 };
        let taken = |text: &str| read(text, &limits).is_ok();
        assert!(taken("[[[]]]") && !taken("[[[[]]]]"));
        assert!(taken("{\"a\":{\"b\":{}}}") && !taken("{\"a\":{\"b\":{\"c\":{}}}}"));
        // A list, its values; an object, its keys and its values.
        assert!(taken("[1,2,3,4,5]") && !taken("[1,2,3,4,5,6]"));
        assert!(taken("[{\"a\":1,\"b\":2}]") && !taken("[{\"a\":1,\"b\":2},0]"));
    }

    #[test]
    fn a_duplicate_key_at_any_depth_is_its_own_error() {
        for text in ["{\"a\":1,\"a\":2}", "[{\"x\":{\"a\":1,\"b\":2,\"a\":3}}]", "{\"a\":1,\"\\u0061\":2}"] {
            assert_eq!(
                read(text, &Limits::default()),
                Err(NotTaken::DuplicateKey("a".to_owned())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(taken(&nested(64)));
        assert!(!taken(&nested(65)));
        assert!(!taken(&nested(500_000)), "and the stack does not grow with it");
        assert!(taken(&format!("[{}0]", "0,".repeat(19_000))));
        assert!(!taken(&format!("[{}0]", "[0],".repeat(250_000))));
    }
}

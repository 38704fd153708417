//! Reads JSON that any reader understands alike: no doubled keys, no numbers beyond 64 bits, plain
//! ASCII strings.
//!
//! `nft` reads a text in its own language when its JSON library refuses it, so what this lets
//! through must be taken by every such library.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Refused;

/// The most that arrays and objects may be nested.
const MAX_DEPTH: usize = 24;
/// The only strings with a space: keys of `ct` for what a flow was sent to.
const SPACED: [&str; 2] = ["ip daddr", "ip6 daddr"];
/// Most characters of a string.
const MAX_STRING: usize = 128;

pub(super) fn parse(text: &str) -> Result<Value, Refused> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| Refused(error.to_string()))
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("whole numbers, plain strings, arrays and objects")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value).map(Value::from).map_err(|_| E::custom("a number beyond 64 bits"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("a number that is not whole, or beyond 64 bits"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        plain(value).map(|()| Value::from(value))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        plain(&value).map(|()| Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(seed)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Names, addresses, words and comparisons, and nothing that needs quoting in any language.
fn plain<E: Error>(text: &str) -> Result<(), E> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@*/=!".contains(&byte);
    if SPACED.contains(&text) || (text.len() <= MAX_STRING && text.bytes().all(is_plain)) {
        return Ok(());
    }
    Err(E::custom("a string with characters that the gateway does not use"))
}

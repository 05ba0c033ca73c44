//! How is a request read so that nothing in it is lost without a word? An object is an object, and each name is given once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::NO_CONTROLS;

/// An object and nothing else: serde would also take an array, by the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Only(PhantomData))
    }
}

/// On the wire it is the object itself.
impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Most labels of an order.
pub const METADATA_MAX: usize = 20;
/// Longest name of a label.
pub const METADATA_NAME_MAX: usize = 40;
/// Longest value of a label, in characters.
pub const METADATA_VALUE_MAX: usize = 200;

/// The shop's own labels: a map whose names are each given once; serde's own maps keep the last without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UniqueMap(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = UniqueMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if entries.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a name is given twice"));
                    }
                }
                Ok(UniqueMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl JsonSchema for UniqueMap {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Metadata".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": METADATA_MAX,
            "propertyNames": { "pattern": format!("^[a-z0-9_]{{1,{METADATA_NAME_MAX}}}$") },
            "additionalProperties": { "type": "string", "maxLength": METADATA_VALUE_MAX, "pattern": NO_CONTROLS },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_no_object_and_no_name_is_given_twice() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only whether it is read matters")]
        struct Amount {
            value: i64,
        }
        assert!(serde_json::from_str::<Object<Amount>>(r#"{"value":1}"#).is_ok());
        assert!(serde_json::from_str::<Object<Amount>>("[1]").is_err());
        assert!(serde_json::from_str::<UniqueMap>(r#"{"a":"1","b":"2"}"#).is_ok());
        assert!(serde_json::from_str::<UniqueMap>(r#"{"a":"1","a":"2"}"#).is_err());
    }
}

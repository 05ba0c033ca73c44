//! How is an instant written on the wire?

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC, to the microsecond: `2026-11-24T08:17:05.412000Z`.
///
/// Always six decimals and `Z` when written, so that the text sorts as the time does. Read leniently: any RFC 3339
/// offset; anything finer than a microsecond is cut off, because the store keeps microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime(Timestamp);

impl UtcTime {
    /// Cuts the instant to whole microseconds.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        // Cutting moves towards 1970, so the result is always in range.
        Self(Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at))
    }

    /// The instant, in whole microseconds.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl From<Timestamp> for UtcTime {
    fn from(at: Timestamp) -> Self {
        Self::new(at)
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl FromStr for UtcTime {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

impl Serialize for UtcTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for UtcTime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "UtcTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_six_decimals() {
        let time: UtcTime = "2026-11-24T09:17:05.4120009+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-24T08:17:05.412000Z");
        let whole: UtcTime = "2026-11-24T08:17:05Z".parse().unwrap();
        assert_eq!(whole.to_string(), "2026-11-24T08:17:05.000000Z");
    }

    #[test]
    fn a_time_without_an_offset_is_not_guessed_at() {
        assert!("2026-11-24T08:17:05.412000".parse::<UtcTime>().is_err());
    }
}

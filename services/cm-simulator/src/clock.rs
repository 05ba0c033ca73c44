//! What time does CM think it is?
//!
//! The machine's time plus an offset that a drill can move forward, since the simulator stands for another company: its
//! clock is not the project's clock.

use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// The machine's own wall clock, UTC; only the state asks it, and adds its offset.
pub(crate) fn wall() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).expect("the machine's clock is within the years 0 to 9999")
}

/// Seconds precision with `Z`, the shape of every time in CM's answers.
pub(crate) fn to_seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Milliseconds precision with `Z`, for the ledger, where order within a second matters.
pub(crate) fn to_millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// The UTC day, which `GET /orders?date=` filters by.
pub(crate) fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// A length of time as people write it: `90s`, `45m`, `25h`, `3d`, `1h 30m`; a day is 24 hours. A leading `+` is allowed.
///
/// # Errors
/// A sentence with examples, for anything else and for what is not above zero.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let bare = text.trim();
    let bare = bare.strip_prefix('+').unwrap_or(bare);
    let days = bare
        .strip_suffix('d')
        .and_then(|days| days.trim().parse::<i64>().ok());
    let parsed = match days {
        Some(days) => days.checked_mul(24).and_then(SignedDuration::try_from_hours),
        None => bare.parse().ok(),
    };
    parsed
        .filter(|length| length.is_positive())
        .ok_or_else(|| format!("'{text}' is no length of time: write 90s, 45m, 25h or 3d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("+3d", 259_200),
            ("45m", 2_700),
            ("25h", 90_000),
            ("1h 30m", 5_400),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(SignedDuration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "3",
            "-3d",
            "0s",
            "soon",
            "99999999999999999999d",
            "9223372036854775807d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}

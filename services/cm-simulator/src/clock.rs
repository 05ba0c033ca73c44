//! What time does CM think it is?
//!
//! One function, because the simulator stands for another company: its clock is not the project's clock.

use std::time::SystemTime;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The simulator's own wall clock, UTC.
pub(crate) fn now() -> Timestamp {
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

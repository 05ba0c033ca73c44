#![doc = include_str!("../README.md")]

mod bus;
mod commands;
mod economy;
mod events;
mod export;
mod facts;
mod invariants;
mod ledger;
mod linked;
mod no_double_effect;
mod notifications;
mod projections;
mod provider;
mod read;
mod release;
mod report;
mod same_orders;
mod shipped;
mod states;
mod store;
mod stored;

use std::path::Path;

pub use economy::{Difference, Economy, OrderEconomy, compare, economy};
pub use export::{Meta, Yardstick};
pub use invariants::{Invariant, TABLE, table_in_markdown};
pub use read::VerifyError;
pub use report::{Checked, NotChecked, Report, Severity, Violation};

/// Checks every invariant that an exported folder has the facts for.
///
/// # Errors
/// [`VerifyError`] where the folder is not an export, or a line of it is not what the format says.
pub fn check(dir: &Path) -> Result<Report, VerifyError> {
    check_beside(dir, None)
}

/// The same, with another run of the same orders, whose clocks were others, to compare with.
///
/// # Errors
/// As [`check`].
pub fn check_beside(dir: &Path, same_orders: Option<&Path>) -> Result<Report, VerifyError> {
    check_by(dir, same_orders, Yardstick::default())
}

/// The same, for an installation that was agreed to go by something else than is usual.
///
/// # Errors
/// As [`check`].
pub fn check_by(dir: &Path, same_orders: Option<&Path>, yardstick: Yardstick) -> Result<Report, VerifyError> {
    let mut facts = facts::Facts::read(dir)?;
    facts.yardstick = yardstick;
    if let Some(other) = same_orders {
        facts.other = Some(facts::Facts::read(other)?.orders_only());
    }
    Ok(report::run(&facts))
}

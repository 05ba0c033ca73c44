//! How long did it take, for most and for the slowest?

use serde::Serialize;

use super::clock::Micros;
use crate::report;

/// In microseconds; people are told them as [`ms`], so that no figure claims more than was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) p50_us: Micros,
    pub(super) p90_us: Micros,
    pub(super) p99_us: Micros,
    pub(super) max_us: Micros,
}

impl Spread {
    pub(super) fn of(mut values: Vec<Micros>) -> Self {
        values.sort_unstable();
        let at = |per_mille| report::at(&values, per_mille).unwrap_or(0);
        Self {
            count: values.len(),
            p50_us: at(500),
            p90_us: at(900),
            p99_us: at(990),
            max_us: values.last().copied().unwrap_or(0),
        }
    }
}

/// `12.3` for 12,345 microseconds.
pub(super) fn ms(micros: Micros) -> String {
    let tenths = (micros + 50) / 100;
    format!("{}.{}", tenths / 10, (tenths % 10).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=1000).rev().collect());
        assert_eq!(
            (spread.p50_us, spread.p90_us, spread.p99_us, spread.max_us),
            (500, 900, 990, 1000)
        );
        let one = Spread::of(vec![7]);
        assert_eq!((one.count, one.p50_us, one.p99_us, one.max_us), (1, 7, 7, 7));
        assert_eq!(Spread::of(vec![]).max_us, 0);
    }

    #[test]
    fn a_tenth_of_a_millisecond_is_rounded() {
        assert_eq!([ms(12_345), ms(49), ms(50), ms(0)], ["12.3", "0.0", "0.1", "0.0"]);
    }
}

//! How far has this worker come? Kept in Postgres, for the day on which the stream and its consumers are wiped.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Sequences that were delivered and are not settled, and the highest that was delivered.
#[derive(Debug, Default)]
pub(crate) struct LowWater(Mutex<(BTreeSet<u64>, u64)>);

impl LowWater {
    pub(crate) fn delivered(&self, sequence: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.insert(sequence);
        state.1 = state.1.max(sequence);
    }

    pub(crate) fn settled(&self, sequence: u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .remove(&sequence);
    }

    /// Everything up to here is done.
    pub(crate) fn mark(&self) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.first().map_or(state.1, |first| first - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_waits_for_the_oldest_unsettled_message() {
        let water = LowWater::default();
        [3, 5, 9].iter().for_each(|sequence| water.delivered(*sequence));
        water.settled(5);
        assert_eq!(water.mark(), 2);
        water.settled(3);
        assert_eq!(water.mark(), 8);
        water.settled(9);
        assert_eq!(water.mark(), 9);
    }
}

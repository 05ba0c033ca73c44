//! How many shoppers are let in? As many as are served soon: who would wait in a growing queue is told at once to come back,
//! and those who are in get their links.
//!
//! What counts is how long payments wait for a gateway to take them up. How long CM takes for its answers is not ours to
//! shorten, and turning shoppers away would not help it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kassa_chassis::problem::Problem;

/// Payments that may wait for a gateway in any case: as many as one has under way. A gateway that is being restarted, or a
/// bus that is away, turns nobody away before that.
const WAITING_FREE: usize = 128;
/// Beyond that, new orders are let in while the first in the queue has waited for less than this: their payments come a moment
/// later, and are what is worth most.
const ORDERS_UNTIL: Duration = Duration::from_millis(300);
/// And payments for orders that were let in, until this.
const PAYMENTS_UNTIL: Duration = Duration::from_millis(600);
/// Never more, however fast they are taken up.
const WAITING_MAX: usize = 1_024;

/// Counts the payments that wait, by when they began to.
#[derive(Debug, Default)]
pub(crate) struct Admission(Mutex<BTreeMap<(Instant, u64), ()>>, std::sync::atomic::AtomicU64);

/// One payment that waits; dropped when it was taken up.
#[derive(Debug)]
pub(crate) struct Waits<'a> {
    admission: &'a Admission,
    place: (Instant, u64),
}

impl Admission {
    /// # Errors
    /// 429 with `Retry-After`.
    pub(crate) fn order(&self) -> Result<(), Box<Problem>> {
        self.admit(ORDERS_UNTIL)
    }

    /// # Errors
    /// 429 with `Retry-After`.
    pub(crate) fn payment(&self) -> Result<(), Box<Problem>> {
        self.admit(PAYMENTS_UNTIL)
    }

    fn admit(&self, until: Duration) -> Result<(), Box<Problem>> {
        let waiting = self.waiting();
        let late = waiting
            .first_key_value()
            .is_some_and(|((since, _), ())| since.elapsed() > until);
        if waiting.len() < WAITING_FREE || waiting.len() < WAITING_MAX && !late {
            Ok(())
        } else {
            Err(Box::new(Problem::overloaded()))
        }
    }

    /// A payment that no gateway has taken up yet.
    pub(crate) fn waits(&self) -> Waits<'_> {
        let number = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = (Instant::now(), number);
        self.waiting().insert(place, ());
        Waits {
            admission: self,
            place,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), ()>> {
        // A panic while it was held left it whole: every change to it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.admission.waiting().remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Admission {
        /// As if it had waited for so long.
        fn waits_since(&self, ago: Duration) -> Waits<'_> {
            let waits = self.waits();
            let place = (
                waits
                    .place
                    .0
                    .checked_sub(ago)
                    .expect("the machine runs for longer"),
                waits.place.1,
            );
            self.waiting().insert(place, ());
            self.waiting().remove(&waits.place);
            std::mem::forget(waits);
            Waits {
                admission: self,
                place,
            }
        }
    }

    #[test]
    fn new_orders_are_turned_away_before_payments_of_those_that_were_let_in() {
        let admission = Admission::default();
        let old = admission.waits_since(Duration::from_millis(450));
        assert!(admission.order().is_ok(), "a gateway is being restarted, say");
        let crowd: Vec<_> = (1..WAITING_FREE).map(|_| admission.waits()).collect();
        let refused = admission.order().expect_err("the queue grows");
        assert_eq!((refused.status, refused.retry_after_s), (429, Some(1)));
        assert!(admission.payment().is_ok());
        let older = admission.waits_since(Duration::from_secs(1));
        assert!(admission.payment().is_err());
        drop((old, older));
        assert!(admission.order().is_ok(), "many who wait for a moment only");
        drop(crowd);
        let flood: Vec<_> = (0..WAITING_MAX).map(|_| admission.waits()).collect();
        assert!(admission.payment().is_err(), "there is a bound");
        drop(flood);
        assert!(admission.waiting().is_empty());
    }
}

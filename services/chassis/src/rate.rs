//! How much may one shop ask? So much a second, counted for each shop alone, so that one that runs wild is told to wait and
//! the others notice nothing.

use std::{collections::BTreeMap, num::NonZeroU32};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use crate::problem::Problem;

/// Kept by each process for itself: two processes let through twice as much.
#[derive(Debug)]
pub struct RatePerShop(BTreeMap<String, DefaultDirectRateLimiter>);

impl RatePerShop {
    /// So many requests a second for each of `shops`, and twice as many at once after a pause.
    pub fn new<'s>(shops: impl IntoIterator<Item = &'s String>, per_second: u32) -> Self {
        let each = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(each).allow_burst(each.saturating_mul(TWO));
        let limits = shops
            .into_iter()
            .map(|shop| (shop.clone(), RateLimiter::direct(quota)));
        Self(limits.collect())
    }

    /// Counts one request.
    ///
    /// # Errors
    /// 429 `rate_limited`, with the seconds after which there is room again.
    pub fn check(&self, shop: &str) -> Result<(), Box<Problem>> {
        let Some(Err(not_yet)) = self.0.get(shop).map(RateLimiter::check) else {
            return Ok(());
        };
        let wait = not_yet.wait_time_from(DefaultClock::default().now());
        let seconds = u32::try_from(wait.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let mut problem = Problem::of(
            "rate_limited",
            "this shop has asked more than it may in a second",
            "send the same request again a little later, and fewer at once",
        );
        problem.retry_after_s = Some(seconds);
        Err(Box::new(problem))
    }
}

const TWO: NonZeroU32 = NonZeroU32::new(2).expect("two is not zero");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shop_that_runs_wild_is_told_to_wait_and_another_is_not() {
        let shops = ["wild".to_owned(), "calm".to_owned()];
        let rates = RatePerShop::new(&shops, 5);
        let refused = (0..100).filter(|_| rates.check("wild").is_err()).count();
        assert!((85..=90).contains(&refused), "{refused} of 100 were refused");
        let problem = rates.check("wild").expect_err("it is still too much");
        assert_eq!((problem.status, problem.retry_after_s), (429, Some(1)));
        assert!(rates.check("calm").is_ok());
    }
}

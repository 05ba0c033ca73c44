//! Who uses the installation? Shoppers that arrive whether or not the ones before were served, each with a story of its own.

pub(crate) mod client;
pub(crate) mod shopper;
pub(crate) mod story;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{client::Client, shopper::Played, story::Story};
use crate::{installation::Access, random::Random};

/// How much longer than the arrivals a shop and its shoppers go on trying: faults have ended by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time between two arrivals, in mean times: an exponential tail without an end is nobody's shop.
const GAP_MAX: u64 = 4;

/// The orders of a run.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub seed: u64,
    /// Orders in all; the same orders whatever happens.
    pub orders: u64,
    /// Arrivals are spread over this, in the mean.
    pub lasts: Duration,
}

/// How far the shoppers are; shared with who prints it.
#[derive(Debug, Default)]
pub struct Progress {
    pub arrived: AtomicU64,
    pub over: AtomicU64,
}

/// Orders that were not played out, and why.
#[derive(Debug, Default)]
pub struct Outcome {
    pub orders: u64,
    pub given_up: Vec<String>,
}

impl Workload {
    /// Plays all stories and writes every answer down.
    ///
    /// # Errors
    /// When the installation cannot be reached at the beginning, or the file cannot be written.
    pub async fn play(
        self,
        access: Access,
        answers: &Path,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Outcome> {
        let client = Arc::new(Client::connect(&access, answers).await?);
        let url = format!("{}/sim/scenarios", access.cm_url);
        let published = client.http.get(url).send().await?.json().await?;
        let scenarios = story::scenarios(&published)?;
        let began = Instant::now();
        let until = began + self.lasts + PATIENCE;
        let mut shoppers = JoinSet::new();
        for (number, arrives) in (1..).zip(self.arrivals()) {
            let story = Story::draw(self.seed, number, arrives, &scenarios);
            let (client, progress) = (client.clone(), progress.clone());
            shoppers.spawn(async move {
                sleep_until(began + story.arrives).await;
                progress.arrived.fetch_add(1, Ordering::Relaxed);
                let played = shopper::play(&client, self.seed, number, &story, until).await;
                progress.over.fetch_add(1, Ordering::Relaxed);
                played
            });
        }
        let mut outcome = Outcome {
            orders: self.orders,
            ..Outcome::default()
        };
        while let Some(played) = shoppers.join_next().await {
            if let Played::GivenUp(why) = played? {
                outcome.given_up.push(why);
            }
        }
        client.flush()?;
        Ok(outcome)
    }

    /// When each order arrives: at irregular times, never at the same.
    fn arrivals(self) -> Vec<Duration> {
        let mut chance = Random::of(self.seed, "arrivals", 0);
        let mean = u64::try_from(self.lasts.as_micros()).unwrap_or(u64::MAX) / self.orders.max(1);
        let mut at = 0_u64;
        let mut arrivals = Vec::new();
        for _ in 0..self.orders {
            // The product of two even draws has many short gaps and some long ones, and the right mean.
            let share = chance.below(1_000) * chance.below(1_000) / 1_000;
            at = at.saturating_add(mean.saturating_mul(share * GAP_MAX) / 1_000);
            arrivals.push(Duration::from_micros(at));
        }
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_spread_over_the_time_that_they_are_to_take() {
        let workload = Workload {
            seed: 3,
            orders: 2_000,
            lasts: Duration::from_secs(1_000),
        };
        let arrivals = workload.arrivals();
        let last = arrivals.last().copied().unwrap_or_default();
        assert!((900..1_100).contains(&last.as_secs()), "{last:?}");
        assert_eq!(arrivals, workload.arrivals());
    }
}

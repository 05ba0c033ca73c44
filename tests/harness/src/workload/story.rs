//! What does each shopper do? Drawn from the seed and the order's number alone, so that faults change nothing of it.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::client::Via;
use crate::{installation::RETURN_ORIGIN, random::Random};

/// A scenario of the simulator, and the method it is played with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) method: String,
    /// Whether its shopper gets as far as a bank; else CM refuses, and that is the end of it.
    pub(crate) pays: bool,
}

/// The whole life of an order, as its shopper and its shop would have it.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) reference: String,
    pub(crate) scenario: Scenario,
    pub(crate) amount_minor: u64,
    /// After the beginning of the run.
    pub(crate) arrives: Duration,
    pub(crate) create_via: Via,
    pub(crate) start_via: Via,
    /// Closes the page and is never seen again.
    pub(crate) leaves: Option<Leaves>,
    /// After the first attempt came to nothing, pays with a second one.
    pub(crate) retries: bool,
    /// The shop sends each command twice at once.
    pub(crate) doubled: bool,
    /// CM tells of it so many times more.
    pub(crate) notified_again: u64,
    /// How long the shopper looks for the card.
    pub(crate) thinks: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    BeforeStart,
    AtTheBank,
}

/// What most shoppers do.
const PLAIN: &str = "ideal/success";

/// The scenarios that a simulator offers, in its order.
pub(crate) fn scenarios(published: &Value) -> anyhow::Result<Vec<Scenario>> {
    let list = published.as_array().context("scenarios are a list")?;
    let text = |doc: &Value, field: &str| {
        let text = doc[field].as_str().map(str::to_owned);
        text.with_context(|| format!("a scenario has no {field}"))
    };
    list.iter()
        .map(|doc| {
            Ok(Scenario {
                name: text(doc, "name")?,
                method: text(doc, "method")?,
                pays: doc["steps"]
                    .as_array()
                    .is_some_and(|steps| steps.iter().any(|step| step["do"] == "pay")),
            })
        })
        .collect()
}

impl Story {
    /// The story of order `number`.
    pub(crate) fn draw(seed: u64, number: u64, arrives: Duration, scenarios: &[Scenario]) -> Self {
        let mut chance = Random::of(seed, "story", number);
        let named = |name: &str| scenarios.iter().find(|one| one.name == name).cloned();
        let plain = named(PLAIN).unwrap_or(Scenario {
            name: PLAIN.to_owned(),
            method: "ideal".to_owned(),
            pays: true,
        });
        let retries = chance.percent(5);
        let scenario = if retries {
            named(if chance.percent(50) {
                "ideal/cancel"
            } else {
                "ideal/fail"
            })
            .unwrap_or(plain)
        } else if chance.percent(55) {
            plain
        } else {
            chance.pick(scenarios).cloned().unwrap_or(plain)
        };
        let leaves = chance.percent(5).then(|| {
            if chance.percent(40) {
                Leaves::BeforeStart
            } else {
                Leaves::AtTheBank
            }
        });
        let mut via = |inbox: u64| match chance.below(100) {
            n if n < inbox => Via::Inbox,
            n if n < inbox + 15 => Via::Http,
            _ => Via::Nats,
        };
        let (create_via, start_via) = (via(5), via(0));
        Self {
            reference: format!("C{seed}-{number:06}"),
            scenario,
            amount_minor: 500 + chance.below(20_000),
            arrives,
            create_via,
            start_via,
            leaves,
            retries,
            doubled: chance.percent(5),
            notified_again: if chance.percent(5) { 1 + chance.below(5) } else { 0 },
            thinks: chance.between(Duration::from_millis(20), Duration::from_secs(2)),
        }
    }

    pub(crate) fn create_body(&self) -> Value {
        json!({
            "order_reference": self.reference,
            "description": "Dog food, 12 kg",
            "amount": { "value": self.amount_minor, "currency": "EUR" },
            "country": "NL",
            "language": "nl",
            "shopper": { "email": "shopper@example.org", "first_name": "Sam" },
            "return_url": format!("{RETURN_ORIGIN}/return"),
            "metadata": { "sim_scenario": self.scenario.name },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_are_the_same_story_each_time_and_all_scenarios_are_told() {
        let scenarios: Vec<Scenario> = ["ideal/success", "ideal/cancel", "ideal/fail", "any/level_fast"]
            .map(|name| Scenario {
                name: name.to_owned(),
                method: "ideal".to_owned(),
                pays: true,
            })
            .to_vec();
        let draw = |number| Story::draw(7, number, Duration::ZERO, &scenarios);
        let told: Vec<Story> = (0..2_000).map(draw).collect();
        assert_eq!(format!("{:?}", told[5]), format!("{:?}", draw(5)));
        for scenario in &scenarios {
            assert!(
                told.iter().any(|story| story.scenario == *scenario),
                "{scenario:?}"
            );
        }
        let share = |holds: fn(&Story) -> bool| told.iter().filter(|story| holds(story)).count();
        let leaving = share(|story| story.leaves.is_some());
        let retrying = share(|story| story.retries);
        assert!(
            (60..140).contains(&leaving) && (60..140).contains(&retrying),
            "{leaving} {retrying}"
        );
    }
}

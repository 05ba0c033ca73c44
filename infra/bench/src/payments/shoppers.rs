//! Who pays? Shoppers who arrive when they arrive, whatever the others are waiting for, each through a whole payment.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, Request};
use kassa_harness::random::Random;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    clock::{Clock, Micros},
    rig::{Rig, SHOP},
};

/// Between the order and the choice of a method. Both commands are due at their own times, however late the first answer is.
const CHOOSES_AFTER: Micros = 200_000;
/// At the bank.
const PRESSES_AFTER: Duration = Duration::from_millis(300);
/// Shoppers under way at once: some half minute of all that two cores can do. One who finds it full is dropped, and a run
/// that dropped one measured something else than it says.
const UNDER_WAY_MAX: usize = 20_000;
/// Longer than the longest wait for a redirect.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// When shoppers arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrivals {
    pub(super) per_second: u32,
    pub(super) seconds: u32,
    /// At random, as independent shoppers do, rather than evenly.
    pub(super) poisson: bool,
    pub(super) seed: u64,
}

impl Arrivals {
    /// Micros after the beginning.
    pub(super) fn times(self) -> Vec<Micros> {
        let count = u64::from(self.per_second) * u64::from(self.seconds);
        let gap = 1_000_000 / i64::from(self.per_second.max(1));
        let even =
            (0..count).map(|n| i64::try_from(n * 1_000_000 / u64::from(self.per_second)).unwrap_or(i64::MAX));
        if !self.poisson {
            return even.collect();
        }
        let mut random = Random::new(self.seed);
        // A Poisson process of known length and count is that many independent even draws, sorted.
        let span = u64::try_from(gap).unwrap_or(1) * count;
        let mut times: Vec<Micros> = (0..count)
            .map(|_| i64::try_from(random.next() % span.max(1)).unwrap_or(0))
            .collect();
        times.sort_unstable();
        times
    }
}

/// How one command went.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    /// When it should have been sent.
    pub(super) due: Micros,
    pub(super) at: Micros,
    pub(super) result: Result<(), Refused>,
}

/// A no, with what it said.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) status: u64,
    pub(super) code: String,
    pub(super) retry_after: bool,
}

/// One shopper's way.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    pub(super) reference: String,
    pub(super) order_id: Option<String>,
    pub(super) create: Option<Answered>,
    pub(super) start: Option<Answered>,
    pub(super) redirected: bool,
    pub(super) pressed_at: Option<Micros>,
}

impl Way {
    /// By an answer that says so: the shop knows, and can come again.
    pub(super) fn was_refused(&self) -> bool {
        let answers = [&self.create, &self.start].into_iter().flatten();
        let mut refusals = answers.filter_map(|answered| answered.result.as_ref().err());
        refusals.any(|no| no.status != 0)
    }
}

/// What a phase of shopping came to.
#[derive(Debug, Default)]
pub(super) struct Shopping {
    pub(super) ways: Vec<Way>,
    /// As `answers.ndjson` has them.
    pub(super) answers: Vec<Value>,
    pub(super) dropped: usize,
    /// How late the generator itself was at worst.
    pub(super) late_max: Micros,
}

/// Plays shoppers at one installation.
#[derive(Debug)]
pub(super) struct Shoppers {
    clock: Clock,
    bus: async_nats::Client,
    http: reqwest::Client,
    pay_url: String,
    answers: Mutex<Vec<Value>>,
    under_way: AtomicUsize,
}

impl Shoppers {
    pub(super) async fn new(rig: &Rig, clock: Clock) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            clock,
            bus: rig.bus("checkout").await?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(ANSWER_MAX)
                .build()?,
            pay_url: format!("{}/sim/pay", rig.sim_url),
            answers: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }))
    }

    /// Lets shoppers arrive, and waits until each has pressed or gone.
    pub(super) async fn shop(self: &Arc<Self>, arrivals: Arrivals) -> anyhow::Result<Shopping> {
        let begin = self.clock.now();
        let mut shopping = Shopping::default();
        let mut lives = JoinSet::new();
        for due in arrivals.times() {
            let due = begin + due;
            tokio::time::sleep_until(self.clock.moment(due)).await;
            shopping.late_max = shopping.late_max.max(self.clock.now() - due);
            if self.under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
                shopping.dropped += 1;
                continue;
            }
            self.under_way.fetch_add(1, Ordering::Relaxed);
            let shoppers = self.clone();
            lives.spawn(async move {
                let way = shoppers.live(due).await;
                shoppers.under_way.fetch_sub(1, Ordering::Relaxed);
                way
            });
            while let Some(ended) = lives.try_join_next() {
                shopping.ways.push(ended?);
            }
        }
        while let Some(ended) = lives.join_next().await {
            shopping.ways.push(ended?);
        }
        shopping.answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(shopping)
    }

    async fn live(&self, due: Micros) -> Way {
        let reference = format!("B-{}", Uuid::new_v4().simple());
        let mut way = Way {
            reference: reference.clone(),
            ..Way::default()
        };
        let order = json!({
            "order_reference": reference,
            "description": "Dog food, 12 kg",
            "amount": { "value": 4995, "currency": "EUR" },
            "country": "NL",
            "language": "nl",
            "shopper": { "email": "shopper@example.org", "first_name": "Robin" },
            "return_url": "https://shop.example/return",
        });
        let (answered, answer) = self.command("create_order", due, &order).await;
        way.create = Some(answered);
        let Some(order_id) = answer["order_id"].as_str() else {
            return way;
        };
        way.order_id = Some(order_id.to_owned());
        let due = due + CHOOSES_AFTER;
        tokio::time::sleep_until(self.clock.moment(due)).await;
        let (answered, answer) = self
            .command(
                "start_payment",
                due,
                &json!({ "order_id": order_id, "method": "ideal" }),
            )
            .await;
        way.start = Some(answered);
        way.redirected = answer["next_action"]["type"] == "redirect";
        if !way.redirected {
            return way;
        }
        tokio::time::sleep(PRESSES_AFTER).await;
        let pressed = self
            .http
            .post(&self.pay_url)
            .json(&json!({ "order_reference": reference }))
            .send()
            .await;
        if pressed.is_ok_and(|answer| answer.status().is_success()) {
            way.pressed_at = Some(self.clock.now());
        }
        way
    }

    async fn command(&self, verb: &'static str, due: Micros, body: &Value) -> (Answered, Value) {
        let key = Uuid::new_v4().to_string();
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", key.as_str());
        let request = Request::new()
            .headers(headers)
            .payload(body.to_string().into())
            .timeout(Some(ANSWER_MAX));
        let sent_at = self.clock.now();
        let answer = self
            .bus
            .send_request(format!("kassa.cmd.{SHOP}.{verb}"), request)
            .await;
        let at = self.clock.now();
        let document: Value = match &answer {
            Ok(message) => serde_json::from_slice(&message.payload).unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let result = match (&answer, document["code"].as_str()) {
            (Ok(_), None) => Ok(()),
            (Ok(_), Some(code)) => Err(Refused {
                status: document["status"].as_u64().unwrap_or(0),
                code: code.to_owned(),
                retry_after: !document["retry_after_s"].is_null(),
            }),
            (Err(error), _) => Err(Refused {
                status: 0,
                code: error.to_string(),
                retry_after: false,
            }),
        };
        let status = match (&answer, &result) {
            (Err(_), _) => "none",
            (Ok(_), Ok(())) => "accepted",
            (Ok(_), Err(_)) => "refused",
        };
        let mut log = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let n = log.len() + 1;
        let mut row = json!({
            "n": n,
            "sent_at": self.clock.text(sent_at),
            "answered_at": answer.is_ok().then(|| self.clock.text(at)),
            "via": "nats",
            "shop": SHOP,
            "verb": verb,
            "key": key,
            "body": body,
            "status": status,
            "answer": document,
        });
        if let Err(refused) = &result {
            row["code"] = json!(refused.code);
        }
        log.push(row);
        drop(log);
        (Answered { due, at, result }, document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_arrive_as_were_asked_for_and_the_same_seed_brings_the_same() {
        let arrivals = Arrivals {
            per_second: 50,
            seconds: 4,
            poisson: false,
            seed: 7,
        };
        let even = arrivals.times();
        assert_eq!((even.len(), even[0], even[199]), (200, 0, 3_980_000));
        let poisson = Arrivals {
            poisson: true,
            ..arrivals
        };
        let random = poisson.times();
        assert_eq!(random.len(), 200);
        assert_eq!(random, poisson.times());
        assert!(random.is_sorted() && random != even && random.iter().all(|at| *at < 4_000_000));
    }
}

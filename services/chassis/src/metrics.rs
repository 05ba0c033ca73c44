//! What is counted, under which name and with which labels?
//!
//! One registry a process, in Prometheus' text form. A label is a word from a list that is bounded by code or by
//! configuration: never an id, a reference or an amount. What is derived from events is counted by the process that
//! appended them, once the commit was answered: a replay, a rebuild or a second delivery counts nothing, and an append whose
//! answer was lost with its connection may be missing. Counters begin at zero with the process, as Prometheus expects.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

/// As scrapers ask for it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a shopper at the bank to a bank transfer of a week.
const TO_SAFE: [f64; 13] = [
    1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3_600.0, 86_400.0, 604_800.0,
];
/// From a notification that is read at once to the last rungs of the ladder.
const KNOWN_DELAY: [f64; 12] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0,
];
/// From a commit to the longest `Prefer: wait`.
const COMMAND: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
];
/// To the longest time-out that a shop may configure.
const PSP_REQUEST: [f64; 11] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

macro_rules! labels {
    ($($name:ident { $($field:ident),+ })+) => {$(
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: String),+ }
    )+};
}

labels! {
    OfShop { shop }
    OfOrder { shop, outcome }
    OfPayment { shop, method, outcome }
    OfMethod { shop, method }
    Known { psp, how }
    OfAmount { shop, currency, kind }
    Answered { command, result }
    OfCommand { command }
    PspAnswered { psp, operation, result }
    PspAsked { psp, operation }
    Heard { psp, result }
    OfProjection { projection }
    OfConsumer { consumer }
    OfKind { kind }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
/// Without labels, and absent until somebody knows a value: a process without the relay knows nothing of the outbox.
type Bare = [(&'static str, &'static str); 0];
type FloatGauge = Gauge<f64, AtomicU64>;

struct Metrics {
    registry: std::sync::RwLock<Registry>,
    orders_created: Family<OfShop, Counter>,
    orders: Family<OfOrder, Counter>,
    payments: Family<OfPayment, Counter>,
    time_to_safe: Histograms<OfMethod>,
    known_delay: Histograms<Known>,
    amount: Family<OfAmount, Counter>,
    commands: Family<Answered, Counter>,
    command_duration: Histograms<OfCommand>,
    psp_requests: Family<PspAnswered, Counter>,
    psp_duration: Histograms<PspAsked>,
    notifications: Family<Heard, Counter>,
    polls: Family<Heard, Counter>,
    outbox_age: Family<Bare, FloatGauge>,
    outbox_pending: Family<Bare, Gauge>,
    lag_events: Family<OfProjection, Gauge>,
    lag_seconds: Family<OfProjection, FloatGauge>,
    dead_letters: Family<OfConsumer, Gauge>,
    sse: Family<OfKind, Gauge>,
    livemode: Gauge,
    /// The position that the stream was last seen to end with; -1 before that.
    relayed: AtomicI64,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("kassa");
        let metrics = Self {
            registry: std::sync::RwLock::default(),
            orders_created: Family::default(),
            orders: Family::default(),
            payments: Family::default(),
            time_to_safe: Family::new_with_constructor(|| Histogram::new(TO_SAFE)),
            known_delay: Family::new_with_constructor(|| Histogram::new(KNOWN_DELAY)),
            amount: Family::default(),
            commands: Family::default(),
            command_duration: Family::new_with_constructor(|| Histogram::new(COMMAND)),
            psp_requests: Family::default(),
            psp_duration: Family::new_with_constructor(|| Histogram::new(PSP_REQUEST)),
            notifications: Family::default(),
            polls: Family::default(),
            outbox_age: Family::default(),
            outbox_pending: Family::default(),
            lag_events: Family::default(),
            lag_seconds: Family::default(),
            dead_letters: Family::default(),
            sse: Family::default(),
            livemode: Gauge::default(),
            relayed: AtomicI64::new(-1),
        };
        // The library adds `_total` to counters, `_info` to an info, and the full stop.
        let r = &mut registry;
        r.register("orders_created", "Orders created", metrics.orders_created.clone());
        r.register(
            "orders",
            "Orders that were canceled, expired, or stopped being safe to ship, by which",
            metrics.orders.clone(),
        );
        r.register(
            "payments",
            "Payment attempts that ended, by how",
            metrics.payments.clone(),
        );
        r.register(
            "payment_time_to_safe_seconds",
            "From the start of the attempt that paid to the order being safe to ship",
            metrics.time_to_safe.clone(),
        );
        r.register(
            "status_known_delay_seconds",
            "From the provider's time of an order being safe to our knowing it, by what made us look",
            metrics.known_delay.clone(),
        );
        r.register(
            "amount_minor_units",
            "Amounts of orders that became safe, or stopped being so, in minor units",
            metrics.amount.clone(),
        );
        r.register(
            "commands",
            "Commands answered, over NATS and HTTP, by result: ok or the problem's code",
            metrics.commands.clone(),
        );
        r.register(
            "command_duration_seconds",
            "From a command's arrival to its answer, with the wait for a redirect",
            metrics.command_duration.clone(),
        );
        r.register(
            "psp_requests",
            "Calls to the provider, by what they came to",
            metrics.psp_requests.clone(),
        );
        r.register(
            "psp_request_duration_seconds",
            "Time of a call to the provider, from the first byte to the last",
            metrics.psp_duration.clone(),
        );
        r.register(
            "notifications_received",
            "Calls of the provider to the notification URL",
            metrics.notifications.clone(),
        );
        r.register(
            "polls",
            "Reports read because the ladder, or a doubt of ours, asked for them",
            metrics.polls.clone(),
        );
        r.register(
            "outbox_oldest_age_seconds",
            "Age of the oldest event that is not in the stream yet; 0 when all are",
            metrics.outbox_age.clone(),
        );
        r.register(
            "outbox_pending",
            "Events that are not in the stream yet",
            metrics.outbox_pending.clone(),
        );
        r.register(
            "projection_lag_events",
            "Events that a projection has not seen yet",
            metrics.lag_events.clone(),
        );
        r.register(
            "projection_lag_seconds",
            "Age of the oldest event that a projection has not seen yet; 0 when it has seen all",
            metrics.lag_seconds.clone(),
        );
        r.register(
            "dead_letters",
            "Messages that a person must look at, by the consumer that gave up on them",
            metrics.dead_letters.clone(),
        );
        r.register(
            "sse_connections",
            "Open server-sent event streams",
            metrics.sse.clone(),
        );
        r.register(
            "livemode",
            "1 when a shop of this process takes real money",
            metrics.livemode.clone(),
        );
        if let Ok(mut place) = metrics.registry.write() {
            *place = registry;
        }
        metrics
    }
}

/// What is known from the start: which build this is, and for whom it works. Every shop has its counters from then on, so
/// that "no order yet" and "no such shop" look different.
pub fn describe<'s>(version: &str, revision: &str, livemode: bool, shops: impl Iterator<Item = &'s str>) {
    let metrics = &*METRICS;
    metrics.livemode.set(i64::from(livemode));
    for shop in shops {
        drop(metrics.orders_created.get_or_create(&OfShop {
            shop: shop.to_owned(),
        }));
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if let Ok(mut registry) = metrics.registry.write() {
            let info = Info::new(vec![
                ("version".to_owned(), version.to_owned()),
                ("revision".to_owned(), revision.to_owned()),
            ]);
            registry.register("build", "The build that runs here", info);
        }
    });
}

pub fn order_created(shop: &str) {
    let labels = OfShop {
        shop: shop.to_owned(),
    };
    METRICS.orders_created.get_or_create(&labels).inc();
}

/// `outcome` is `canceled`, `expired` or `safety_lost`: no end by itself, since an order may become safe again.
pub fn order_came_to(shop: &str, outcome: &str) {
    let labels = OfOrder {
        shop: shop.to_owned(),
        outcome: outcome.to_owned(),
    };
    METRICS.orders.get_or_create(&labels).inc();
}

/// `outcome` is `authorized`, `failed`, `canceled` or `expired`.
pub fn payment_ended(shop: &str, method: &str, outcome: &str) {
    let labels = OfPayment {
        shop: shop.to_owned(),
        method: method.to_owned(),
        outcome: outcome.to_owned(),
    };
    METRICS.payments.get_or_create(&labels).inc();
}

pub fn time_to_safe(shop: &str, method: &str, took: Duration) {
    let labels = OfMethod {
        shop: shop.to_owned(),
        method: method.to_owned(),
    };
    METRICS
        .time_to_safe
        .get_or_create(&labels)
        .observe(took.as_secs_f64());
}

/// `how` is what made us look: `notification`, `poll` or `return`.
pub fn status_known(psp: &str, how: &str, delay: Duration) {
    let labels = Known {
        psp: psp.to_owned(),
        how: how.to_owned(),
    };
    METRICS
        .known_delay
        .get_or_create(&labels)
        .observe(delay.as_secs_f64());
}

/// `kind` is `safe` or `safety_lost`; refunds and chargebacks are still to come: a report tells their sum only.
pub fn amount(shop: &str, currency: &str, kind: &str, minor: u64) {
    let labels = OfAmount {
        shop: shop.to_owned(),
        currency: currency.to_owned(),
        kind: kind.to_owned(),
    };
    METRICS.amount.get_or_create(&labels).inc_by(minor);
}

/// A command or a question that was answered; `result` is `ok` or the problem's code.
pub fn command(command: &str, result: &str, took: Duration) {
    let answered = Answered {
        command: command.to_owned(),
        result: result.to_owned(),
    };
    METRICS.commands.get_or_create(&answered).inc();
    let of = OfCommand {
        command: command.to_owned(),
    };
    METRICS
        .command_duration
        .get_or_create(&of)
        .observe(took.as_secs_f64());
}

/// A command or a question that was not looked at, because there was nowhere for its answer to go.
pub fn turned_away(command: &str) {
    let labels = Answered {
        command: command.to_owned(),
        result: "no_reply_subject".to_owned(),
    };
    METRICS.commands.get_or_create(&labels).inc();
}

/// `result` is `ok`, `refused`, `not_served`, `not_sent` or `unknown`.
pub fn psp_request(psp: &str, operation: &str, result: &str, took: Duration) {
    let answered = PspAnswered {
        psp: psp.to_owned(),
        operation: operation.to_owned(),
        result: result.to_owned(),
    };
    METRICS.psp_requests.get_or_create(&answered).inc();
    let asked = PspAsked {
        psp: psp.to_owned(),
        operation: operation.to_owned(),
    };
    METRICS
        .psp_duration
        .get_or_create(&asked)
        .observe(took.as_secs_f64());
}

/// `result` is `stored`, `malformed` or `not_stored`.
pub fn notification(psp: &str, result: &str) {
    let labels = Heard {
        psp: psp.to_owned(),
        result: result.to_owned(),
    };
    METRICS.notifications.get_or_create(&labels).inc();
}

/// `result` is `read`, `again` or `failed`.
pub fn poll(psp: &str, result: &str) {
    let labels = Heard {
        psp: psp.to_owned(),
        result: result.to_owned(),
    };
    METRICS.polls.get_or_create(&labels).inc();
}

/// The relay's word for where the stream ends.
pub fn relayed(position: i64) {
    METRICS.relayed.store(position, Ordering::Relaxed);
}

/// Where the stream ends, as the relay of this process last saw it.
pub fn relayed_to() -> Option<i64> {
    let position = METRICS.relayed.load(Ordering::Relaxed);
    (position >= 0).then_some(position)
}

pub fn outbox(pending: i64, oldest_age: Duration) {
    METRICS.outbox_pending.get_or_create(&[]).set(pending);
    METRICS
        .outbox_age
        .get_or_create(&[])
        .set(oldest_age.as_secs_f64());
}

/// What cannot be known now has no value.
pub fn forget_outbox() {
    METRICS.outbox_pending.clear();
    METRICS.outbox_age.clear();
}

pub fn projection_lag(projection: &str, events: i64, age: Duration) {
    let labels = OfProjection {
        projection: projection.to_owned(),
    };
    METRICS.lag_events.get_or_create(&labels).set(events);
    METRICS.lag_seconds.get_or_create(&labels).set(age.as_secs_f64());
}

/// Before new values are set: what is not there any more has no value.
pub fn forget_dead_letters() {
    METRICS.dead_letters.clear();
}

pub fn dead_letters(consumer: &str, messages: i64) {
    let labels = OfConsumer {
        consumer: consumer.to_owned(),
    };
    METRICS.dead_letters.get_or_create(&labels).set(messages);
}

/// An open stream, counted until it is dropped.
#[derive(Debug)]
pub struct SseOpen(&'static str);

/// `kind` is `events`, `order` or `shopper`.
#[must_use]
pub fn sse_open(kind: &'static str) -> SseOpen {
    let labels = OfKind {
        kind: kind.to_owned(),
    };
    METRICS.sse.get_or_create(&labels).inc();
    SseOpen(kind)
}

impl Drop for SseOpen {
    fn drop(&mut self) {
        let labels = OfKind {
            kind: self.0.to_owned(),
        };
        METRICS.sse.get_or_create(&labels).dec();
    }
}

/// All of it, as [`CONTENT_TYPE`] says.
pub fn render() -> String {
    let mut text = String::new();
    if let Ok(registry) = METRICS.registry.read() {
        // Writing into a string cannot fail.
        let _ = text::encode(&mut text, &registry);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_contract_is_rendered_as_it_is_written_there() {
        describe("1.2.3", "abc", false, ["demo-shop"].into_iter());
        order_created("demo-shop");
        order_came_to("demo-shop", "safety_lost");
        payment_ended("demo-shop", "ideal", "authorized");
        time_to_safe("demo-shop", "ideal", Duration::from_secs(3));
        status_known("cm", "poll", Duration::from_secs(1));
        amount("demo-shop", "EUR", "safe", 4995);
        command("create_order", "ok", Duration::from_millis(7));
        psp_request("cm", "start", "ok", Duration::from_millis(80));
        notification("cm", "stored");
        poll("cm", "read");
        outbox(2, Duration::from_millis(1_500));
        projection_lag("checkout", 3, Duration::ZERO);
        dead_letters("cm-gateway", 1);
        let open = sse_open("events");
        let text = render();
        for line in [
            "kassa_orders_created_total{shop=\"demo-shop\"} 1",
            "kassa_orders_total{shop=\"demo-shop\",outcome=\"safety_lost\"} 1",
            "kassa_payments_total{shop=\"demo-shop\",method=\"ideal\",outcome=\"authorized\"} 1",
            "kassa_payment_time_to_safe_seconds_bucket{le=\"5.0\",shop=\"demo-shop\",method=\"ideal\"} 1",
            "kassa_status_known_delay_seconds_count{psp=\"cm\",how=\"poll\"} 1",
            "kassa_amount_minor_units_total{shop=\"demo-shop\",currency=\"EUR\",kind=\"safe\"} 4995",
            "kassa_commands_total{command=\"create_order\",result=\"ok\"} 1",
            "kassa_command_duration_seconds_count{command=\"create_order\"} 1",
            "kassa_psp_requests_total{psp=\"cm\",operation=\"start\",result=\"ok\"} 1",
            "kassa_psp_request_duration_seconds_count{psp=\"cm\",operation=\"start\"} 1",
            "kassa_notifications_received_total{psp=\"cm\",result=\"stored\"} 1",
            "kassa_polls_total{psp=\"cm\",result=\"read\"} 1",
            "kassa_outbox_pending{} 2",
            "kassa_outbox_oldest_age_seconds{} 1.5",
            "kassa_projection_lag_events{projection=\"checkout\"} 3",
            "kassa_projection_lag_seconds{projection=\"checkout\"} 0.0",
            "kassa_dead_letters{consumer=\"cm-gateway\"} 1",
            "kassa_sse_connections{kind=\"events\"} 1",
            "kassa_build_info{version=\"1.2.3\",revision=\"abc\"} 1",
            "kassa_livemode 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        // Whoever is awake at night finds what he is told to look at.
        let page = include_str!("../../../docs/how-to/at-night.md");
        let of_a_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let mut told = 0;
        for name in page
            .split(|c| !of_a_name(c))
            .filter(|word| word.starts_with("kassa_"))
        {
            let counted = text.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| ["{", " ", "_bucket{"].iter().any(|next| rest.starts_with(next)))
            });
            assert!(counted, "at-night.md names {name}, which is not counted");
            told += 1;
        }
        assert!(told >= 8, "{told} names");
        drop(open);
        assert!(render().contains("kassa_sse_connections{kind=\"events\"} 0"));
    }
}

//! What does the engine keep to when it decides, on a real store and without anybody around it: repeats, and reports that are
//! old or about something else?

use std::sync::Arc;

use async_nats::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use kassa_chassis::{
    config::{Cm, Config, Mode, Shop},
    micro::{Asked, Reply},
};
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId},
    methods::BUILT_IN,
    money::{Currency, Money},
    order::ProviderOrder,
    payment::Operation,
    report::{AuthorizationState, Confidence, ProviderReport, ReportedPayment},
    safety::Policy,
};
use kassa_engine::{
    Caller, Commands, Executor, Ladders, ObserveReport, OrderRegistered, Recorded, Said, Word, catalogue,
};
use kassa_event_store::{Store, StoreConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    stage::order_body,
    world::{SHOP, world},
};

struct Engine {
    executor: Arc<Executor>,
    config: Config,
}

impl Engine {
    async fn new() -> Self {
        let settings = StoreConfig {
            url: world().database().await,
            pool_size: 4,
        };
        let store = Store::connect(settings).await.expect("the store opens");
        let mut config = Config::default();
        config.shops.insert(
            SHOP.to_owned(),
            Shop {
                // Nobody calls it.
                cm: Cm {
                    mode: Mode::Sim,
                    rest_url: "http://cm.invalid".to_owned(),
                    account: "account".to_owned(),
                    password: None,
                    password_file: None,
                    merchant_key: "merchant".to_owned(),
                    timeout: SignedDuration::from_secs(1),
                },
                return_url_origins: vec!["https://shop.example".to_owned()],
            },
        );
        Self {
            executor: Arc::new(Executor::new(store)),
            config,
        }
    }

    async fn ask(&self, config: &Config, verb: &str, key: &str, body: &Value) -> Reply {
        let methods = catalogue(config).expect("the methods can be used");
        let ladders = Arc::new(Ladders::new(config.poll.ladder.clone(), &methods));
        let commands =
            Commands::from_config(config, self.executor.clone(), ladders, CancellationToken::new())
                .expect("the configuration holds");
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", key);
        headers.insert("Prefer", "wait=0");
        let asked = Asked {
            shop: SHOP.to_owned(),
            verb: verb.to_owned(),
            headers: Some(headers),
            body: serde_json::to_vec(body).expect("JSON").into(),
        };
        commands.answer(&asked).await
    }

    /// An order with an attempt that nobody has begun to work on.
    async fn started(&self) -> (OrderId, PaymentId) {
        let body = order_body("decisions", "ideal/success");
        let order = accepted(&self.ask(&self.config, "create_order", "order", &body).await);
        let order = OrderId::parse(order["order_id"].as_str().expect("an id")).expect("one of ours");
        let start = json!({ "order_id": order.to_string(), "method": "ideal" });
        let started = accepted(&self.ask(&self.config, "start_payment", "start", &start).await);
        let payment = started["payment_id"].as_str().expect("an id");
        (order, PaymentId::parse(payment).expect("one of ours"))
    }

    /// An order with an attempt whose shopper was sent to CM's page.
    async fn redirected(&self) -> (OrderId, PaymentId) {
        let (order, payment) = self.started().await;
        let call = |operation| Said::CallAttempted {
            operation,
            attempt: 1,
            reference: "ours".to_owned(),
            deadline: self.executor.now() + SignedDuration::from_secs(30),
        };
        self.tell(order, payment, call(Operation::CreateOrder)).await;
        let registered = OrderRegistered {
            order,
            payment,
            attempt: 1,
            provider: ProviderOrder {
                order_key: "key".to_owned(),
                menu_url: "https://cm.example/menu".to_owned(),
                reference: "ours".to_owned(),
                expires_at: None,
            },
            start: None,
        };
        self.executor
            .execute(order, fresh(), Caller::Internal, &registered)
            .await
            .expect("it is decided");
        self.tell(order, payment, call(Operation::Start)).await;
        let redirected = Said::Redirected {
            attempt: 1,
            provider_payment_id: "pid1".to_owned(),
            url: "https://cm.example/pay".to_owned(),
        };
        self.tell(order, payment, redirected).await;
        (order, payment)
    }

    async fn tell(&self, order: OrderId, payment: PaymentId, said: Said) {
        let word = Word { order, payment, said };
        let executed = self
            .executor
            .execute(order, fresh(), Caller::Internal, &word)
            .await
            .expect("it is decided");
        assert_eq!(
            executed.result.expect("a worker's word is no problem"),
            Recorded::Yes
        );
    }

    async fn observe(
        &self,
        order: OrderId,
        read_no: i64,
        read_started_at: Timestamp,
        report: ProviderReport,
    ) -> Recorded {
        let seen = ObserveReport {
            order,
            read_no,
            read_started_at,
            report,
            policy: Policy::default(),
        };
        let executed = self
            .executor
            .execute(order, fresh(), Caller::Internal, &seen)
            .await
            .expect("it is decided");
        executed.result.expect("a report is no problem")
    }

    async fn statuses(&self, order: OrderId, payment: PaymentId) -> (&'static str, &'static str) {
        let (order, _) = self.executor.current_order(order).await.expect("it is read");
        let (payment, _) = self.executor.current_payment(payment).await.expect("it is read");
        (order.opened().expect("it is there").status(), payment.status())
    }

    async fn has_expiry_timer(&self, order: OrderId) -> bool {
        let end_of_time = self.executor.now() + SignedDuration::from_hours(24 * 365);
        let timers = self.executor.store().due_timers(0, end_of_time, 100).await;
        timers
            .expect("timers can be read")
            .iter()
            .any(|timer| timer.kind == "expire" && timer.stream_id == order.stream())
    }
}

fn fresh() -> CommandId {
    CommandId::from_uuid(Uuid::new_v4())
}

fn accepted(reply: &Reply) -> Value {
    match &reply.result {
        Ok(body) => serde_json::from_slice(body).expect("answers are JSON"),
        Err(problem) => panic!("refused: {problem:?}"),
    }
}

fn refusal(reply: &Reply) -> (&str, bool) {
    match &reply.result {
        Ok(body) => panic!("accepted: {}", String::from_utf8_lossy(body)),
        Err(problem) => (problem.code.as_ref(), reply.replayed),
    }
}

/// One payment under `id`, in CM's word.
fn report(reference: &str, state: &str) -> ProviderReport {
    let amount = Money::new(
        order_body("decisions", "ideal/success")["amount"]["value"]
            .as_i64()
            .expect("an amount"),
        Currency::EUR,
    );
    ProviderReport {
        reference: reference.to_owned(),
        ordered: amount,
        considered_safe: None,
        payments: vec![ReportedPayment {
            id: "pid1".to_owned(),
            method: "IDEAL".to_owned(),
            state: AuthorizationState::from(state.to_owned()),
            confidence: (state == "AUTHORIZED").then_some(Confidence::AcquirerApproved),
            amount,
            reason: None,
            captures: vec![],
            refunds: vec![],
            chargebacks: vec![],
        }],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_answered_as_the_first_was_although_its_origin_or_method_is_gone() {
    let engine = Engine::new().await;
    let body = order_body("decisions", "ideal/success");
    let first = engine.ask(&engine.config, "create_order", "order", &body).await;
    let order = accepted(&first)["order_id"].clone();
    let start = json!({ "order_id": order, "method": "paypal" });
    let started = engine.ask(&engine.config, "start_payment", "start", &start).await;
    let payment = accepted(&started)["payment_id"].clone();

    let file = world().folder.join(format!("{}.toml", Uuid::new_v4()));
    let without_paypal = BUILT_IN.split("\n[[method]]").take(2).collect::<Vec<_>>();
    std::fs::write(&file, without_paypal.join("\n[[method]]")).expect("the folder can be written");
    let mut later = engine.config.clone();
    later.methods.file = Some(file);
    later
        .shops
        .get_mut(SHOP)
        .expect("the shop is configured")
        .return_url_origins = vec!["https://moved.example".to_owned()];

    let again = engine.ask(&later, "create_order", "order", &body).await;
    assert_eq!((&accepted(&again)["order_id"], again.replayed), (&order, true));
    let again = engine.ask(&later, "start_payment", "start", &start).await;
    assert_eq!(
        (&accepted(&again)["payment_id"], again.replayed),
        (&payment, true)
    );

    // The key still names one intention.
    let mut other = body.clone();
    other["description"] = json!("something else");
    let reused = engine.ask(&later, "create_order", "order", &other).await;
    assert_eq!(refusal(&reused), ("idempotency_key_reused", true));

    // What is new is refused, and not for good: the same key is taken once the configuration allows it.
    let mut new = body;
    new["order_reference"] = json!("decisions-2");
    for _ in 0..2 {
        let refused = engine.ask(&later, "create_order", "new", &new).await;
        assert_eq!(refusal(&refused), ("return_url_not_allowed", false));
    }
    let made = engine.ask(&engine.config, "create_order", "new", &new).await;
    assert!(!made.replayed);
    let start = json!({ "order_id": accepted(&made)["order_id"], "method": "paypal" });
    let refused = engine.ask(&later, "start_payment", "new-start", &start).await;
    assert_eq!(refusal(&refused), ("method_not_available", false));
    let made = engine
        .ask(&engine.config, "start_payment", "new-start", &start)
        .await;
    assert_eq!(accepted(&made)["status"], "started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_report_changes_neither_the_order_nor_its_payments() {
    let engine = Engine::new().await;
    let (order, payment) = engine.redirected().await;
    let now = engine.executor.now();
    let shown = report("ours", "REDIRECTED_FOR_AUTHORIZATION");
    assert_eq!(engine.observe(order, 5, now, shown).await, Recorded::Yes);
    for (read_no, word) in [(4, "CANCELED"), (5, "AUTHORIZED"), (1, "AUTHORIZED")] {
        let recorded = engine.observe(order, read_no, now, report("ours", word)).await;
        assert_eq!(recorded, Recorded::NotNow, "{read_no} {word}");
        assert_eq!(engine.statuses(order, payment).await, ("pending", "redirected"));
    }
    let paid = engine.observe(order, 6, now, report("ours", "AUTHORIZED")).await;
    assert_eq!(paid, Recorded::Yes);
    assert_eq!(engine.statuses(order, payment).await, ("paid", "authorized"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_says_what_was_known_writes_nothing_and_only_where_that_is_still_so() {
    let engine = Engine::new().await;
    let (order, payment) = engine.redirected().await;
    let now = engine.executor.now();
    let shown = || report("ours", "REDIRECTED_FOR_AUTHORIZATION");
    assert_eq!(engine.observe(order, 1, now, shown()).await, Recorded::Yes);
    let store = engine.executor.store();
    let head = store.head(0).await.expect("it is read");
    let same = ObserveReport {
        order,
        read_no: 2,
        read_started_at: now,
        report: shown(),
        policy: Policy::default(),
    };
    let command = fresh();
    let executed = engine
        .executor
        .execute(order, command, Caller::Internal, &same)
        .await
        .expect("it is decided");
    assert_eq!((executed.position, executed.replayed), (head, false));
    let kept = store.command(command.uuid()).await.expect("it is read");
    assert!(kept.is_none(), "{kept:?}");

    // Another process hears that it was paid; this one still remembers the order as it was, and is shown the same again.
    let other = Engine {
        executor: Arc::new(Executor::new(store.clone())),
        config: engine.config.clone(),
    };
    let paid = other.observe(order, 3, now, report("ours", "AUTHORIZED")).await;
    assert_eq!(paid, Recorded::Yes);
    engine.observe(order, 4, now, shown()).await;
    let (known, _) = engine.executor.current_order(order).await.expect("it is read");
    assert_eq!(
        known.opened().expect("it is there").read_no,
        4,
        "it is news again"
    );
    assert_eq!(
        engine.statuses(order, payment).await.1,
        "authorized",
        "which nothing takes back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_was_canceled_a_moment_ago_is_not_started_at_cm() {
    let engine = Engine::new().await;
    let (order, payment) = engine.started().await;
    let cancel = json!({ "order_id": order.to_string() });
    accepted(
        &engine
            .ask(&engine.config, "cancel_order", "cancel", &cancel)
            .await,
    );
    // The gateway has looked before; what it wants to do is looked at again, where it is recorded.
    let word = Word {
        order,
        payment,
        said: Said::CallAttempted {
            operation: Operation::CreateOrder,
            attempt: 1,
            reference: "ours".to_owned(),
            deadline: engine.executor.now() + SignedDuration::from_secs(30),
        },
    };
    let executed = engine
        .executor
        .execute(order, fresh(), Caller::Internal, &word)
        .await
        .expect("it is decided");
    assert_eq!(
        executed.result.expect("a worker's word is no problem"),
        Recorded::NotNow,
        "the gateway may call"
    );
    assert_eq!(engine.statuses(order, payment).await, ("canceled", "failed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_about_another_order_counts_for_no_payment() {
    for word in ["AUTHORIZED", "CANCELED"] {
        let engine = Engine::new().await;
        let (order, payment) = engine.redirected().await;
        let now = engine.executor.now();
        engine.observe(order, 1, now, report("somebody-else", word)).await;
        assert_eq!(engine.statuses(order, payment).await, ("pending", "redirected"));
        let (order, _) = engine.executor.current_order(order).await.expect("it is read");
        assert!(order.opened().expect("it is there").stopped.is_some(), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timer_of_an_orders_end_stays_until_the_order_has_ended_or_money_came() {
    let engine = Engine::new().await;
    let (order, payment) = engine.redirected().await;
    // By the clock of the machine that read it, its time is long over; by ours, it is not.
    let ahead = engine.executor.now() + SignedDuration::from_hours(24 * 30);
    engine.observe(order, 1, ahead, report("ours", "CANCELED")).await;
    assert_eq!(engine.statuses(order, payment).await, ("open", "canceled"));
    assert!(
        engine.has_expiry_timer(order).await,
        "nothing would end it any more"
    );
    engine
        .observe(order, 2, ahead, report("ours", "AUTHORIZED"))
        .await;
    assert_eq!(engine.statuses(order, payment).await, ("paid", "authorized"));
    assert!(!engine.has_expiry_timer(order).await);
}

//! How does a shop learn that an order is paid? By a live subject, by an answer that waits, by a live stream over HTTP or by a
//! durable consumer: all four tell of the same event, at once, and none of them has to ask again and again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, Request, jetstream};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use kassa_chassis::bus;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    http_api::{Answer, Api, Frames},
    stage::{DEADLINE, Stage},
    world::SHOP,
};

/// From the moment that stands in the event to the moment that the shop has it.
const AT_ONCE: SignedDuration = SignedDuration::from_millis(500);
/// Orders that are tried: a machine that pauses the whole process for a moment is not what is measured here. What is told is
/// looked at in every round, how fast it was told in the best one.
const ROUNDS: usize = 3;

/// What one way told, and when it was heard.
struct Heard {
    way: &'static str,
    at: Timestamp,
    told: Told,
}

/// Three of the ways bring the event itself, a wait brings the order as it stands with it.
enum Told {
    Event(Value),
    Order(Value),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_ways_to_learn_that_an_order_is_paid_tell_of_the_same_event_within_half_a_second() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let mut slowest = Vec::new();
    for _ in 0..ROUNDS {
        let heard = learned(&stage, &api).await;
        let event = heard
            .iter()
            .find_map(|heard| match &heard.told {
                Told::Event(event) => Some(event.clone()),
                Told::Order(_) => None,
            })
            .expect("three ways tell the event");
        for heard in &heard {
            match &heard.told {
                Told::Event(other) => assert_eq!(other, &event, "{}", heard.way),
                Told::Order(order) => {
                    assert_eq!(order["safe"]["value"], "yes", "{}: {order}", heard.way);
                    assert_eq!(order["status"], "paid", "{}: {order}", heard.way);
                    assert!(
                        number(order) >= sequence(&event),
                        "{}: {order}, {event}",
                        heard.way
                    );
                }
            }
        }
        let recorded: Timestamp = event["recordedtime"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a moment");
        let took: Vec<_> = heard
            .iter()
            .map(|heard| (heard.at.duration_since(recorded), heard.way))
            .collect();
        let last = took.into_iter().max().expect("there are ways");
        slowest.push(last);
        if last.0 <= AT_ONCE {
            return;
        }
    }
    panic!("too slow in each round: {slowest:?}");
}

/// One order, paid while everybody listens; what each way told of it.
async fn learned(stage: &Stage, api: &Api<'_>) -> Vec<Heard> {
    let (reference, order_id) = stage.create("ideal/success").await;
    let requests = AtomicUsize::new(0);
    let get = |path: &str| {
        requests.fetch_add(1, Ordering::Relaxed);
        api.request(Method::GET, path)
    };
    let now = || stage.store.clock().now();

    // As a checkout: the order's own live subject.
    let live = format!("kassa.live.{SHOP}.order.{order_id}.*");
    let mut live = stage.checkout.subscribe(live).await.expect("it may");
    stage.checkout.flush().await.expect("NATS answers");
    // As a browser's page or a service without NATS.
    let stream = format!("/v1/events/stream?order={order_id}");
    let mut frames = Frames::open(get(&stream)).await;
    frames.joined().await;
    // As whoever ships.
    let shipment = bus::connect(&stage.config.nats.url, &stage.logins.shipment, "test")
        .await
        .expect("NATS answers");
    let config = jetstream::consumer::pull::Config {
        durable_name: Some(format!("learns-{order_id}")),
        filter_subject: format!("kassa.evt.*.{SHOP}.order.{order_id}.payment_safe"),
        ..Default::default()
    };
    let durable = jetstream::new(shipment)
        .create_consumer_on_stream(config, "KASSA_EVENTS")
        .await
        .expect("it may");
    let mut delivered = durable.messages().await.expect("it may");
    stage.start(&order_id).await;

    let by_subject = async {
        loop {
            let message = live.next().await.expect("the subscription lives");
            let at = now();
            let event: Value = serde_json::from_slice(&message.payload).expect("JSON");
            if message.subject.ends_with(".payment_safe") {
                return (at, Told::Event(event));
            }
        }
    };
    let by_http = async {
        let waiting = get(&format!("/v1/orders/{order_id}")).header("Prefer", "wait=30; for=safe");
        let answer = Answer::of(waiting).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (now(), Told::Order(answer.body))
    };
    let by_question = async {
        let mut headers = HeaderMap::new();
        headers.insert("Prefer", "wait=25; for=safe");
        let body = serde_json::to_vec(&json!({ "order_id": order_id })).expect("JSON");
        let question = Request::new()
            .headers(headers)
            .payload(body.into())
            .timeout(Some(Duration::from_secs(30)));
        let asked = stage
            .checkout
            .send_request(format!("kassa.qry.{SHOP}.get_order"), question);
        let answer = asked.await.expect("it answers");
        let at = now();
        let order = serde_json::from_slice(&answer.payload).expect("JSON");
        (at, Told::Order(order))
    };
    let by_stream = async {
        let told = frames.until("order.payment_safe").await;
        let at = now();
        let (id, _, event) = told.into_iter().next_back().expect("an event");
        assert_eq!(id, format!("0-{}", sequence(&event)));
        (at, Told::Event(event))
    };
    let by_durable = async {
        let message = delivered.next().await.expect("it lives").expect("an event");
        let at = now();
        let number = message.info().expect("it is of a stream").stream_sequence;
        let event: Value = serde_json::from_slice(&message.payload).expect("JSON");
        assert_eq!(i64::try_from(number).ok(), Some(sequence(&event)));
        message.ack().await.expect("it may");
        (at, Told::Event(event))
    };
    let all = async {
        let press = stage.press(&reference, "ideal/success");
        tokio::join!(by_subject, by_http, by_question, by_stream, by_durable, press)
    };
    let told = tokio::time::timeout(DEADLINE, all).await.expect("all ways tell");
    assert!(requests.into_inner() <= 2, "nobody has to ask twice");
    let ways = [
        ("live subject", told.0),
        ("waiting for an answer over HTTP", told.1),
        ("waiting for an answer over NATS", told.2),
        ("live stream", told.3),
        ("durable consumer", told.4),
    ];
    ways.map(|(way, (at, told))| Heard { way, at, told }).into()
}

/// An event's position in the log.
fn sequence(event: &Value) -> i64 {
    event["sequence"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a sequence")
}

/// How far the log was read for an order's document.
fn number(order: &Value) -> i64 {
    order["position"]
        .as_str()
        .and_then(|text| text.split_once('-'))
        .and_then(|(_, number)| number.parse().ok())
        .expect("a position")
}

//! What do shoppers and shops notice when the bus stands still, loses its disk, or loses what it was told? Later, but
//! nothing else.

use async_nats::{HeaderMap, Request};
use futures::future::join_all;
use kassa_harness::proxy::{At, Cut, Proxy, Side, Upstream};
use kassa_infra::servers::Nats;
use serde_json::{Value, json};

use crate::{
    crashes::{another_goes_through, ends_well, stream},
    stage::{Plan, Stage},
    world::{Logins, own_nats},
};

fn on(url: String, logins: &Logins) -> Plan {
    Plan {
        nats: Some((url, logins.clone())),
        ..Plan::ordinary()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("it does not panic")
}

/// Every position is on the stream once, under its own number and id.
async fn stream_is_the_log(stage: &Stage, nats: &Nats, logins: &Logins) {
    let head = stage.store.head(0).await.expect("a head");
    let sql =
        format!("SELECT event_id::text FROM events WHERE part = 0 AND position <= {head} ORDER BY position");
    let stored = stage.sql_texts(&sql).await;
    let published: Vec<String> = stream(&nats.url(), logins, head)
        .await
        .into_iter()
        .map(|(_, id, _)| id)
        .collect();
    assert_eq!(published, stored);
}

/// Sends a signal to the server; it runs again when this is dropped, so that it can be stopped.
struct Paused(String);

impl Paused {
    fn new(nats: &Nats) -> Self {
        let paused = Self(nats.pid().to_string());
        paused.signal("-STOP");
        paused
    }

    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill")
            .args([signal, &self.0])
            .status();
        assert!(sent.expect("kill is there").success(), "kill {signal} {}", self.0);
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_40_while_the_bus_stands_still_orders_become_safe_and_afterwards_each_is_shipped_once() {
    let (nats, logins) = own_nats("f_40");
    let stage = Stage::planned(on(nats.url(), &logins)).await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        let (reference, order_id) = stage.create("ideal/success").await;
        stage.start(&order_id).await;
        orders.push((reference, order_id));
    }
    let paused = Paused::new(&nats);
    for (reference, order_id) in &orders {
        stage.press(reference, "ideal/success").await;
        let safe = format!(
            "SELECT count(*) FROM events WHERE event_type = 'ConfidenceReachedSafe' AND aggregate_id = '{order_id}'"
        );
        stage
            .until("safe without the bus", async |s| s.sql_count(&safe).await == 1)
            .await;
        assert_eq!(stage.shipments(order_id).await, 0, "nobody could be told");
    }
    // What was published and not answered meanwhile is stored now.
    drop(paused);
    for (reference, order_id) in &orders {
        ends_well(&stage, order_id, reference).await;
    }
    another_goes_through(&stage).await;
    stream_is_the_log(&stage, &nats, &logins).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_41_the_bus_loses_its_disk_while_twenty_pay_and_each_order_is_shipped_once() {
    let (mut nats, logins) = own_nats("f_41");
    let stage = Stage::planned(on(nats.url(), &logins)).await;
    let orders = join_all((0..20).map(|_| async {
        let (reference, order_id) = stage.create("ideal/success").await;
        stage.start(&order_id).await;
        (reference, order_id)
    }))
    .await;
    let press = |orders: &[(String, String)]| {
        let references: Vec<String> = orders.iter().map(|(reference, _)| reference.clone()).collect();
        let stage = &stage;
        async move { join_all(references.iter().map(|one| stage.press(one, "ideal/success"))).await }
    };
    // Ten wait at the bank until the disk is gone, so that some are shipped then and not all.
    let (now, later) = orders.split_at(10);
    let losing = async {
        stage
            .until("one is shipped", async |s| {
                s.sql_count("SELECT count(*) FROM shipment_service.handled").await > 0
            })
            .await;
        blocking(move || {
            nats.kill().expect("it is ours to kill");
            nats.wipe().expect("its data can be deleted");
            nats
        })
        .await
    };
    let (_, mut nats) = futures::join!(press(now), losing);
    press(later).await;
    let nats = blocking(move || {
        nats.restart().expect("it starts again on its port");
        nats
    })
    .await;
    for (reference, order_id) in &orders {
        ends_well(&stage, order_id, reference).await;
    }
    another_goes_through(&stage).await;
    stream_is_the_log(&stage, &nats, &logins).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_43_an_event_published_again_when_its_id_is_forgotten_is_refused_by_the_fence() {
    let (nats, logins) = own_nats("f_43");
    let stage = Stage::planned(on(nats.url(), &logins)).await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    ends_well(&stage, &order_id, &reference).await;
    let head = stage.store.head(0).await.expect("a head");
    let before = stream(&nats.url(), &logins, head).await;
    let safe = before
        .iter()
        .map(|(at, _, body)| (at, serde_json::from_slice::<Value>(body).expect("an envelope")))
        .find(|(_, event)| event["type"] == "kassa.order.payment_safe.v1")
        .expect("it was published");
    // As a relay does that was away for longer than the server remembers ids: by then they are as good as new.
    let client = kassa_chassis::bus::connect(&nats.url(), &logins.relay, "late relay")
        .await
        .expect("NATS answers");
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "as-good-as-new");
    headers.insert("Nats-Expected-Last-Sequence", (safe.0 - 1).to_string());
    let subject = format!("kassa.evt.0.{}.order.{order_id}.payment_safe", crate::world::SHOP);
    let again = Request::new()
        .headers(headers)
        .payload(serde_json::to_vec(&safe.1).expect("JSON").into());
    let answer = client.send_request(subject, again).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    // "wrong last sequence"
    assert_eq!(answer["error"]["err_code"], json!(10071), "{answer}");
    another_goes_through(&stage).await;
    assert_eq!(stage.shipments(&order_id).await, 1);
    stream_is_the_log(&stage, &nats, &logins).await;
}

/// An order whose shopper has paid, however often its start had to be asked for.
async fn paid(stage: &Stage) -> (String, String) {
    let (reference, order_id) = stage.create("ideal/success").await;
    let body = json!({ "order_id": order_id, "method": "ideal" });
    stage
        .until("a redirect", async |s| {
            s.command_with_key("start_payment", &reference, &body).await["next_action"]["type"] == "redirect"
        })
        .await;
    stage.press(&reference, "ideal/success").await;
    (reference, order_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_44_acknowledgements_that_are_lost_leave_each_event_on_the_stream_and_each_shipment_once() {
    let (nats, logins) = own_nats("f_44");
    let address = ([127, 0, 0, 1], nats.port()).into();
    let proxy = Proxy::start(Upstream::Tcp(address)).expect("a proxy");
    let url = format!("nats://{}", proxy.address());
    let stage = Stage::planned(on(url, &logins)).await;
    // What the server says to a publish is heard by nobody, twice; the connection goes with it.
    let publishes = Cut::new(Side::Up, At::PieceWith(b"kassa.evt.".to_vec()))
        .answered(b"KASSA_EVENTS")
        .times(2);
    proxy.cut(publishes);
    let mut orders = vec![paid(&stage).await];
    let cuts = async |count| {
        stage
            .until("its cuts", async |_| proxy.counts().cuts == count)
            .await;
    };
    cuts(2).await;
    // And what the shipment service says when it has shipped does not reach the server: `+ACK`, not that it is at work.
    let acknowledgement = Cut::new(Side::Up, At::Through(b"+AC".to_vec()));
    proxy.cut(acknowledgement.only(b"$JS.ACK.KASSA_EVENTS.test-shipment"));
    orders.push(paid(&stage).await);
    cuts(3).await;
    orders.push(paid(&stage).await);
    for (reference, order_id) in &orders {
        ends_well(&stage, order_id, reference).await;
    }
    // The server waits half a minute for it.
    stage
        .until(
            "the shipment that was not acknowledged is told of again",
            async |s| s.shipped.duplicates() > 0,
        )
        .await;
    for (_, order_id) in &orders {
        assert_eq!(stage.shipments(order_id).await, 1);
    }
    another_goes_through(&stage).await;
    stream_is_the_log(&stage, &nats, &logins).await;
}

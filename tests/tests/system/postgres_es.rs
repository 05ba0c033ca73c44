//! Can the log be read and replayed by who knows `postgres-es`? With the code of our example.

#[path = "../../examples/postgres_es/log.rs"]
mod log;

use std::collections::BTreeMap;

use cqrs_es::Aggregate as _;
use kassa_domain::{order::Order, payment::Payment};

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_and_replayed_through_the_repository_of_postgres_es() {
    let stage = Stage::new().await;
    let mut last = (String::new(), String::new());
    for _ in 0..2 {
        let (reference, order_id) = stage.create("ideal/success").await;
        let payment = stage.start(&order_id).await;
        stage.press(&reference, "ideal/success").await;
        stage.until_order(&order_id, "paid", "authorized", "yes").await;
        last = (
            order_id,
            payment["payment_id"].as_str().expect("an id").to_owned(),
        );
    }
    let log = log::open(&stage.database_url).await.expect("it opens");

    let (order_id, payment_id) = last;
    let events = log::history::<Order>(&log, &order_id).await.expect("it is read");
    let mut order = Order::default();
    for (event, version) in events.into_iter().zip(1..) {
        assert_eq!(event.sequence, version);
        assert_eq!(event.metadata["correlation_id"], order_id);
        order.apply(event.payload);
    }
    assert_eq!(order.opened().expect("it was created").status(), "paid");
    let mut payment = Payment::default();
    for event in log::history::<Payment>(&log, &payment_id)
        .await
        .expect("it is read")
    {
        payment.apply(event.payload);
    }
    assert_eq!(payment.status(), "authorized");

    // All of it, once, and each aggregate's in order.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0;
    let mut next = |id: String, sequence: usize| {
        let last = seen.insert(id, sequence).unwrap_or_default();
        assert_eq!(sequence, last + 1);
        count += 1;
    };
    log::replay::<Order>(&log, |event| next(event.aggregate_id, event.sequence))
        .await
        .expect("it is replayed");
    log::replay::<Payment>(&log, |event| next(event.aggregate_id, event.sequence))
        .await
        .expect("it is replayed");
    assert_eq!(stage.sql_count("SELECT count(*) FROM events").await, count);
}

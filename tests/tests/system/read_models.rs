//! Are the read models only ever what the log says? Emptied and built again, they are the same.

use crate::stage::Stage;

/// Every row, with sorted keys and without the order in which they were written.
async fn dump(stage: &Stage) -> Vec<String> {
    let mut rows = Vec::new();
    for table in ["read_orders", "read_shipping"] {
        let sql = format!("SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY order_id");
        rows.extend(stage.sql_texts(&sql).await);
    }
    rows
}

async fn caught_up(stage: &Stage) {
    stage
        .until("both projections have the whole log", async |s| {
            let head = s.store.head(0).await.unwrap_or(-1);
            s.sql_count(&format!(
                "SELECT count(*) FROM projections WHERE position = {head}"
            ))
            .await
                == 2
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_40_rebuilt_from_zero_they_are_what_they_were_also_with_two_instances_at_once() {
    let stage = Stage::new().await;
    for scenario in ["ideal/success", "ideal/cancel", "any/amount_short_11"] {
        let (reference, order_id) = stage.create(scenario).await;
        stage.start(&order_id).await;
        stage.press(&reference, scenario).await;
        stage
            .until("an end", async |s| {
                s.get_order(&order_id).await["next_action"]["type"] == "none"
            })
            .await;
    }
    caught_up(&stage).await;
    let live = dump(&stage).await;
    assert_eq!(live.len(), 3 + 1, "three orders, one release");

    // A second instance, on a store of its own, as on another machine.
    let settings = kassa_event_store::StoreConfig {
        url: stage.database_url.clone(),
        pool_size: 4,
    };
    let other = kassa_event_store::Store::connect(settings)
        .await
        .expect("the store opens");
    let stop = tokio_util::sync::CancellationToken::new();
    let second = tokio::spawn(kassa_read_models::run(
        stage.config.clone(),
        other.clone(),
        stop.clone(),
    ));
    for name in ["checkout", "shipping"] {
        assert!(
            kassa_read_models::rebuild(&other, name)
                .await
                .expect("it is emptied")
        );
    }
    assert!(
        !kassa_read_models::rebuild(&other, "no-such")
            .await
            .expect("it is told")
    );
    caught_up(&stage).await;
    assert_eq!(dump(&stage).await, live);

    // Read again from the middle, as after a restore of the checkpoint alone: nothing changes.
    stage
        .sql_texts("UPDATE projections SET position = position / 2 RETURNING name")
        .await;
    caught_up(&stage).await;
    stop.cancel();
    second.await.expect("no panic").expect("it ends well");
    assert_eq!(dump(&stage).await, live);
}

//! Is what is filled in what an installation would hold?

use kassa_relay::{EventFilter, FilteredLog};
use tokio::sync::mpsc;

use super::*;

async fn dump(desk: &Desk, projection: &str) -> Vec<u8> {
    let (out, mut chunks) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let dumping = kassa_read_models::dump(desk.store(), projection, None, &stop, out);
    let collecting = async {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend(chunk);
        }
        all
    };
    let (dumped, all) = tokio::join!(dumping, collecting);
    dumped.expect("it is dumped");
    all
}

#[tokio::test]
async fn a_rebuild_of_the_log_makes_the_rows_that_were_filled_in_and_every_event_can_be_told() {
    let bench = Bench::start().await.expect("a private server starts");
    let orders = AT_ONCE + 7;
    let filled = fill(&bench.url, &bench.template, 0, orders)
        .await
        .expect("it is filled");
    let desk = Desk::open(&bench.url).await.expect("the store opens");
    assert_eq!(desk.store().head(0).await.expect("it has a head"), filled.events);

    for projection in kassa_read_models::PROJECTIONS {
        let before = dump(&desk, projection).await;
        assert_eq!(
            before.split(|byte| *byte == b'\n').count(),
            usize::try_from(orders).expect("few") + 2
        );
        let stop = CancellationToken::new();
        kassa_read_models::rebuild(desk.store(), projection, &stop, &mut |_| {})
            .await
            .expect("it is rebuilt");
        let after = dump(&desk, projection).await;
        assert_eq!(
            String::from_utf8_lossy(&before),
            String::from_utf8_lossy(&after),
            "{projection}"
        );
    }

    let mut log = FilteredLog::open(desk.store().clone(), Default::default(), EventFilter::default())
        .await
        .expect("the log opens");
    let mut told = 0;
    while let Some(events) = log.next().await.expect("every event can be told") {
        told += i64::try_from(events.len()).expect("few");
    }
    assert_eq!(told, filled.events);

    // Life goes on: a new order, and a report of one that was only filled in.
    let new = desk.names(reference(orders));
    desk.pay(&new).await.expect("it is paid");
    desk.judge(&desk.names(reference(3))).await.expect("it is judged");
    let head = desk.store().head(0).await.expect("it has a head");
    assert_eq!(head, filled.events + bench.template.events() + 1);
}

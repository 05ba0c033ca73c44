//! How fast is our store? `Store::append` as the engine calls it: events, streams, command log and head in one commit.

use std::time::{Duration, Instant};

use kassa_event_store::{Appended, Store, StoreConfig};

use super::{
    slice::{Slice, Tally, Window, crowd},
    work::Numbers,
};

pub(super) struct Ours {
    store: Store,
    url: String,
    parts: usize,
    acknowledged: u64,
}

impl Ours {
    pub(super) async fn new(url: String, parts: usize) -> anyhow::Result<Self> {
        super::migrated(&url, parts).await?;
        let store = Store::connect(StoreConfig {
            url: url.clone(),
            pool_size: 2,
        })
        .await?;
        Ok(Self {
            store,
            url,
            parts,
            acknowledged: 0,
        })
    }

    pub(super) async fn slice(&mut self, callers: usize, window: Window) -> anyhow::Result<Slice> {
        let parts = self.parts;
        let slice = crowd(callers, window, |caller| {
            let store = self.store.clone();
            async move {
                let (mut numbers, mut tally) = (Numbers::new(), Tally::default());
                let mut turn = caller;
                while !window.is_over() {
                    let part = i32::try_from(turn % parts)?;
                    turn += 1;
                    let append = numbers.work().append(part, store.clock().now())?;
                    let asked = Instant::now();
                    let stored = store.append(append).await?;
                    anyhow::ensure!(matches!(stored, Appended::Stored { .. }), "{stored:?}");
                    tally.answered(window, asked, 1);
                }
                Ok(tally)
            }
        })
        .await?;
        self.acknowledged += slice.acknowledged;
        Ok(slice)
    }

    /// Is everything there that was acknowledged, and where it belongs? Returns the number of commands.
    pub(super) async fn check(&self) -> anyhow::Result<u64> {
        let client = super::connect(&self.url).await?;
        let number = async |what: &str, sql: &str| -> anyhow::Result<i64> {
            let row = client.query_one(sql, &[]).await?;
            let found: i64 = row.get(0);
            tracing::debug!(what, found);
            Ok(found)
        };
        let commands = number("commands", "SELECT count(*) FROM command_log").await?;
        anyhow::ensure!(
            u64::try_from(commands)? == self.acknowledged,
            "{} commands were acknowledged and {commands} are stored",
            self.acknowledged
        );
        let events = number("events", "SELECT count(*) FROM events").await?;
        anyhow::ensure!(
            events == commands * 2,
            "{commands} commands stored {events} events"
        );
        let gaps = number(
            "parts with gaps",
            "SELECT count(*) FROM log_head h JOIN (
                 SELECT part, count(*) AS n, min(position) AS first, max(position) AS last FROM events GROUP BY part) e
                 ON e.part = h.part
              WHERE (e.n, e.first, e.last) <> (h.position, 1, h.position)",
        )
        .await?;
        anyhow::ensure!(gaps == 0, "positions have gaps in {gaps} parts");
        let wrong = number(
            "streams",
            "SELECT count(*) FROM streams s FULL JOIN (
                 SELECT stream_id, min(part) AS part, count(*) AS n, max(version) AS last
                   FROM events GROUP BY stream_id) e ON e.stream_id = s.stream_id
              WHERE (e.part, e.n, e.last) IS DISTINCT FROM (s.part, s.version, s.version)",
        )
        .await?;
        anyhow::ensure!(wrong == 0, "{wrong} streams have another version than events");
        Ok(self.acknowledged)
    }
}

/// For turns of calibration.
pub(super) const PROBE: Duration = Duration::from_millis(600);

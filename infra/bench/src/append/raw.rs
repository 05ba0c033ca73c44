//! What could this machine store at most? The same bytes into the same tables by multi-row inserts: nobody asks, nothing is
//! checked, nobody is told.
//!
//! One connection a part, a batch as large as ours at that many callers, pipelined as ours: begin, the inserts, commit.
//! The next batch is put together while one is under way.

use std::time::Instant;

use jiff::Timestamp;
use kassa_event_store::Append;
use tokio_postgres::{Client, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    slice::{Slice, Tally, Window, crowd},
    work::Numbers,
};

const EVENTS: &str = "INSERT INTO events (part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id,
                                          event_type, schema_version, payload, metadata, recorded_at)
     SELECT $1, unnest($2::bigint[]), unnest($3::uuid[]), unnest($4::bigint[]), unnest($5::uuid[]), unnest($6::text[]),
            unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::smallint[]), unnest($11::bytea[]),
            unnest($12::bytea[]), unnest($13::timestamptz[])";
const STREAMS: &str =
    "INSERT INTO streams (stream_id, part, version) SELECT unnest($2::uuid[]), $1, unnest($3::bigint[])";
const COMMANDS: &str = "INSERT INTO command_log (command_id, fingerprint, outcome, part, position, at)
     SELECT unnest($2::uuid[]), unnest($3::bytea[]), unnest($4::bytea[]), $1, unnest($5::bigint[]),
            unnest($6::timestamptz[])";
const HEAD: &str = "UPDATE log_head SET position = $2 WHERE part = $1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Events, streams, command log and head.
    All,
    EventsAlone,
}

pub(super) struct Raw {
    what: What,
    lanes: Vec<Lane>,
}

struct Lane {
    part: i32,
    head: i64,
    client: Client,
    events: Statement,
    streams: Statement,
    commands: Statement,
    move_head: Statement,
}

impl Raw {
    pub(super) async fn new(url: &str, parts: usize, what: What) -> anyhow::Result<Self> {
        super::migrated(url, parts).await?;
        let mut lanes = Vec::new();
        for part in 0..i32::try_from(parts)? {
            let client = super::connect(url).await?;
            lanes.push(Lane {
                part,
                head: 0,
                events: client.prepare(EVENTS).await?,
                streams: client.prepare(STREAMS).await?,
                commands: client.prepare(COMMANDS).await?,
                move_head: client.prepare(HEAD).await?,
                client,
            });
        }
        Ok(Self { what, lanes })
    }

    pub(super) async fn slice(&mut self, callers: usize, window: Window) -> anyhow::Result<Slice> {
        let count = self.lanes.len().min(callers);
        let size = (callers / count).max(1);
        let what = self.what;
        let lanes = std::sync::Mutex::new(self.lanes.drain(..).map(Some).collect::<Vec<_>>());
        let (back, mut returned) = tokio::sync::mpsc::unbounded_channel();
        let slice = crowd(count, window, |n| {
            let lane = lanes.lock().ok().and_then(|mut lanes| lanes[n].take());
            let back = back.clone();
            async move {
                let mut lane = lane.ok_or_else(|| anyhow::anyhow!("a lane is used once"))?;
                let tally = lane.run(size, what, window).await;
                let _ = back.send(lane);
                tally
            }
        })
        .await;
        drop(back);
        while let Some(lane) = returned.recv().await {
            self.lanes.push(lane);
        }
        self.lanes
            .extend(lanes.into_inner().into_iter().flatten().flatten());
        self.lanes.sort_by_key(|lane| lane.part);
        slice
    }
}

impl Lane {
    async fn run(&mut self, size: usize, what: What, window: Window) -> anyhow::Result<Tally> {
        let (mut numbers, mut tally) = (Numbers::new(), Tally::default());
        let mut next = Batch::new(&mut numbers, size, self.part)?;
        while !window.is_over() {
            let batch = next;
            let asked = Instant::now();
            let positions: Vec<i64> = (self.head + 1..).take(size * 2).collect();
            let last: Vec<i64> = positions.iter().copied().skip(1).step_by(2).collect();
            let head = self.head + i64::try_from(size * 2)?;
            let flight = self.fly(&batch, what, &positions, &last, head);
            // The flight is sent before the next batch is put together.
            let (flown, made) = futures::join!(flight, async { Batch::new(&mut numbers, size, self.part) });
            flown?;
            next = made?;
            self.head = head;
            tally.answered(window, asked, size);
        }
        Ok(tally)
    }

    async fn fly(
        &self,
        batch: &Batch,
        what: What,
        positions: &[i64],
        last: &[i64],
        head: i64,
    ) -> anyhow::Result<()> {
        let b = batch.borrowed();
        let events: [&(dyn ToSql + Sync); 13] = [
            &self.part,
            &positions,
            &b.stream,
            &b.version,
            &b.event,
            &b.shop,
            &b.kind,
            &b.aggregate,
            &b.name,
            &b.schema,
            &b.payload,
            &b.metadata,
            &b.at,
        ];
        let streams: [&(dyn ToSql + Sync); 3] = [&self.part, &b.streams, &b.versions];
        let commands: [&(dyn ToSql + Sync); 6] = [
            &self.part,
            &b.command,
            &b.fingerprint,
            &b.outcome,
            &last,
            &b.command_at,
        ];
        let move_head: [&(dyn ToSql + Sync); 2] = [&self.part, &head];
        let client = &self.client;
        if what == What::EventsAlone {
            let (begun, stored, committed) = futures::join!(
                client.batch_execute("BEGIN"),
                client.execute(&self.events, &events),
                client.batch_execute("COMMIT"),
            );
            begun?;
            stored?;
            return Ok(committed?);
        }
        let (begun, events, streams, commands, moved, committed) = futures::join!(
            client.batch_execute("BEGIN"),
            client.execute(&self.events, &events),
            client.execute(&self.streams, &streams),
            client.execute(&self.commands, &commands),
            client.execute(&self.move_head, &move_head),
            client.batch_execute("COMMIT"),
        );
        begun?;
        events?;
        streams?;
        commands?;
        moved?;
        Ok(committed?)
    }
}

/// What is stored by one flight.
struct Batch(Vec<Append>);

impl Batch {
    fn new(numbers: &mut Numbers, size: usize, part: i32) -> anyhow::Result<Self> {
        // Any time will do; it only has to be stored.
        let at = Timestamp::UNIX_EPOCH;
        let appends: anyhow::Result<_> = (0..size).map(|_| numbers.work().append(part, at)).collect();
        Ok(Self(appends?))
    }

    fn borrowed(&self) -> Columns<'_> {
        let mut columns = Columns::default();
        for append in &self.0 {
            columns.command.push(append.command_id);
            columns.fingerprint.push(&append.fingerprint);
            columns.outcome.push(&append.outcome);
            columns.command_at.push(append.recorded_at);
            for (event, version) in append.events.iter().zip(1..) {
                columns.stream.push(event.stream_id);
                columns.version.push(version);
                columns.event.push(event.event_id);
                columns.shop.push(&event.shop);
                columns.kind.push(&event.aggregate_type);
                columns.aggregate.push(&event.aggregate_id);
                columns.name.push(&event.event_type);
                columns.schema.push(event.schema_version);
                columns.payload.push(&event.payload);
                columns.metadata.push(&event.metadata);
                columns.at.push(append.recorded_at);
            }
            for touch in &append.touches {
                columns.streams.push(touch.stream_id);
                columns.versions.push(2);
            }
        }
        columns
    }
}

#[derive(Default)]
struct Columns<'b> {
    command: Vec<Uuid>,
    fingerprint: Vec<&'b [u8]>,
    outcome: Vec<&'b [u8]>,
    command_at: Vec<Timestamp>,
    stream: Vec<Uuid>,
    version: Vec<i64>,
    event: Vec<Uuid>,
    shop: Vec<&'b str>,
    kind: Vec<&'b str>,
    aggregate: Vec<&'b str>,
    name: Vec<&'b str>,
    schema: Vec<i16>,
    payload: Vec<&'b [u8]>,
    metadata: Vec<&'b [u8]>,
    at: Vec<Timestamp>,
    streams: Vec<Uuid>,
    versions: Vec<i64>,
}

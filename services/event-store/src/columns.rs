//! How does the statement that decides one by one take a batch? As arrays, one a column, each row with its request's number.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{append::Append, batcher::Waiting};

/// The batch as the statement takes it: one array a column.
#[derive(Default)]
#[expect(
    clippy::type_complexity,
    reason = "one tuple a row source of the statement, in the statement's own order"
)]
pub(crate) struct Columns<'a> {
    req: (Vec<i32>, Vec<Uuid>, Vec<&'a [u8]>, Vec<&'a [u8]>, Vec<Timestamp>),
    touch: (Vec<i32>, Vec<Uuid>, Vec<i64>, Vec<i64>),
    event_keys: (Vec<i32>, Vec<Uuid>, Vec<i64>, Vec<Uuid>),
    event_names: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<i16>),
    event_bytes: (Vec<&'a [u8]>, Vec<&'a [u8]>),
    timer: (
        Vec<i32>,
        Vec<Uuid>,
        Vec<Timestamp>,
        Vec<&'a str>,
        Vec<Uuid>,
        Vec<&'a [u8]>,
    ),
    done: (Vec<i32>, Vec<Uuid>),
    vault: (Vec<i32>, Vec<&'a str>, Vec<&'a str>, Vec<&'a [u8]>),
    read: (Vec<i32>, Vec<&'a str>, Vec<&'a str>),
}

impl<'a> Columns<'a> {
    pub(crate) fn of(batch: &'a [Waiting]) -> Self {
        let mut columns = Self::default();
        for (one, r) in batch.iter().zip(0_i32..) {
            columns.add(&one.append, r);
        }
        columns
    }

    fn add(&mut self, append: &'a Append, r: i32) {
        self.req.0.push(r);
        self.req.1.push(append.command_id);
        self.req.2.push(&append.fingerprint);
        self.req.3.push(&append.outcome);
        self.req.4.push(append.recorded_at);
        let mut versions: HashMap<Uuid, i64> = HashMap::new();
        for touch in &append.touches {
            versions.insert(touch.stream_id, touch.expected);
        }
        for event in &append.events {
            let version = versions.entry(event.stream_id).or_default();
            *version += 1;
            self.event_keys.0.push(r);
            self.event_keys.1.push(event.stream_id);
            self.event_keys.2.push(*version);
            self.event_keys.3.push(event.event_id);
            self.event_names.0.push(&event.shop);
            self.event_names.1.push(&event.aggregate_type);
            self.event_names.2.push(&event.aggregate_id);
            self.event_names.3.push(&event.event_type);
            self.event_names.4.push(event.schema_version);
            self.event_bytes.0.push(&event.payload);
            self.event_bytes.1.push(&event.metadata);
        }
        for touch in &append.touches {
            self.touch.0.push(r);
            self.touch.1.push(touch.stream_id);
            self.touch.2.push(touch.expected);
            self.touch.3.push(
                versions
                    .get(&touch.stream_id)
                    .map_or(0, |version| version - touch.expected),
            );
        }
        for timer in &append.timers {
            self.timer.0.push(r);
            self.timer.1.push(timer.timer_id);
            self.timer.2.push(timer.due_at);
            self.timer.3.push(&timer.kind);
            self.timer.4.push(timer.stream_id);
            self.timer.5.push(&timer.payload);
        }
        for timer_id in &append.done_timers {
            self.done.0.push(r);
            self.done.1.push(*timer_id);
        }
        for row in &append.vault {
            self.vault.0.push(r);
            self.vault.1.push(&row.shopper_id);
            self.vault.2.push(&row.shop);
            self.vault.3.push(&row.data);
        }
        for read in &append.reads {
            self.read.0.push(r);
            self.read.1.push(&read.order_id);
            self.read.2.push(&read.shop);
        }
    }

    /// In the order of the statement's `$1` to `$36`.
    pub(crate) fn params<'p>(&'p self, part: &'p i32) -> [&'p (dyn ToSql + Sync); 36] {
        [
            part,
            &self.req.0,
            &self.req.1,
            &self.req.2,
            &self.req.3,
            &self.req.4,
            &self.touch.0,
            &self.touch.1,
            &self.touch.2,
            &self.touch.3,
            &self.event_keys.0,
            &self.event_keys.1,
            &self.event_keys.2,
            &self.event_keys.3,
            &self.event_names.0,
            &self.event_names.1,
            &self.event_names.2,
            &self.event_names.3,
            &self.event_names.4,
            &self.event_bytes.0,
            &self.event_bytes.1,
            &self.timer.0,
            &self.timer.1,
            &self.timer.2,
            &self.timer.3,
            &self.timer.4,
            &self.timer.5,
            &self.done.0,
            &self.done.1,
            &self.vault.0,
            &self.vault.1,
            &self.vault.2,
            &self.vault.3,
            &self.read.0,
            &self.read.1,
            &self.read.2,
        ]
    }
}

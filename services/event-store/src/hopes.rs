//! How does the statement for batches that win as a whole take one? As arrays, one a column; where each request's events
//! end is known before.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{
    append::{Append, Appended},
    batcher::Waiting,
};

#[derive(Default)]
#[expect(
    clippy::type_complexity,
    reason = "one tuple a row source of the statement, in the statement's own order"
)]
pub(crate) struct Hopes<'a> {
    events: i64,
    command_id: Vec<Uuid>,
    fingerprint: Vec<&'a [u8]>,
    outcome: Vec<&'a [u8]>,
    /// Of a request's last event, counted from the head as it was; 0 without one.
    last: Vec<i64>,
    at: Vec<Timestamp>,
    begun: (Vec<Uuid>, Vec<i64>),
    /// Streams that were there: the version seen, and the one reached.
    known: (Vec<Uuid>, Vec<i64>, Vec<i64>),
    /// Streams that must not be there, and are not begun either.
    absent: Vec<Uuid>,
    event_keys: (Vec<Uuid>, Vec<i64>, Vec<Uuid>),
    event_names: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<i16>),
    event_bytes: (Vec<&'a [u8]>, Vec<&'a [u8]>),
    event_at: Vec<Timestamp>,
    timer: (Vec<Uuid>, Vec<Timestamp>, Vec<&'a str>, Vec<Uuid>, Vec<&'a [u8]>),
    done: Vec<Uuid>,
    vault: (Vec<&'a str>, Vec<&'a str>, Vec<&'a [u8]>, Vec<Timestamp>),
    read: (Vec<&'a str>, Vec<&'a str>),
}

impl<'a> Hopes<'a> {
    pub(crate) fn of(batch: &'a [Waiting]) -> Self {
        let mut hopes = Self::default();
        for one in batch {
            hopes.add(&one.append);
        }
        hopes
    }

    pub(crate) fn has_beside(&self) -> bool {
        !(self.timer.0.is_empty()
            && self.done.is_empty()
            && self.vault.0.is_empty()
            && self.read.0.is_empty())
    }

    /// What each request gets when all were stored behind `base`.
    pub(crate) fn stored(&self, base: i64) -> HashMap<Uuid, Appended> {
        let places = self.command_id.iter().zip(&self.last);
        places
            .map(|(command, last)| {
                (
                    *command,
                    Appended::Stored {
                        position: base + last,
                    },
                )
            })
            .collect()
    }

    fn add(&mut self, append: &'a Append) {
        // A decision touches a stream or two: looking through them is quicker than a map.
        let mut streams: Vec<(Uuid, i64, i64)> = append
            .touches
            .iter()
            .map(|touch| (touch.stream_id, touch.expected, touch.expected))
            .collect();
        for event in &append.events {
            let version = match streams.iter_mut().find(|(id, ..)| *id == event.stream_id) {
                Some((_, _, reached)) => {
                    *reached += 1;
                    *reached
                }
                // `Append::check` has refused it.
                None => continue,
            };
            self.event_keys.0.push(event.stream_id);
            self.event_keys.1.push(version);
            self.event_keys.2.push(event.event_id);
            self.event_names.0.push(&event.shop);
            self.event_names.1.push(&event.aggregate_type);
            self.event_names.2.push(&event.aggregate_id);
            self.event_names.3.push(&event.event_type);
            self.event_names.4.push(event.schema_version);
            self.event_bytes.0.push(&event.payload);
            self.event_bytes.1.push(&event.metadata);
            self.event_at.push(append.recorded_at);
            self.events += 1;
        }
        for (stream_id, expected, reached) in streams {
            if expected > 0 {
                self.known.0.push(stream_id);
                self.known.1.push(expected);
                self.known.2.push(reached);
            } else if reached > 0 {
                self.begun.0.push(stream_id);
                self.begun.1.push(reached);
            } else {
                self.absent.push(stream_id);
            }
        }
        self.command_id.push(append.command_id);
        self.fingerprint.push(&append.fingerprint);
        self.outcome.push(&append.outcome);
        self.last
            .push(if append.events.is_empty() { 0 } else { self.events });
        self.at.push(append.recorded_at);
        for timer in &append.timers {
            self.timer.0.push(timer.timer_id);
            self.timer.1.push(timer.due_at);
            self.timer.2.push(&timer.kind);
            self.timer.3.push(timer.stream_id);
            self.timer.4.push(&timer.payload);
        }
        self.done.extend(&append.done_timers);
        for row in &append.vault {
            self.vault.0.push(&row.shopper_id);
            self.vault.1.push(&row.shop);
            self.vault.2.push(&row.data);
            self.vault.3.push(append.recorded_at);
        }
        for read in &append.reads {
            self.read.0.push(&read.order_id);
            self.read.1.push(&read.shop);
        }
    }

    /// In the order of the statement's `$1` to `$24`, and to `$36` with what is beside the events.
    pub(crate) fn params<'p>(&'p self, part: &'p i32) -> Vec<&'p (dyn ToSql + Sync)> {
        let mut params: Vec<&'p (dyn ToSql + Sync)> = vec![
            part,
            &self.events,
            &self.command_id,
            &self.fingerprint,
            &self.outcome,
            &self.last,
            &self.at,
            &self.begun.0,
            &self.begun.1,
            &self.known.0,
            &self.known.1,
            &self.known.2,
            &self.absent,
            &self.event_keys.0,
            &self.event_keys.1,
            &self.event_keys.2,
            &self.event_names.0,
            &self.event_names.1,
            &self.event_names.2,
            &self.event_names.3,
            &self.event_names.4,
            &self.event_bytes.0,
            &self.event_bytes.1,
            &self.event_at,
        ];
        if self.has_beside() {
            let beside: [&'p (dyn ToSql + Sync); 12] = [
                &self.timer.0,
                &self.timer.1,
                &self.timer.2,
                &self.timer.3,
                &self.timer.4,
                &self.done,
                &self.vault.0,
                &self.vault.1,
                &self.vault.2,
                &self.vault.3,
                &self.read.0,
                &self.read.1,
            ];
            params.extend(beside);
        }
        params
    }
}

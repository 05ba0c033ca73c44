//! How is a part of the log found without reading all of it into memory? In steps over its gap-free positions, so that one
//! statement looks at a bounded stretch, however little of it is wanted.

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{
    read::{COLUMNS, StoredEvent, bound, stored},
    store::{Store, StoreError, refused},
};

/// Positions that one statement looks at: some tenths of a second, where statements may take ten.
const STRETCH: i64 = 20_000;

/// Which events of one part are wanted: those of which all that is given is true.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    pub part: i32,
    pub shop: Option<String>,
    /// Only these streams.
    pub streams: Option<Vec<Uuid>>,
    /// Only these stored event types.
    pub only: Option<Vec<String>>,
    /// Stored event types that are not wanted.
    pub without: Vec<String>,
    /// Only streams whose first event, as JSON, has this text at this path.
    pub beginning: Option<(Vec<String>, String)>,
    /// The first moment that is wanted.
    pub recorded_from: Option<Timestamp>,
    /// The first moment that is not wanted any more.
    pub recorded_before: Option<Timestamp>,
    /// The last moment that is wanted.
    pub recorded_until: Option<Timestamp>,
}

/// Some of the events that were asked for, and where to go on.
#[derive(Debug)]
pub struct Found {
    pub events: Vec<StoredEvent>,
    /// Up to here everything was looked at; it may be past the last event.
    pub looked_until: i64,
}

impl Store {
    /// Events after a position and up to another, in order, at most `limit`. It may find none and still not be at the end:
    /// ask again from [`Found::looked_until`].
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn find(
        &self,
        filter: &LogFilter,
        after: i64,
        until: i64,
        limit: usize,
    ) -> Result<Found, StoreError> {
        // Few streams are found by their index, wherever they are; the rest is looked through.
        let stretch_end = if filter.streams.is_some() {
            until
        } else {
            until.min(after.saturating_add(STRETCH))
        };
        let limit = bound(limit);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&filter.part, &after, &stretch_end, &limit];
        let mut conditions = String::new();
        let mut also = |condition: &str, value| {
            parameters.push(value);
            conditions.push_str(" AND ");
            conditions.push_str(&condition.replace('?', &format!("${}", parameters.len())));
        };
        if let Some(shop) = &filter.shop {
            also("shop = ?", shop);
        }
        if let Some(streams) = &filter.streams {
            also("stream_id = ANY (?)", streams);
        }
        if let Some(types) = &filter.only {
            also("event_type = ANY (?)", types);
        }
        if !filter.without.is_empty() {
            also("event_type <> ALL (?)", &filter.without);
        }
        if let Some(moment) = &filter.recorded_from {
            also("recorded_at >= ?", moment);
        }
        if let Some(moment) = &filter.recorded_before {
            also("recorded_at < ?", moment);
        }
        if let Some(moment) = &filter.recorded_until {
            also("recorded_at <= ?", moment);
        }
        if let Some((path, text)) = &filter.beginning {
            also(
                "(SELECT convert_from(f.payload, 'UTF8')::json #>> ? FROM events AS f
                   WHERE f.part = e.part AND f.stream_id = e.stream_id AND f.version = 1)",
                path,
            );
            // The value that the path is compared with.
            let place = parameters.len() + 1;
            parameters.push(text);
            conditions.push_str(&format!(" = ${place}"));
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM events AS e WHERE part = $1 AND position > $2 AND position <= $3{conditions}
              ORDER BY position LIMIT $4"
        );
        let client = self.client().await?;
        let statement = client.prepare_cached(&sql).await.map_err(refused)?;
        let rows = client.query(&statement, &parameters).await.map_err(refused)?;
        let events: Vec<StoredEvent> = rows.iter().map(stored).collect();
        let looked_until = match events.last() {
            Some(last) if bound(events.len()) == limit => last.position,
            _ => stretch_end,
        };
        Ok(Found { events, looked_until })
    }
}

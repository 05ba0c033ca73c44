//! What is exported of the database? One query a file, and how a row becomes a line.

use futures::TryStreamExt as _;
use jiff::Timestamp;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use super::{Folder, Line};

/// Rows fetched at once: memory stays small, whatever the table.
const CHUNK: i32 = 2_000;

pub(super) struct Table {
    pub(super) file: &'static str,
    /// Exported where this is there; a shipment service may have a database of its own.
    needs: Option<&'static str>,
    sql: &'static str,
    line: fn(&Row, &mut Line) -> anyhow::Result<()>,
}

pub(super) const TABLES: &[Table] = &[
    Table {
        file: "events.ndjson",
        needs: None,
        sql: "SELECT part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id, event_type,
                     schema_version, recorded_at, payload, metadata
                FROM events ORDER BY part, position",
        line: event,
    },
    Table {
        file: "commands.ndjson",
        needs: None,
        sql: "SELECT command_id, fingerprint, outcome, part, position, at FROM command_log ORDER BY part, position, command_id",
        line: command,
    },
    Table {
        file: "streams.ndjson",
        needs: None,
        sql: "SELECT json_build_object('stream_id', stream_id, 'part', part, 'version', version)::text
                FROM streams ORDER BY stream_id",
        line: whole,
    },
    Table {
        file: "timers.ndjson",
        needs: None,
        sql: "SELECT json_build_object('timer_id', timer_id, 'kind', kind, 'due_at', due_at, 'stream_id', stream_id)::text
                FROM timers ORDER BY due_at, timer_id",
        line: whole,
    },
    Table {
        file: "reads.ndjson",
        needs: None,
        sql: "SELECT to_json(r)::text FROM provider_reads AS r ORDER BY order_id",
        line: whole,
    },
    // A delivery and what followed from it are one transaction, and have its time.
    Table {
        file: "shipment.ndjson",
        needs: Some("shipment_service.shipment_inbox"),
        sql: "SELECT row_number() OVER (ORDER BY at, rank, order_id), what, event_id, shop, order_id, epoch, amount_minor, currency,
                     sequence, at
                FROM (SELECT 'delivery' AS what, 0 AS rank, event_id, split_part(subject, '.', 4) AS shop, order_id, epoch,
                             NULL::bigint AS amount_minor, NULL::text AS currency, sequence, received_at AS at
                        FROM shipment_service.shipment_inbox
                      UNION ALL
                      SELECT 'release', 1, s.event_id, split_part(i.subject, '.', 4), s.order_id, s.epoch, s.amount_minor,
                             s.currency, i.sequence, s.released_at
                        FROM shipment_service.shipments AS s
                        LEFT JOIN shipment_service.shipment_inbox AS i USING (event_id)
                      UNION ALL
                      SELECT 'hold', 1, h.event_id, split_part(i.subject, '.', 4), h.order_id, h.epoch, NULL, NULL,
                             i.sequence, h.held_at
                        FROM shipment_service.holds AS h
                        LEFT JOIN shipment_service.shipment_inbox AS i USING (event_id)) AS all_rows
               ORDER BY at, rank, order_id",
        line: shipment,
    },
];

/// The number of rows; none where there is no such table.
pub(super) async fn write(
    folder: &Folder,
    snapshot: &Transaction<'_>,
    table: &Table,
) -> anyhow::Result<Option<u64>> {
    if let Some(name) = table.needs {
        let found = snapshot
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&name])
            .await?;
        if !found.get::<_, bool>(0) {
            return Ok(None);
        }
    }
    let mut file = folder.file(table.file)?;
    let portal = snapshot.bind(table.sql, &[]).await?;
    let mut line = Line::default();
    loop {
        let rows = snapshot.query_portal_raw(&portal, CHUNK).await?;
        let mut rows = std::pin::pin!(rows);
        let mut any = false;
        while let Some(row) = rows.try_next().await? {
            any = true;
            (table.line)(&row, &mut line)?;
            line.end(&mut file)?;
        }
        if !any {
            return Ok(Some(file.finish()?));
        }
    }
}

fn is_whole(json: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok()
}

fn whole(row: &Row, line: &mut Line) -> anyhow::Result<()> {
    line.document(row.get(0));
    Ok(())
}

fn event(row: &Row, line: &mut Line) -> anyhow::Result<()> {
    line.put("part", row.get::<_, i32>(0))?;
    line.put("position", row.get::<_, i64>(1))?;
    line.put("stream_id", row.get::<_, Uuid>(2))?;
    line.put("version", row.get::<_, i64>(3))?;
    line.put("event_id", row.get::<_, Uuid>(4))?;
    for (place, name) in [
        (5, "shop"),
        (6, "aggregate_type"),
        (7, "aggregate_id"),
        (8, "event_type"),
    ] {
        line.put(name, row.get::<_, &str>(place))?;
    }
    line.put("schema_version", row.get::<_, i16>(9))?;
    line.put("recorded_at", row.get::<_, Timestamp>(10))?;
    json_bytes(line, "payload", row.get(11))?;
    json_bytes(line, "metadata", row.get(12))
}

fn command(row: &Row, line: &mut Line) -> anyhow::Result<()> {
    line.put("command_id", row.get::<_, Uuid>(0))?;
    line.put("fingerprint", data_encoding::HEXLOWER.encode(row.get(1)))?;
    json_bytes(line, "outcome", row.get(2))?;
    line.put("part", row.get::<_, i32>(3))?;
    line.put("position", row.get::<_, i64>(4))?;
    line.put("at", row.get::<_, Timestamp>(5))
}

fn shipment(row: &Row, line: &mut Line) -> anyhow::Result<()> {
    line.put("n", row.get::<_, i64>(0))?;
    line.put("what", row.get::<_, &str>(1))?;
    line.put("event_id", row.get::<_, Uuid>(2))?;
    line.put("shop", row.get::<_, Option<&str>>(3).unwrap_or_default())?;
    line.put("order_id", row.get::<_, &str>(4))?;
    line.put("epoch", row.get::<_, i32>(5))?;
    let amount: Option<i64> = row.get(6);
    let amount =
        amount.map(|minor| serde_json::json!({ "value": minor, "currency": row.get::<_, Option<&str>>(7) }));
    line.put("amount", amount)?;
    line.put("position", row.get::<_, Option<i64>>(8))?;
    line.put("at", row.get::<_, Timestamp>(9))
}

/// The stored bytes as they are where they are one line of JSON; else, so that nothing is lost, in base64.
fn json_bytes(line: &mut Line, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    if is_whole(bytes) && !bytes.contains(&b'\n') {
        line.raw(name, bytes);
        Ok(())
    } else {
        line.put(
            name,
            serde_json::json!({ "base64": data_encoding::BASE64.encode(bytes) }),
        )
    }
}

//! What does one order leave in the database, and what would another leave? The rows of a real one, with its names, times
//! and positions taken out.

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use kassa_domain::ids::{Shop, epoch_event_id, event_id};
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::desk::{Names, SHOP};

/// Everything that an order has rows in, but for its timers: those of an order that is done are gone.
const TABLES: [(&str, &str); 8] = [
    ("events", "position"),
    ("command_log", "position"),
    ("streams", "stream_id"),
    ("read_orders_all", "order_id"),
    ("read_shipping_all", "order_id"),
    ("provider_reads", "order_id"),
    ("shoppers", "shopper_id"),
    ("notifications", "reference"),
];
/// PGCOPY, its flags and the length of an extension: what a binary COPY begins with.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];
const SAFE: &str = "ConfidenceReachedSafe";

/// One order's rows with holes in them.
#[derive(Debug)]
pub(crate) struct Template {
    pub(super) tables: Vec<Table>,
    /// How many events each of its commands stored, in order.
    pub(super) steps: Vec<i64>,
    events: Vec<Event>,
    /// When it was created, in microseconds of PostgreSQL's clock.
    created_at: i64,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: String,
    /// Each with the step at which it is written.
    pub(super) rows: Vec<(usize, Vec<Field>)>,
}

#[derive(Debug)]
pub(super) enum Field {
    Null,
    /// Of the order's own events, counted from 1.
    Position(i64),
    /// Microseconds.
    Time(i64),
    Pieces(Vec<Piece>),
}

#[derive(Debug)]
pub(super) enum Piece {
    Same(Bytes),
    /// One of the words.
    Word(usize),
}

/// Whose and which: what an event's id is derived from.
#[derive(Debug)]
struct Event {
    of_order: bool,
    version: i64,
    by_epoch: bool,
}

/// The words of one order, in the order in which the template counts them.
#[derive(Debug)]
pub(super) struct Words(pub(super) Vec<Vec<u8>>);

impl Template {
    /// From a database with exactly one order in it, which was paid by a [`super::desk::Desk`] and is projected.
    pub(crate) async fn of(client: &Client, names: &Names) -> anyhow::Result<Self> {
        let rows = client
            .query(
                "SELECT stream_id, version, event_id, recorded_at = min(recorded_at) OVER (),
                        (extract(epoch FROM recorded_at - '2000-01-01Z') * 1000000)::bigint
                   FROM events ORDER BY position",
                &[],
            )
            .await?;
        let created_at = rows.first().context("the order has events")?.get(4);
        let mut events = Vec::new();
        for row in &rows {
            let (stream, version, id): (Uuid, i64, Uuid) = (row.get(0), row.get(1), row.get(2));
            let by_epoch = id != event_id(stream, version);
            let derived = epoch_event_id(names.order, SAFE, 1);
            ensure!(
                !by_epoch || id == derived,
                "an event's id is not derived as known"
            );
            events.push(Event {
                of_order: stream == names.order.stream(),
                version,
                by_epoch,
            });
        }
        let ends: Vec<i64> = client
            .query("SELECT position FROM command_log ORDER BY position", &[])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        ensure!(
            ends.len() == names.commands.len() && ends.last().copied() == i64::try_from(rows.len()).ok(),
            "each command of the order stored events"
        );
        let mut steps = Vec::new();
        for (n, end) in ends.iter().enumerate() {
            steps.push(end - n.checked_sub(1).map_or(0, |before| ends[before]));
        }
        let mut template = Self {
            tables: vec![],
            steps,
            events,
            created_at,
        };
        let words = template.words(names, 0, ends[ends.len() - 1]);
        for (name, order) in TABLES {
            let table = template.table(client, name, order, &words).await?;
            template.tables.push(table);
        }
        Ok(template)
    }

    pub(crate) fn events(&self) -> i64 {
        self.steps.iter().sum()
    }

    /// What stands in rows of the order with these names, whose times are `later` microseconds after the template's, and
    /// whose last event is at `last`.
    pub(super) fn words(&self, names: &Names, later: i64, last: i64) -> Words {
        let (order, payment) = (names.order.stream(), names.payment.stream());
        let mut words = vec![
            names.order.to_string().into_bytes(),
            names.payment.to_string().into_bytes(),
            names.shopper.to_string().into_bytes(),
            names.reference.clone().into_bytes(),
            format!("\"0-{last}\"").into_bytes(),
            // As the domain writes it, and as the wire does.
            moment(self.created_at + later).to_string().into_bytes(),
            format!("{:.6}", moment(self.created_at + later)).into_bytes(),
        ];
        let ids = [order, payment]
            .into_iter()
            .chain(names.commands.iter().map(|command| command.uuid()));
        for id in ids {
            words.push(id.to_string().into_bytes());
            words.push(id.as_bytes().to_vec());
        }
        for event in &self.events {
            let id = if event.by_epoch {
                epoch_event_id(names.order, SAFE, 1)
            } else {
                event_id(if event.of_order { order } else { payment }, event.version)
            };
            words.push(id.as_bytes().to_vec());
        }
        Words(words)
    }

    async fn table(
        &self,
        client: &Client,
        name: &'static str,
        order: &str,
        words: &Words,
    ) -> anyhow::Result<Table> {
        let statement = client.prepare(&format!("SELECT * FROM {name}")).await?;
        let names: Vec<&str> = statement.columns().iter().map(|column| column.name()).collect();
        let columns = names.join(", ");
        let sql = format!("COPY (SELECT {columns} FROM {name} ORDER BY {order}) TO STDOUT (FORMAT binary)");
        let mut raw = BytesMut::new();
        let mut chunks = std::pin::pin!(client.copy_out(&sql).await?);
        while let Some(chunk) = chunks.try_next().await? {
            raw.extend_from_slice(&chunk);
        }
        let mut raw = raw.freeze();
        ensure!(raw.starts_with(HEADER), "a binary COPY begins as known");
        let _ = raw.split_to(HEADER.len());
        let mut rows = Vec::new();
        while raw.len() > TRAILER.len() {
            let _ = raw.split_to(2);
            let mut fields = Vec::new();
            let mut step = 0;
            for column in statement.columns() {
                let length = i32::from_be_bytes(raw.split_to(4)[..].try_into()?);
                let Ok(length) = usize::try_from(length) else {
                    fields.push(Field::Null);
                    continue;
                };
                let value = raw.split_to(length);
                let field = match (column.name(), column.type_()) {
                    ("position" | "lost_position", _) => {
                        let position = i64::from_be_bytes(value[..].try_into()?);
                        step = self.step_of(position);
                        Field::Position(position)
                    }
                    (_, &Type::TIMESTAMPTZ) => match i64::from_be_bytes(value[..].try_into()?) {
                        i64::MIN | i64::MAX => Field::Pieces(vec![Piece::Same(value)]),
                        moment => Field::Time(moment),
                    },
                    _ => Field::Pieces(pieces(&value, words)),
                };
                fields.push(field);
            }
            rows.push((step, fields));
        }
        ensure!(!rows.is_empty(), "the order has no row in {name}");
        Ok(Table { name, columns, rows })
    }

    fn step_of(&self, position: i64) -> usize {
        let mut end = 0;
        let ends = self.steps.iter().map(|events| {
            end += events;
            end
        });
        ends.take_while(|end| *end < position).count()
    }
}

impl Field {
    pub(super) fn put(&self, out: &mut BytesMut, words: &Words, later: i64, place: impl Fn(i64) -> i64) {
        match self {
            Self::Null => out.put_i32(-1),
            Self::Position(position) => {
                out.put_i32(8);
                out.put_i64(place(*position));
            }
            Self::Time(moment) => {
                out.put_i32(8);
                out.put_i64(moment + later);
            }
            Self::Pieces(pieces) => {
                let bytes = pieces.iter().map(|piece| piece.bytes(words));
                let length: usize = bytes.clone().map(<[u8]>::len).sum();
                out.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
                bytes.for_each(|bytes| out.put_slice(bytes));
            }
        }
    }
}

impl Piece {
    fn bytes<'a>(&'a self, words: &'a Words) -> &'a [u8] {
        match self {
            Self::Same(bytes) => bytes,
            Self::Word(n) => &words.0[*n],
        }
    }
}

/// A value with the words taken out of it.
fn pieces(value: &Bytes, words: &Words) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < value.len() {
        let Some(n) = words.0.iter().position(|word| value[at..].starts_with(word)) else {
            at += 1;
            continue;
        };
        if from < at {
            pieces.push(Piece::Same(value.slice(from..at)));
        }
        pieces.push(Piece::Word(n));
        at += words.0[n].len();
        from = at;
    }
    if from < at {
        pieces.push(Piece::Same(value.slice(from..)));
    }
    pieces
}

/// Of microseconds after PostgreSQL's beginning of time.
fn moment(micros: i64) -> Timestamp {
    const EPOCH_S: i64 = 946_684_800;
    Timestamp::from_microsecond(EPOCH_S * 1_000_000 + micros).unwrap_or_default()
}

pub(super) fn shop() -> anyhow::Result<Shop> {
    Ok(Shop::parse(SHOP)?)
}

//! What is known of a run? Everything that was exported, indexed once for all checks.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    bus::Bus,
    export::{
        ANSWERS, AnswerLine, COMMANDS, EARLIER, Meta, PROCESSES, PROJECTIONS, ProcessLine, ProjectionLine,
        READS, REPLAYS, ReadLine, ReplayLine, STREAMS, StreamLine, Yardstick,
    },
    ledger::Ledger,
    linked::{CUT_US, Linked},
    read::{Folder, VerifyError, records},
    shipped::Shipped,
    store::{EventNo, Prefix, Store},
};

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) meta: Meta,
    pub(crate) yardstick: Yardstick,
    pub(crate) store: Store,
    pub(crate) commands: Option<Commands>,
    /// Versions by stream, with the line.
    pub(crate) streams: Option<HashMap<Uuid, (i64, u32)>>,
    /// Orders that the readers of reports have a row of.
    pub(crate) reads: Option<HashSet<String>>,
    pub(crate) bus: Option<Bus>,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) shipped: Option<Shipped>,
    pub(crate) answers: Option<Vec<Answer>>,
    pub(crate) projections: Option<Vec<ProjectionLine>>,
    pub(crate) processes: Option<Vec<ProcessLine>>,
    pub(crate) replays: Option<Vec<ReplayLine>>,
    pub(crate) earlier: Option<Prefix>,
    pub(crate) linked: Linked,
    /// The same orders in another run.
    pub(crate) other: Option<Store>,
}

#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) by_id: HashMap<Uuid, Decided>,
    /// Lines whose id was there before.
    pub(crate) repeated: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) line: u32,
    /// The code of a refusal; none for what was accepted.
    pub(crate) refused: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) line: u32,
    pub(crate) shop: String,
    pub(crate) verb: String,
    pub(crate) key: Option<String>,
    pub(crate) body: String,
    pub(crate) accepted: bool,
    pub(crate) code: Option<String>,
    pub(crate) order_id: Option<String>,
    pub(crate) payment_id: Option<String>,
    /// Every URL that the answer names, in one text.
    pub(crate) urls: String,
}

#[derive(Deserialize)]
struct CommandLine {
    command_id: Uuid,
    outcome: Value,
    #[expect(dead_code, reason = "a field that must be there is part of the shape")]
    at: Timestamp,
}

impl Facts {
    /// To be judged by what is usual, unless something else is put there.
    pub(crate) fn read(dir: &Path) -> Result<Self, VerifyError> {
        let meta = Meta::read(dir)?;
        let dir = &Folder {
            path: dir,
            rows: meta.rows.clone(),
        };
        let store = Store::read(dir)?;
        let goes_on = !meta.quiescent && meta.moments_compare();
        let ledger = Ledger::read(dir, goes_on.then_some(meta.exported_at))?;
        let linked = Linked::of(&meta, &store, ledger.as_ref());
        Ok(Self {
            commands: commands(dir)?,
            streams: collected(dir, STREAMS, |line, row: StreamLine| {
                (row.stream_id, (row.version, line))
            })?
            .map(|rows| rows.into_iter().collect()),
            reads: collected(dir, READS, |_, row: ReadLine| row.order_id)?
                .map(|rows| rows.into_iter().collect()),
            bus: Bus::read(dir)?,
            shipped: Shipped::read(dir)?,
            answers: answers(dir)?,
            projections: collected(dir, PROJECTIONS, |line, row: ProjectionLine| ProjectionLine {
                line,
                ..row
            })?,
            processes: collected(dir, PROCESSES, |line, row: ProcessLine| ProcessLine {
                line,
                ..row
            })?,
            replays: collected(dir, REPLAYS, |line, row: ReplayLine| ReplayLine { line, ..row })?,
            earlier: Prefix::read(dir, EARLIER)?,
            meta,
            yardstick: Yardstick::default(),
            store,
            ledger,
            linked,
            other: None,
        })
    }

    /// Until when what an event stands on was answered; none where moments do not compare.
    pub(crate) fn until(&self, event: EventNo) -> Option<i64> {
        self.meta.moments_compare().then(|| self.store.at(event) + CUT_US)
    }

    pub(crate) fn orders_only(self) -> Store {
        self.store
    }

    /// What people call the order of a provider's key or an order id.
    pub(crate) fn name(&self, order_id: &str) -> String {
        self.store
            .by_order
            .get(order_id)
            .map_or(order_id, |at| self.store.orders[*at].name())
            .to_owned()
    }
}

fn collected<T, L: serde::de::DeserializeOwned>(
    dir: &Folder<'_>,
    file: &'static str,
    keep: impl Fn(u32, L) -> T,
) -> Result<Option<Vec<T>>, VerifyError> {
    let mut rows = vec![];
    let there = records(dir, file, |line, row: L| rows.push(keep(line, row)))?;
    Ok(there.then_some(rows))
}

fn commands(dir: &Folder<'_>) -> Result<Option<Commands>, VerifyError> {
    let mut commands = Commands::default();
    let there = records(dir, COMMANDS, |line, row: CommandLine| {
        let refused = row.outcome.get("refused").map(|problem| {
            let code = problem.get("code").and_then(Value::as_str);
            code.unwrap_or_default().to_owned()
        });
        if commands
            .by_id
            .insert(row.command_id, Decided { line, refused })
            .is_some()
        {
            commands.repeated.push(line);
        }
    })?;
    Ok(there.then_some(commands))
}

fn answers(dir: &Folder<'_>) -> Result<Option<Vec<Answer>>, VerifyError> {
    let mut answers = vec![];
    let there = records(dir, ANSWERS, |line, row: AnswerLine| {
        // Nobody was told anything.
        if row.status == "none" {
            return;
        }
        let id = |name: &str| {
            row.answer
                .get(name)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        answers.push(Answer {
            line,
            accepted: row.status == "accepted",
            body: crate::stored::canonical(&row.body),
            order_id: id("order_id"),
            payment_id: id("payment_id"),
            urls: urls(&row.answer),
            code: row.code.or_else(|| id("code")),
            shop: row.shop,
            verb: row.verb,
            key: row.key,
        });
    })?;
    Ok(there.then_some(answers))
}

fn urls(answer: &Value) -> String {
    match answer {
        Value::String(text) if text.starts_with("http") => format!("{text} "),
        Value::Array(items) => items.iter().map(urls).collect(),
        Value::Object(fields) => fields.values().map(urls).collect(),
        _ => String::new(),
    }
}

//! What does the simulator say of each payment? Its ledger, joined by the order's reference.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    clock::{Clock, Micros},
    rig::Rig,
};

#[derive(Debug, Deserialize)]
struct Row {
    t: Timestamp,
    kind: String,
    op: String,
    reference: Option<String>,
    status: Option<u16>,
}

/// One order, as CM saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct AtCm {
    /// From request to answer, of create and start together.
    pub(super) answering: Micros,
    /// The shopper has paid at the bank.
    pub(super) paid_at: Option<Micros>,
    /// The first report that told so, as it was sent.
    pub(super) reported_at: Option<Micros>,
    /// The notification of it was answered 200.
    pub(super) told_at: Option<Micros>,
    pub(super) reads: usize,
    open: Option<Micros>,
}

/// Fetches the ledger into `to`.
pub(super) async fn fetch(rig: &Rig, to: &Path) -> anyhow::Result<()> {
    let mut answer = reqwest::get(format!("{}/sim/ledger", rig.sim_url))
        .await?
        .error_for_status()?;
    let mut file = File::create(to)?;
    while let Some(chunk) = answer.chunk().await? {
        file.write_all(&chunk)?;
    }
    Ok(())
}

/// By reference.
pub(super) fn read(file: &Path, clock: Clock) -> anyhow::Result<HashMap<String, AtCm>> {
    let mut orders: HashMap<String, AtCm> = HashMap::new();
    for line in BufReader::new(File::open(file)?).lines() {
        let row: Row = serde_json::from_str(&line?).context("a row of the simulator's ledger")?;
        let Some(reference) = row.reference else { continue };
        let at = clock.of(row.t);
        let order = orders.entry(reference).or_default();
        match (row.kind.as_str(), row.op.as_str()) {
            // An order's calls are made one after the other.
            ("request", "create" | "start") => order.open = Some(at),
            ("answer", "create" | "start") => {
                if let Some(since) = order.open.take() {
                    order.answering += at - since;
                }
            }
            ("effect", "bank") => order.paid_at = order.paid_at.or(Some(at)),
            ("answer", "status") => {
                order.reads += 1;
                if order.paid_at.is_some() && order.reported_at.is_none() {
                    order.reported_at = Some(at);
                }
            }
            ("notification", "bank") if row.status == Some(200) => order.told_at = order.told_at.or(Some(at)),
            _ => {}
        }
    }
    Ok(orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_that_counts_is_the_first_after_the_shopper_paid() -> anyhow::Result<()> {
        let clock = Clock::start();
        let row = |ms: i64, kind: &str, op: &str, status: u16| {
            let t = clock.text(ms * 1000);
            format!(
                "{{\"t\":\"{t}\",\"kind\":\"{kind}\",\"op\":\"{op}\",\"reference\":\"A\",\"status\":{status}}}\n"
            )
        };
        let rows = [
            row(1, "request", "create", 0),
            row(4, "answer", "create", 201),
            row(5, "request", "start", 0),
            row(7, "answer", "start", 201),
            row(8, "answer", "status", 200),
            row(20, "effect", "bank", 0),
            row(22, "notification", "bank", 503),
            row(25, "notification", "bank", 200),
            row(30, "answer", "status", 200),
            row(40, "answer", "status", 200),
        ];
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("ledger.ndjson");
        std::fs::write(&file, rows.concat())?;
        let order = read(&file, clock)?.remove("A").context("it is there")?;
        assert_eq!(order.answering, 5_000);
        assert_eq!(
            (order.paid_at, order.told_at, order.reported_at, order.reads),
            (Some(20_000), Some(25_000), Some(30_000), 3)
        );
        Ok(())
    }
}

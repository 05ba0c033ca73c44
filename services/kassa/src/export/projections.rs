//! Is a read model nothing but the log, folded? Its rows as they serve, and as they are when built anew, by digest.

use kassa_event_store::Store;
use kassa_read_models::PROJECTIONS;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Folder, Line};

/// Chunks between the database and the digest.
const CHUNKS: usize = 4;

/// What a dump came to.
struct Digested {
    position: String,
    rows: u64,
    sha256: String,
}

pub(super) async fn write(folder: &Folder, store: &Store) -> anyhow::Result<Vec<(String, u64)>> {
    let mut file = folder.file("projections.ndjson")?;
    let mut replays = folder.file("replays.ndjson")?;
    let mut line = Line::default();
    for name in PROJECTIONS {
        let live = digested(store, name, None).await?;
        let (from, head_from) = (store.clock().now(), store.head(0).await?);
        let at = live
            .position
            .split_once('-')
            .and_then(|(_, number)| number.parse().ok());
        let rebuilt = digested(store, name, at).await?;
        line.put("what", format!("a rebuild of {name}"))?;
        line.put("from", from)?;
        line.put("to", store.clock().now())?;
        line.put("head_from", head_from)?;
        line.put("head_to", store.head(0).await?)?;
        line.end(&mut replays)?;
        for (generation, dump) in [("live", live), ("rebuilt", rebuilt)] {
            line.put("projection", name)?;
            line.put("generation", generation)?;
            line.put("position", dump.position)?;
            line.put("rows", dump.rows)?;
            line.put("sha256", dump.sha256)?;
            line.end(&mut file)?;
        }
    }
    Ok(vec![
        ("projections.ndjson".to_owned(), file.finish()?),
        ("replays.ndjson".to_owned(), replays.finish()?),
    ])
}

async fn digested(store: &Store, name: &str, at: Option<i64>) -> anyhow::Result<Digested> {
    let (chunks, mut arriving) = mpsc::channel::<Vec<u8>>(CHUNKS);
    let stop = CancellationToken::new();
    let dumping = kassa_read_models::dump(store, name, at, &stop, chunks);
    let reading = async move {
        // The first line tells the position; it comes in a chunk of its own.
        let head = arriving.recv().await.unwrap_or_default();
        let head: Value = serde_json::from_slice(&head)?;
        let (mut rows, mut digest) = (0, Sha256::new());
        while let Some(chunk) = arriving.recv().await {
            rows += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
            digest.update(&chunk);
        }
        anyhow::Ok(Digested {
            position: head["position"].as_str().unwrap_or_default().to_owned(),
            rows,
            sha256: data_encoding::HEXLOWER.encode(&digest.finalize()),
        })
    };
    let (dumped, read) = tokio::join!(dumping, reading);
    dumped?;
    read
}

//! Is everything there again after a stop, also after one in the middle of a word?

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use kassa_cm_simulator::Simulator;
use serde_json::json;

use crate::support::{ACCOUNT, MERCHANT_KEY, PASSWORD, Sim, answer};

#[tokio::test]
async fn a_simulator_with_a_folder_goes_on_where_it_ended() {
    let folder = Folder::new();
    let sim = start(&folder.0).await;
    let key = sim.create("A-1", "any/level_fast").await;
    let bank = sim.started(&key).await;
    sim.press(&bank, "success").await;
    sim.quiet(&key).await;
    sim.sim_post("/sim/clock", &json!({ "advance": "3d" })).await;
    sim.sim_post(
        "/sim/faults",
        &json!({ "fault": "psp_503", "operation": "create" }),
    )
    .await;
    let (report, order) = (sim.detail(&key).await, sim.order(&key).await);
    let rows = sim.ledger("").await;
    stop(sim).await;

    // Twice, since the first start writes the journal anew.
    for start_number in 1..=2 {
        let sim = start(&folder.0).await;
        assert_eq!(sim.detail(&key).await, report);
        let again = sim.order(&key).await;
        for field in ["scenario", "authorized", "safe", "created", "order_reference"] {
            assert_eq!(again[field], order[field], "{field}");
        }
        assert_eq!(sim.ledger("").await[..rows.len()], rows[..]);
        let clock = sim.sim_get("/sim/clock").await.1;
        assert!(
            clock["offset_ms"].as_i64() > Some(259_000_000),
            "start {start_number}: {clock}"
        );
        assert_eq!(sim.sim_get("/sim/faults").await.1["faults"][0]["left"], 1);
        stop(sim).await;
    }
}

#[tokio::test]
async fn a_line_that_was_cut_by_the_stop_is_dropped_and_a_foreign_one_is_refused() {
    let folder = Folder::new();
    let sim = start(&folder.0).await;
    let key = sim.create("A-1", "ideal/success").await;
    stop(sim).await;
    append(&folder.0, "{\"rows\":[{\"n\":4,");
    let sim = start(&folder.0).await;
    assert_eq!(sim.order(&key).await["order_reference"], "A-1");
    let (status, body) = answer(sim.start_payment(&key).send().await.expect("an answer")).await;
    assert_eq!(status, 201, "{body}");
    stop(sim).await;

    append(&folder.0, "not ours\n");
    let error = Simulator::bind(config(&folder.0))
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("simulator.state_dir") && error.contains("move the file away"),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_belongs_to_one_simulator() {
    let folder = Folder::new();
    let sim = start(&folder.0).await;
    let error = Simulator::bind(config(&folder.0))
        .await
        .expect_err("taken")
        .to_string();
    assert!(error.contains("another simulator"), "{error}");
    stop(sim).await;
}

async fn start(folder: &Path) -> Sim {
    let folder = folder.to_owned();
    Sim::start_with(|config| config.state_dir = Some(folder)).await
}

async fn stop(sim: Sim) {
    sim.shutdown.cancel();
    sim.serving.await.expect("no panic").expect("no error");
}

fn config(folder: &Path) -> kassa_cm_simulator::SimConfig {
    let mut config = kassa_cm_simulator::SimConfig::new(MERCHANT_KEY, ACCOUNT, PASSWORD.into());
    config.state_dir = Some(folder.to_owned());
    config
}

fn append(folder: &Path, text: &str) {
    let journal = std::fs::File::options()
        .append(true)
        .open(folder.join("journal.ndjson"));
    journal
        .expect("it is there")
        .write_all(text.as_bytes())
        .expect("it can be written");
}

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sim-{}-{n}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

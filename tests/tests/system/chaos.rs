//! Does the system end where it should when its processes are killed and frozen while shoppers pay? A slice of
//! `kassa chaos`, with another seed each time.

use std::path::{Path, PathBuf};

use kassa_harness::installation::{Installation, Plan, SHIPMENT};

use crate::world::world;

fn plan(name: &str) -> Plan {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let exe = PathBuf::from(env!("CARGO_BIN_EXE_kassa-under-test"));
    Plan::new(exe, world().folder.join(name), cache)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_has_a_process_for_every_role_and_none_is_left_when_it_ends() {
    let mut installation = Installation::start(plan("installation"))
        .await
        .expect("it starts");
    let pids = installation.pids();
    assert!(pids.len() == 10 && pids.contains_key(SHIPMENT), "{pids:?}");
    let usage = installation.usage();
    assert!(usage.values().all(|of_it| of_it.rss_bytes > 1 << 20), "{usage:?}");
    for name in ["relay", "engine"] {
        installation.restart(name).await.expect("it comes back");
    }
    assert_eq!(installation.ends().len(), 2);
    let bad = installation.close().await;
    assert_eq!(bad, vec![], "every process ends in order, with code 0");
    for (name, pid) in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name} is left");
    }
}

//! Does a payment end as ever, whichever write of a process is its last? A slice of `kassa chaos --sweep`, another one each
//! time; `KASSA_SWEEP_SEED` repeats one.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kassa_harness::sweep::{SWEPT, Sweep};

use crate::world::world;

/// No further process is killed after this; one that was killed is seen to its end.
const BUDGET: Duration = Duration::from_secs(25);
/// A slice takes every fifth write of one process, beginning at one of the first five.
const STEP: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_05_a_process_killed_at_any_write_changes_nothing_of_what_a_payment_comes_to() {
    let clock = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    };
    let given = std::env::var("KASSA_SWEEP_SEED").ok();
    let seed: u64 = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
    println!("to repeat: KASSA_SWEEP_SEED={seed} cargo test --test system f_05");
    let count = u64::try_from(SWEPT.len()).expect("few");
    let role = SWEPT[usize::try_from(seed % count).expect("few")];
    let sweep = Sweep {
        exe: PathBuf::from(env!("CARGO_BIN_EXE_kassa-under-test")),
        folder: world().folder.join("sweep"),
        cache_dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"),
        roles: vec![role.to_owned()],
        first: 1 + seed / count % STEP,
        step: STEP,
        budget: Some(BUDGET),
    };
    let swept = sweep.run(|line| println!("{line}")).await.expect("it is swept");
    assert!(swept.failures.is_empty(), "{:#?}", swept.failures);
    assert!(swept.kills > 0, "{role} was never killed: {swept:?}");
}

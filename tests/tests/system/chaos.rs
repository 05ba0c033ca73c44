//! Does the system end where it should when its processes are killed and frozen while shoppers pay? A slice of
//! `kassa chaos`, with another seed each time.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use kassa_harness::{
    installation::{Installation, Plan, SHIPMENT},
    run::Asked,
    verdict::Verdict,
};

use tokio::time::Instant;

use crate::world::world;

fn plan(name: &str) -> Plan {
    Plan::new(exe(), world().folder.join(name), cache())
}

fn exe() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kassa-under-test"))
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache")
}

/// Another one each time, or the one that a failure has told.
fn seed() -> u64 {
    let given = std::env::var("KASSA_CHAOS_SEED").ok();
    let given = given.map(|text| text.parse().expect("KASSA_CHAOS_SEED is a number"));
    given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.expect("it is after 1970").as_secs()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_end_under_faults_as_they_end_without() {
    let seed = seed();
    let asked = Asked {
        exe: exe(),
        cache_dir: cache(),
        folder: world().folder.join("chaos"),
        seed,
        lasts: Duration::from_secs(10),
        payments_per_minute: 150,
        fault_every: Duration::from_secs(2),
        only: String::new(),
        doubled: false,
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut say = |text: &str| with.push(text.to_owned());
    let mut say_without = |text: &str| without.push(text.to_owned());
    // At once: both mostly wait.
    let (faulty, faultless) = tokio::join!(asked.faulty(&mut say), asked.faultless(&mut say_without));
    let again = format!(
        "KASSA_CHAOS_SEED={seed} cargo test -p kassa-tests --test system orders_end_under_faults\n{}",
        with.join("\n")
    );
    let faulty = faulty.unwrap_or_else(|error| panic!("{again}\nwith faults: {error:#}"));
    let faultless = faultless.unwrap_or_else(|error| panic!("{again}\nwithout faults: {error:#}"));
    let verdict = Verdict::of(&faulty, Some(&faultless), &asked.folder).expect("the exports are read");
    println!("seed {seed}\n{}", verdict.told());
    assert!(verdict.good(), "{again}\n{}", verdict.told());
    // What hangs on moments was looked at, unless clocks were wrong.
    let live = "I-16";
    assert_eq!(
        verdict.unchecked.iter().any(|line| line.contains(live)),
        faulty.exports.clocks_apart,
        "{again}\n{}",
        verdict.told()
    );
    assert!(
        verdict.paid > 0 && verdict.bit() > 0,
        "{again}\n{}",
        verdict.told()
    );
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
    // As by a bug of its own: nobody here has told it to end.
    let pid = installation.pids()["relay"].to_string();
    let sent = Command::new("kill").args(["-ABRT", &pid]).status();
    assert!(sent.expect("kill is there").success());
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let deadline = Instant::now() + Duration::from_secs(30);
    while installation.supervise().expect("it is started again").is_empty() {
        assert!(Instant::now() < deadline, "its end was never seen");
        look.tick().await;
    }
    installation.until_ready("relay").await.expect("it comes back");
    let unasked: Vec<_> = installation
        .unasked()
        .iter()
        .map(|one| (one.name.as_str(), one.broke))
        .collect();
    assert_eq!(unasked, [("relay", true)]);
    assert_eq!(installation.panics(), Vec::<String>::new());
    let bad = installation.close().await;
    assert_eq!(
        bad,
        Vec::<String>::new(),
        "every process ends in order, with code 0"
    );
    for (name, pid) in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name} is left");
    }
}

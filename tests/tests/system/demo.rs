//! Is the demo a world of its own? It leaves alone what the environment names, what it prints works when it is pasted, and it
//! says so when a server of its own ends.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    command_line::kassa,
    stage::DEADLINE,
    world::{cache_dir, world},
};

/// A demo that stays until it is ended, and does not outlive its test.
struct Demo {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Demo {
    /// Returns once it has invited.
    async fn start(environment: &[(&str, &str)]) -> Self {
        let cache = cache_dir();
        let mut command = kassa(&["demo"], environment);
        command.env("KASSA_CACHE_DIR", &cache);
        // Where the servers are is the machine's affair; the rest of the environment is the test's.
        for name in ["KASSA_POSTGRES_BIN", "KASSA_NATS_SERVER", "KASSA_MANAGED_SERVERS"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (heard, stderr) = (said.clone(), child.stderr.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock().expect("nobody panics with it");
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let mut demo = Self { child, said };
        demo.until("it invites", |demo| {
            demo.said().contains(" export --to ").then_some(())
        })
        .await;
        demo
    }

    fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    async fn until<T>(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if let Some(found) = holds(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: {}", self.said());
        }
    }

    async fn ended(&mut self) -> ExitStatus {
        let status = self
            .until("it ends", |demo| demo.child.try_wait().expect("it is ours"))
            .await;
        // What it said last is heard a moment later.
        self.until("its last word", |demo| {
            (Arc::strong_count(&demo.said) == 1).then_some(())
        })
        .await;
        status
    }

    /// The command of its invitation that has these words.
    fn printed(&self, words: &str) -> String {
        let said = self.said();
        let line = said.lines().find(|line| line.contains(words));
        line.unwrap_or_else(|| panic!("{words:?} is not in {said}"))
            .trim()
            .to_owned()
    }

    /// The process of a server, from the line that tells of it.
    fn pid(&self, server: &str) -> String {
        let line = self.printed(&format!("{server} "));
        line.rsplit("pid ").next().unwrap_or_default().to_owned()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(signal: &str, pid: &str) {
    let sent = Command::new("kill").args([signal, pid]).status();
    assert!(sent.expect("kill is there").success(), "kill {signal} {pid}");
}

/// As a person pastes it into a shell of his own.
async fn pasted(command: &str) -> (Option<i32>, String) {
    let mut shell = kassa(&[], &[]);
    let program = std::mem::replace(&mut shell, Command::new("sh"));
    shell.arg("-c").arg(command).stdin(Stdio::null());
    shell.current_dir(&world().folder);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = tokio::task::spawn_blocking(move || shell.output().expect("sh is there"))
        .await
        .expect("it does not panic");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_installation_is_left_alone_and_what_the_demo_prints_works() {
    let database = world().database().await;
    let nats = world().nats_url();
    let mut demo = Demo::start(&[("DATABASE_URL", &database), ("NATS_URL", &nats)]).await;
    assert!(!demo.said().contains(&database), "{}", demo.said());

    for (words, expected) in [
        (" export --to ", "bus.ndjson"),
        (" export --to ", "ledger.ndjson"),
        (" replay --from ", "kassa.order.payment_safe.v1"),
    ] {
        let command = demo.printed(words);
        let (code, told) = pasted(&command).await;
        assert_eq!(code, Some(0), "{command}\n{told}");
        assert!(told.contains(expected), "{command}\n{told}");
    }

    signal("-INT", &demo.child.id().to_string());
    let status = demo.ended().await;
    assert!(status.success(), "{status}: {}", demo.said());
    assert!(
        !demo.said().contains("NATS is away"),
        "its own servers may go with it: {}",
        demo.said()
    );
    let (client, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls)
        .await
        .expect("it opens");
    tokio::spawn(connection);
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM api_keys)
                    + (SELECT count(*) FROM pg_namespace WHERE nspname = 'shipment_service')",
            &[],
        )
        .await
        .expect("it is read");
    assert_eq!(
        row.get::<_, i64>(0),
        0,
        "nothing was done on a database of others"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_ends_the_demo_which_says_so() {
    for server in ["nats-server", "PostgreSQL"] {
        let mut demo = Demo::start(&[]).await;
        let pid = demo.pid(server);
        signal("-KILL", &pid);
        let status = demo.ended().await;
        assert_eq!(status.code(), Some(69), "{}", demo.said());
        assert!(
            demo.said()
                .contains(&format!("{server} (pid {pid}) ended: signal 9")),
            "{}",
            demo.said()
        );
    }
}

//! Does the simulator, as a process of its own, outlive a `kill -9`, and does the store's clock go along with its own?

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use kassa_chassis::http::Limits;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    stage::{DEADLINE, Stage},
    world::world,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_simulator_goes_on_where_it_was() {
    let merchant = Merchant::start().await;
    let mut sim = Process::new(&merchant.url).await;
    let created = sim.rest_post("/orders", &order("A-1")).await;
    let key = created["order_key"].as_str().expect("a key").to_owned();
    let started = sim
        .rest_post(&format!("/orders/{key}/payments"), &json!({ "method": "IDEAL" }))
        .await;
    let bank = started["urls"][0]["url"].as_str().expect("a URL").to_owned();
    sim.post("/sim/clock", &json!({ "advance": "1h" })).await;
    // The merchant is deaf, so the notification waits for its next attempt when the process is killed.
    until("the first attempt has failed", async || {
        sim.rows("notification")
            .await
            .iter()
            .any(|row| row["status"] == 500)
    })
    .await;
    let before = sim.ledger().await;

    sim.kill();
    assert_eq!(merchant.heard(), 0);
    merchant.listen();
    sim.spawn().await;

    until("the notification is delivered after all", async || {
        merchant.heard() == 1
    })
    .await;
    let clock = sim.get("/sim/clock").await;
    assert!(clock["offset_ms"].as_i64() > Some(3_500_000), "{clock}");
    // The shopper's page is still open, and its button still works.
    let trxid = bank.split_once("trxid=").expect("a bank's URL").1;
    let form = [("trxid", trxid), ("result", "success")];
    let pressed = sim.http.post(&bank).form(&form).send().await.expect("an answer");
    assert_eq!(pressed.status(), 303);
    let report = sim.rest_get(&format!("/orders/{key}")).await;
    assert_eq!(report["payments"][0]["authorization"]["state"], "AUTHORIZED");
    assert_eq!(report["payments"][0]["id"], started["id"]);
    assert_eq!(report["considered_safe"]["level"], "SAFE");
    until("the payment is told, too", async || merchant.heard() == 2).await;

    let after = sim.ledger().await;
    assert_eq!(after[..before.len()], before, "not a row is lost or changed");
    assert!(
        after.iter().zip(1..).all(|(row, n)| row["n"] == n),
        "no number is missing"
    );
    assert_eq!(after.iter().filter(|row| row["op"] == "restart").count(), 1);
    // And the reference is taken, as before.
    let again = sim
        .rest(sim.http.post(sim.rest_url("/orders")).json(&order("A-1")))
        .await;
    assert_eq!(again.0, 400, "{}", again.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_moves_both_clocks_to_one_time_and_never_back() {
    let stage = Stage::new().await;
    let clock = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .arg("--config")
            .arg(stage.config_file())
            .args(["sim", "clock", "--url", &stage.sim_url, "--format", "json"])
            .args(["--database-url", &stage.database_url])
            .args(arguments)
            .output()
            .expect("the binary runs")
    };
    // They differ before: the simulator is a day ahead.
    stage.sim_post("/sim/clock", &json!({ "advance": "1d" })).await;
    let moved = clock(&["+3d"]);
    assert!(
        moved.status.success(),
        "{}",
        String::from_utf8_lossy(&moved.stderr)
    );
    let moved: Value = serde_json::from_slice(&moved.stdout).expect("JSON");
    let time = |name: &str| -> jiff::Timestamp {
        let text = moved[name].as_str().expect("a moment");
        text.parse().expect("RFC 3339")
    };
    let apart = time("store_now").duration_since(time("now")).abs();
    assert!(apart < jiff::SignedDuration::from_secs(5), "{moved}");
    // Every process that is connected learns of it.
    until("the services are four days ahead", async || {
        let (there, here) = (stage.store.clock().now(), time("now"));
        there.duration_since(here).abs() < jiff::SignedDuration::from_secs(60)
    })
    .await;
    let back = clock(&["--set", "2020-01-01T00:00:00Z"]);
    assert_eq!(
        back.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&back.stderr)
    );
}

/// A simulator of its own, with a folder that outlives it, and no database.
struct Process {
    config: PathBuf,
    base: String,
    http: reqwest::Client,
    child: Option<Child>,
}

impl Process {
    async fn new(notification_url: &str) -> Self {
        // A port that was free a moment ago: it must be the same after the restart.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let folder = world().folder.join(format!("simulator-{port}"));
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let config = folder.join("kassa.toml");
        std::fs::write(&config, settings(port, &folder, notification_url)).expect("it can be written");
        let mut process = Self {
            config,
            base: format!("http://127.0.0.1:{port}"),
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
            child: None,
        };
        process.spawn().await;
        process
    }

    async fn spawn(&mut self) {
        let log = std::fs::File::create(self.config.with_extension("log")).expect("it can be written");
        let child = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .env_remove("DATABASE_URL")
            .arg("--config")
            .arg(&self.config)
            .args(["serve", "--role", "cm-simulator"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
        until("the simulator answers", async || {
            self.http
                .get(format!("{}/sim/clock", self.base))
                .send()
                .await
                .is_ok()
        })
        .await;
    }

    /// `kill -9`.
    fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours to kill");
        let _ = child.wait();
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}{path}", self.base)).send().await;
        response.expect("an answer").json().await.expect("JSON")
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let call = self.http.post(format!("{}{path}", self.base)).json(body);
        let response = call.send().await.expect("an answer");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.expect("JSON")
    }

    fn rest_url(&self, path: &str) -> String {
        format!("{}/ps/api/public/v1/merchants/merchant{path}", self.base)
    }

    async fn rest(&self, call: reqwest::RequestBuilder) -> (u16, Value) {
        let call = call.basic_auth("account", Some("secret"));
        let response = call.send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    async fn rest_get(&self, path: &str) -> Value {
        self.rest(self.http.get(self.rest_url(path))).await.1
    }

    async fn rest_post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.rest(self.http.post(self.rest_url(path)).json(body)).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    async fn ledger(&self) -> Vec<Value> {
        let response = self.http.get(format!("{}/sim/ledger", self.base)).send().await;
        let text = response.expect("an answer").text().await.expect("all rows");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a row a line"))
            .collect()
    }

    async fn rows(&self, kind: &str) -> Vec<Value> {
        let mut rows = self.ledger().await;
        rows.retain(|row| row["kind"] == kind);
        rows
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn settings(port: u16, folder: &Path, notification_url: &str) -> String {
    format!(
        "[http]\nadmin_listen = \"off\"\n[simulator]\nlisten = \"127.0.0.1:{port}\"\nmerchant_key = \"merchant\"\n\
         account = \"account\"\npassword = \"secret\"\nnotification_url = \"{notification_url}\"\nstate_dir = \"{}\"\n",
        folder.join("state").display()
    )
}

fn order(reference: &str) -> Value {
    json!({
        "order_reference": reference, "description": "Dog food", "amount": 4995, "currency": "EUR",
        "email": "shopper@example.com", "language": "nl", "country": "NL",
        "return_urls": { "success": "https://shop.example/done" },
    })
}

/// Hears notifications once it listens, and answers 500 before.
struct Merchant {
    url: String,
    listens: Arc<AtomicBool>,
    heard: Arc<AtomicUsize>,
}

impl Merchant {
    async fn start() -> Self {
        let (listens, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let url = format!("http://{}/hook?id=", listener.local_addr().expect("bound"));
        let (ears, ear) = (listens.clone(), heard.clone());
        let hook = get(async move || {
            if !ears.load(Ordering::SeqCst) {
                return StatusCode::INTERNAL_SERVER_ERROR;
            }
            ear.fetch_add(1, Ordering::SeqCst);
            StatusCode::OK
        });
        let router = Router::new().route("/hook", hook);
        let never = CancellationToken::new();
        tokio::spawn(kassa_chassis::http::serve(
            listener,
            router,
            Limits::default(),
            never,
        ));
        Self { url, listens, heard }
    }

    fn listen(&self) {
        self.listens.store(true, Ordering::SeqCst);
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        if holds().await {
            return;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

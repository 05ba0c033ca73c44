//! Does the command line end as its list of exit codes says, and does a listener miss nothing? Through the real binary.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use kassa_chassis::config::Login;
use kassa_checkout::keys::Scope;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use uuid::Uuid;

use crate::{
    stage::{DEADLINE, Stage},
    world::{SHOP, world},
};

/// What is asked, with which server, the exit code, and words on stderr.
type Case<'c> = (Vec<&'c str>, (&'c str, &'c str), i32, &'c str);

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A run without anything of ours in its environment but what is given.
pub(crate) fn kassa(args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"));
    command
        .args(args)
        .current_dir(&world().folder)
        .stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("KASSA_") || name.starts_with("NATS_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    // A developer's own contexts are not meant.
    command.env("XDG_CONFIG_HOME", world().folder.join("nobody"));
    command.envs(environment.iter().copied());
    command
}

pub(crate) async fn run(args: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = kassa(args, environment);
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary starts"))
        .await
        .expect("it does not panic");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// The server's address with a login in it.
fn address(stage: &Stage, login: &Login) -> String {
    let password = login
        .password
        .as_ref()
        .map_or("", |password| password.expose_secret());
    let user = login.user.as_deref().unwrap_or_default();
    stage
        .config
        .nats
        .url
        .replace("nats://", &format!("nats://{user}:{password}@"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ending_has_its_exit_code_and_says_why() {
    let stage = Stage::new().await;
    let nats = address(&stage, &stage.logins.checkout);
    let wrong_login = stage.config.nats.url.replace("nats://", "nats://nobody:guess@");
    let (paid, paid_id) = stage.create("ideal/success").await;
    stage.start(&paid_id).await;
    stage.press(&paid, "ideal/success").await;
    stage.until_order(&paid_id, "paid", "authorized", "yes").await;
    let (given_up, given_up_id) = stage.create("ideal/cancel").await;
    stage.start(&given_up_id).await;
    stage.press(&given_up, "ideal/cancel").await;
    stage
        .until("the attempt is over", async |s| {
            s.get_order(&given_up_id).await["payments"][0]["status"] == "canceled"
        })
        .await;
    let (open, _) = stage.create("ideal/success").await;
    let create = |country: &'static str, amount: &'static str, reference: &'static str| {
        vec![
            "orders",
            "create",
            "--reference",
            reference,
            "--amount",
            amount,
            "--country",
            country,
            "--email",
            "a@b.example",
            "--return-url",
            "https://shop.example/return",
        ]
    };
    let (url, missing) = (
        ("NATS_URL", nats.as_str()),
        format!("{}/missing.toml", world().folder.display()),
    );
    let refused = ("NATS_URL", wrong_login.as_str());
    let nowhere = ("NATS_URL", "nats://127.0.0.1:1");
    let malformed = ("NATS_URL", "nats//x");
    let table: Vec<Case<'_>> = vec![
        (vec!["help", "exit-codes"], url, 0, ""),
        (vec!["orders", "show", &paid], url, 0, ""),
        (vec!["orders", "list", "--status", "paid"], url, 0, ""),
        (vec!["keys", "list", "--help"], url, 0, ""),
        (vec!["dlq", "list", "--help"], url, 0, ""),
        (vec!["projections", "status", "--help"], url, 0, ""),
        (create("NL", "49.95", "C-1"), url, 0, ""),
        (create("XX", "49.95", "C-2"), url, 1, "/country"),
        (create("NL", "49.955", "C-3"), url, 2, "2 decimals"),
        (vec!["orders", "show"], url, 2, "ORDER"),
        (vec!["orders", "wait", &paid, "--for", "never"], url, 2, "safe"),
        (vec!["replay", "--from", "yesterday"], url, 2, "0-41992"),
        (
            vec!["listen", "--forward-to", "http://shop.example/"],
            url,
            2,
            "--allow-remote",
        ),
        (vec!["orders", "wait", &paid, "--for", "safe"], url, 0, ""),
        (
            vec!["orders", "wait", &given_up, "--for", "safe"],
            url,
            3,
            "canceled",
        ),
        (
            vec!["orders", "wait", &open, "--timeout", "1s"],
            url,
            4,
            "not known",
        ),
        (vec!["orders", "show", "T-never"], url, 5, "error[not_found]"),
        (
            create("NL", "50.00", "C-1"),
            url,
            6,
            "error[order_reference_taken]",
        ),
        (vec!["orders", "show", &paid], nowhere, 69, "cannot be reached"),
        (vec!["orders", "show", &paid], refused, 77, "refuses this login"),
        (
            vec!["orders", "show", &paid, "--shop", "no-shop-of-ours"],
            url,
            77,
            "may not",
        ),
        (vec!["orders", "show", &paid], malformed, 78, "NATS_URL"),
        (
            vec!["orders", "show", &paid, "--context", "none"],
            url,
            78,
            "nats context ls",
        ),
        (
            vec!["--config", &missing, "serve", "--role", "relay"],
            url,
            78,
            "missing.toml",
        ),
        (
            vec!["--config", &missing, "config", "check"],
            url,
            78,
            "the configuration has",
        ),
    ];
    for (args, nats, code, words) in table {
        let said = run(&args, &[nats, ("KASSA_SHOP", SHOP)]).await;
        assert_eq!(said.code, Some(code), "{args:?}\n{}\n{}", said.out, said.err);
        assert!(
            said.err.contains(words),
            "{args:?}: {words:?} is not in {}",
            said.err
        );
        assert!(code == 0 || !said.err.is_empty(), "{args:?} ends without a word");
        assert!(
            !said.err.contains("secret"),
            "{args:?} tells a password: {}",
            said.err
        );
    }

    // What the environment says does not stand against a flag, and nothing at all is nothing.
    for (http, args) in [
        (
            "http://127.0.0.1:1",
            vec!["orders", "show", &paid, "--nats-url", &nats],
        ),
        ("", vec!["orders", "show", &paid]),
    ] {
        let said = run(&args, &[url, ("KASSA_SHOP", SHOP), ("KASSA_URL", http)]).await;
        assert_eq!(said.code, Some(0), "{args:?}\n{}", said.err);
    }
    let anonymous = ("NATS_URL", stage.config.nats.url.as_str());
    let said = run(&["orders", "show", &paid], &[anonymous, ("KASSA_SHOP", SHOP)]).await;
    assert_eq!(said.code, Some(77), "{}", said.err);
    assert!(said.err.contains("no login was given"), "{}", said.err);
    // A port where nobody listens, no address at all, and the API instead of the simulator.
    for url in [
        "http://127.0.0.1:1",
        "somewhere",
        "localhost:8090",
        stage.api_url.as_str(),
    ] {
        let said = run(&["sim", "pay", &paid, "ideal/success", "--url", url], &[]).await;
        assert_eq!(said.code, Some(69), "{url}: {}", said.err);
        assert!(
            said.err.contains(&format!("no simulator answers at {url}: "))
                && said.err.contains("prints after CM"),
            "{}",
            said.err
        );
    }
    let said = run(&["sim", "pay", &paid_id], &[]).await;
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("the shop's reference"), "{}", said.err);

    let said = run(
        &["orders", "show", "T-never", "--format", "json"],
        &[url, ("KASSA_SHOP", SHOP)],
    )
    .await;
    let problem: Value = serde_json::from_str(&said.err).expect("a problem document");
    assert_eq!((&problem["code"], said.out.as_str()), (&"not_found".into(), ""));
    let said = run(
        &["orders", "show", &paid, "--format", "csv"],
        &[url, ("KASSA_SHOP", SHOP)],
    )
    .await;
    assert!(
        said.out.contains(&format!("{paid_id},{paid},paid,yes,4995,EUR,")),
        "{}",
        said.out
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_events_go_by_http_as_they_go_by_nats() {
    let stage = Stage::new().await;
    let key = stage.api_key(SHOP, &Scope::ALL).await;
    let environment = [
        ("KASSA_URL", stage.api_url.as_str()),
        ("KASSA_API_KEY", key.as_str()),
    ];
    let create = [
        "orders",
        "create",
        "--reference",
        "H-1",
        "--amount",
        "49.95",
        "--email",
        "a@b.example",
        "--return-url",
        "https://shop.example/return",
        "--metadata",
        "sim_scenario=ideal/success",
        "--method",
        "ideal",
    ];
    let said = run(&create, &environment).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let made: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(made["next_action"]["type"], "redirect", "{made}");
    stage.press("H-1", "ideal/success").await;
    for (args, words) in [
        (vec!["orders", "wait", "H-1", "--for", "safe"], "\"yes\""),
        (vec!["orders", "show", "H-1"], "\"paid\""),
        (vec!["orders", "ls", "--status", "paid"], "H-1"),
        (vec!["orders", "why", "H-1"], "safe"),
        (
            vec!["listen", "--since", "0-0", "--limit", "3"],
            "kassa.order.created.v1",
        ),
        (
            vec![
                "listen",
                "--since",
                "1h",
                "--type",
                "order.payment_safe",
                "--limit",
                "1",
            ],
            "H-1",
        ),
    ] {
        let said = run(&args, &environment).await;
        assert_eq!(said.code, Some(0), "{args:?}\n{}", said.err);
        assert!(
            said.out.contains(words),
            "{args:?}: {words} is not in {}",
            said.out
        );
    }
    for (args, code) in [
        (vec!["orders", "cancel", "H-1"], 6),
        (vec!["orders", "show", "H-2"], 5),
    ] {
        let said = run(&args, &environment).await;
        assert_eq!(said.code, Some(code), "{args:?}\n{}", said.err);
        assert!(said.err.contains("docs: http://"), "{args:?}\n{}", said.err);
    }
    // The key decides whose orders are meant; who names another shop is told so, and nothing is done.
    for args in [
        vec!["orders", "show", "H-1", "--shop", "other-shop"],
        vec!["orders", "cancel", "H-1", "--shop", "other-shop"],
        vec!["listen", "--since", "0-0", "--limit", "1", "--shop", "other-shop"],
    ] {
        let said = run(&args, &environment).await;
        assert_eq!(said.code, Some(77), "{args:?}\n{}", said.err);
        assert!(said.err.contains("another shop than other-shop"), "{}", said.err);
    }
    let same = run(&["orders", "show", "H-1", "--shop", SHOP], &environment).await;
    assert_eq!(same.code, Some(0), "{}", same.err);
    // The order is there although its payment is not: it is named.
    let mut refused = create;
    refused[3] = "H-3";
    refused[13] = "no-such-method";
    let said = run(&refused, &environment).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("the order was made: ord_"), "{}", said.err);
    // The simulator listens there, and is not asked for orders.
    let elsewhere = [
        ("KASSA_URL", stage.sim_url.as_str()),
        ("KASSA_API_KEY", key.as_str()),
    ];
    let said = run(&["orders", "show", "H-1"], &elsewhere).await;
    assert_eq!(said.code, Some(69), "{}", said.err);
    assert!(said.err.contains("this is not kassa's API"), "{}", said.err);
    let guess = [
        ("KASSA_URL", stage.api_url.as_str()),
        ("KASSA_API_KEY", "kassa_live_guess"),
    ];
    assert_eq!(run(&["orders", "show", "H-1"], &guess).await.code, Some(77));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_listener_ends_with_130() {
    let stage = Stage::new().await;
    let nats = address(&stage, &stage.logins.checkout);
    let mut child = tokio::process::Command::from(kassa(&["listen", "--shop", SHOP], &[("NATS_URL", &nats)]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut err = BufReader::new(child.stderr.take().expect("it was asked for")).lines();
    while let Some(line) = err.next_line().await.expect("UTF-8") {
        if line.contains("live only") {
            break;
        }
    }
    let (_, order_id) = stage.create("ideal/success").await;
    let mut out = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    let line = out.next_line().await.expect("UTF-8").expect("an event");
    let event: Value = serde_json::from_str(&line).expect("one event a line");
    assert_eq!(
        (&event["type"], &event["data"]["order_id"]),
        (&"kassa.order.created.v1".into(), &order_id.into())
    );
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .expect("kill is there");
    assert!(sent.success());
    let ended = tokio::time::timeout(DEADLINE, child.wait())
        .await
        .expect("it ends")
        .expect("it is ours");
    assert_eq!(ended.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_killed_and_started_again_forwards_every_event_at_least_once() {
    let stage = Stage::new().await;
    let shipment = address(&stage, &stage.logins.shipment);
    // From the log, and from the stream.
    for source in [
        ("DATABASE_URL", stage.database_url.as_str()),
        ("NATS_URL", shipment.as_str()),
    ] {
        let (to, received) = recorder().await;
        let name = Uuid::new_v4().simple().to_string();
        let states = world().folder.join("listen-state");
        let args = [
            "listen",
            "--durable",
            &name,
            "--since",
            "0-0",
            "--forward-to",
            &to,
            "--retry-for",
            "20s",
        ];
        let environment = [source, ("KASSA_STATE_DIR", states.to_str().expect("UTF-8"))];
        let count = || received.lock().expect("one at a time").len();

        play(&stage).await;
        let mut listener = start(&args, &environment);
        stage
            .until("some events are received", async |_| count() >= 3)
            .await;
        // In the middle, whatever it is doing.
        stop(&mut listener);
        play(&stage).await;
        let before = count();
        let mut listener = start(&args, &environment);
        stage
            .until("more events are received", async |_| count() > before)
            .await;
        play(&stage).await;
        let stored = published(&stage).await;
        stage
            .until("everything that is stored is received", async |_| {
                let received: BTreeSet<String> =
                    received.lock().expect("one at a time").iter().cloned().collect();
                received == stored
            })
            .await;
        stop(&mut listener);
        assert!(
            Path::new(&states)
                .join("listen")
                .join(format!("{name}.json"))
                .exists()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_taken_is_tried_again_and_then_told() {
    let stage = Stage::new().await;
    stage.create("ideal/success").await;
    let args = [
        "listen",
        "--since",
        "0-0",
        "--forward-to",
        "http://127.0.0.1:1/",
        "--retry-for",
        "500ms",
    ];
    let said = run(&args, &[("DATABASE_URL", &stage.database_url)]).await;
    assert_eq!(said.code, Some(69), "{}", said.err);
    assert!(
        said.err.contains("again in 200 ms") && said.err.contains("did not take the event"),
        "{}",
        said.err
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_and_manual_pages_know_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let said = run(&["completions", shell], &[]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.contains("exit-codes"), "{shell}");
    }
    let dir = world().folder.join("man");
    let said = run(&["man", "--dir", dir.to_str().expect("UTF-8")], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let page = std::fs::read_to_string(dir.join("kassa-orders-wait.1")).expect("a page a subcommand");
    assert!(page.contains("Examples:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_is_told_of_and_not_waited_for() {
    // Where the runs take place, which takes its time to be made.
    world();
    // It takes connections, and that is all, as one that is frozen does.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("postgresql://{}/x", silent.local_addr().expect("bound"));
    for args in [
        vec!["projections", "ls"],
        vec!["replay", "--from", "0-0"],
        vec!["listen", "--limit", "1"],
    ] {
        let environment = [("DATABASE_URL", url.as_str())];
        let said = tokio::time::timeout(DEADLINE, run(&args, &environment))
            .await
            .unwrap_or_else(|_| panic!("{args:?} waits for ever"));
        assert_eq!(said.code, Some(69), "{args:?}\n{}", said.err);
        assert!(said.err.contains("does not answer within"), "{}", said.err);
    }
}

/// One order to its end.
async fn play(stage: &Stage) {
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
}

/// Ids of what is stored and shown to others.
async fn published(stage: &Stage) -> BTreeSet<String> {
    let said = run(&["replay"], &[("DATABASE_URL", &stage.database_url)]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one event a line"))
        .filter(|event| !event["type"].as_str().unwrap_or_default().contains(".internal."))
        .map(|event| event["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn start(args: &[&str], environment: &[(&str, &str)]) -> Child {
    kassa(args, environment)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

fn stop(child: &mut Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

/// A service on this machine that takes events, and the ids of those it took.
async fn recorder() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/events", listener.local_addr().expect("bound"));
    let received = Arc::new(Mutex::new(Vec::new()));
    let keep = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let keep = keep.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut length, mut kind) = (0, String::new());
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let line = line.trim().to_lowercase();
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.parse().expect("a number");
                    }
                    if let Some(value) = line.strip_prefix("content-type: ") {
                        kind = value.to_owned();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                if stream.read_exact(&mut body).await.is_err() {
                    return;
                }
                assert_eq!(kind, "application/cloudevents+json");
                let event: Value = serde_json::from_slice(&body).expect("an event");
                let id = event["id"].as_str().expect("an id").to_owned();
                keep.lock().expect("one at a time").push(id);
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                let _ = stream.get_mut().write_all(answer).await;
                let _ = tokio::time::timeout(Duration::from_secs(1), stream.get_mut().shutdown()).await;
            });
        }
    });
    (url, received)
}

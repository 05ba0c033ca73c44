//! The notification URL: anybody can call it, so it may only ever leave a hint.

use std::time::Duration;

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    stage::{Stage, order_body},
    world::SHOP,
};

/// One request as raw bytes; the whole answer.
async fn raw(stage: &Stage, request: &str) -> String {
    let address = stage
        .hooks_url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("an address")
        .to_owned();
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\n\r\n")
}

/// What is different in every answer says nothing about the reference.
fn without_date(answer: &str) -> String {
    answer
        .lines()
        .filter(|line| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("date:") && !line.starts_with("trace-id:")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_20_b_21_known_and_unknown_references_get_the_same_answer_and_unknown_ones_cost_no_call() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage
        .until("the reads of the start", async |s| {
            s.count(&reference, "answer", "status").await >= 1
        })
        .await;
    let known = raw(&stage, &get(&format!("/hooks/cm/{SHOP}?id={reference}"))).await;
    let unknown = raw(&stage, &get(&format!("/hooks/cm/{SHOP}?id=nobodys"))).await;
    let other_shop = raw(&stage, &get("/hooks/cm/no-such-shop?id=nobodys")).await;
    assert!(known.starts_with("HTTP/1.1 200"), "{known}");
    assert!(known.ends_with("\r\n\r\n"), "a body in {known}");
    assert_eq!(without_date(&known), without_date(&unknown));
    assert_eq!(without_date(&known), without_date(&other_shop));
    let kept = |state: &str| format!("SELECT count(*) FROM notifications WHERE state = '{state}'");
    assert_eq!(stage.sql_count(&kept("parked")).await, 2);
    assert_eq!(
        stage.sql_count("SELECT count(*) FROM provider_reads").await,
        1,
        "only our order is read"
    );
    assert!(stage.ledger("nobodys").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_22_b_23_what_is_not_one_plain_reference_is_refused_and_leaves_nothing() {
    let stage = Stage::new().await;
    let path = format!("/hooks/cm/{SHOP}");
    let mut first = None;
    for query in [
        "",
        "?",
        "?id=",
        "?id=a&id=b",
        "?id[]=a",
        "?id=a%00b",
        "?id=a%0Ab",
        "?id=a%1bb",
        "?id=a%7f",
        "?id=a%0d%0aX-Injected:%201",
        "?id=%ff",
        "?id[0]=a&id=a",
        // Encoded twice.
        "?id=A%252D1",
        "?id=A%250Ab",
        "?id=%2500",
        "?reference=a",
        &format!("?id={}", "x".repeat(256)),
    ] {
        let answer = raw(&stage, &get(&format!("{path}{query}"))).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
        let answer = without_date(&answer);
        // One answer for all of them, with nothing in it that was sent.
        assert_eq!(*first.get_or_insert(answer.clone()), answer, "{query}");
        assert!(
            !answer.contains("xxx") && !answer.contains("injected"),
            "{answer}"
        );
    }
    let with_body = |method: &str, length: usize, body: &str| {
        format!(
            "{method} {path}?id=a HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let head = raw(
        &stage,
        &format!("HEAD {path}?id=a HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\n\r\n"),
    )
    .await;
    let expected = [
        (head, "405"),
        (raw(&stage, &with_body("PUT", 0, "")).await, "405"),
        (raw(&stage, &with_body("POST", 10_000_000, "")).await, "413"),
        (raw(&stage, &with_body("POST", 1_025, "")).await, "413"),
        (raw(&stage, &with_body("DELETE", 0, "")).await, "405"),
        (
            raw(&stage, &get(&format!("{path}?id=a&x={}", "y".repeat(5_000)))).await,
            "414",
        ),
        (
            raw(&stage, &get(&format!("{path}?id=a&x={}", "y".repeat(100_000)))).await,
            "431",
        ),
        (raw(&stage, &get("/hooks/cm/NO_SHOP?id=a")).await, "404"),
        (
            raw(&stage, &format!("GET {path}?id=a HTTP/1.1\r\n\r\n")).await,
            "400",
        ),
        (
            raw(
                &stage,
                &format!("GET {path}?id=a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            )
            .await,
            "400",
        ),
    ];
    for (answer, status) in expected {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{status}: {answer}"
        );
    }
    assert_eq!(stage.sql_count("SELECT count(*) FROM notifications").await, 0);
    // A form is fine, with the reference in it and not in both places.
    let form = |query: &str| {
        format!(
            "POST {path}{query} HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\nContent-Length: 4\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\nid=f"
        )
    };
    assert!(raw(&stage, &form("")).await.starts_with("HTTP/1.1 200"));
    assert!(raw(&stage, &form("?id=g")).await.starts_with("HTTP/1.1 400"));
    assert_eq!(stage.sql_count("SELECT count(*) FROM notifications").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_20_b_26_a_hint_is_stored_and_answered_whoever_says_he_sent_it_and_while_cm_is_away() {
    // Nobody listens there: an answer that waited for CM would be late.
    let stage = Stage::tuned(crate::stage::Plan::ordinary(), |config| {
        for shop in config.shops.values_mut() {
            "http://127.0.0.1:9".clone_into(&mut shop.cm.rest_url);
        }
    })
    .await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let path = format!("/hooks/cm/{SHOP}?id={reference}");
    let plain = raw(&stage, &get(&path)).await;
    assert!(plain.starts_with("HTTP/1.1 200"), "{plain}");
    let count = "SELECT coalesce(sum(count), 0)::bigint FROM notifications WHERE state = 'known'";
    assert_eq!(stage.sql_count(count).await, 1, "stored before it was answered");
    // No list of sources is kept: a hint does nothing but make us look. So whatever a header says of its source changes nothing.
    let spoofed = [
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-For: 127.0.0.1, 8.8.8.8",
        "Forwarded: for=10.0.0.1",
        "X-Real-IP: not an address",
    ];
    for header in spoofed {
        let request = format!("GET {path} HTTP/1.1\r\nHost: kassa\r\n{header}\r\nConnection: close\r\n\r\n");
        assert_eq!(
            without_date(&raw(&stage, &request).await),
            without_date(&plain),
            "{header}"
        );
    }
    assert_eq!(stage.sql_count(count).await, 5);
}

/// Connections that are held open and say nothing.
const IDLE: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_25_two_thousand_idle_connections_keep_nobody_out() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let address = stage
        .hooks_url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("an address");
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(address).await.expect("it is taken"));
    }
    let answer = raw(&stage, &get(&format!("/hooks/cm/{SHOP}?id={reference}"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_25_a_storm_for_one_order_is_a_few_reads_and_a_storm_of_unknowns_none() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let url = format!("{}?id={reference}", stage.hooks_url);
    let began = tokio::time::Instant::now();
    for _ in 0..10 {
        let ours = join_all((0..50).map(|_| stage.http_get(&url))).await;
        let urls: Vec<_> = (0..50)
            .map(|n| format!("{}?id=stranger-{n}", stage.hooks_url))
            .collect();
        let strangers = join_all(urls.iter().map(|url| stage.http_get(url))).await;
        assert!(ours.iter().chain(&strangers).all(|answer| answer.status() == 200));
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("few") + 1;
    stage
        .until("all were read for", async |s| {
            s.sql_count("SELECT count(*) FROM provider_reads WHERE requests > served")
                .await
                == 0
        })
        .await;
    let reads = stage.count(&reference, "request", "status").await;
    assert!(
        reads <= 3 + 3 + seconds,
        "{reads} reads in {seconds} s for 500 notifications"
    );
    let all = stage
        .http_get(&format!("{}/sim/ledger", stage.sim_url))
        .await
        .text()
        .await
        .expect("a body");
    assert!(!all.contains("stranger"), "CM was asked about strangers");
    // A real one is heard all the same.
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_27_what_a_notification_claims_changes_nothing() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let claim = format!(
        "{}?id={reference}&status=paid&safe=true&amount=4995",
        stage.hooks_url
    );
    assert_eq!(stage.http_get(&claim).await.status(), 200);
    stage
        .until("it was read for", async |s| {
            s.sql_count("SELECT count(*) FROM provider_reads WHERE requests > served")
                .await
                == 0
        })
        .await;
    assert_eq!(stage.get_order(&order_id).await["safe"]["value"], "no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_64_a_notification_that_comes_before_our_own_record_is_parked_and_found() {
    let stage = Stage::new().await;
    let body = order_body("early", "ideal/success");
    assert_eq!(
        stage
            .http_get(&format!("{}?id=early", stage.hooks_url))
            .await
            .status(),
        200
    );
    assert_eq!(
        stage
            .sql_count("SELECT count(*) FROM notifications WHERE state = 'parked'")
            .await,
        1
    );
    stage.command("create_order", &body).await;
    stage
        .until("the order is asked about", async |s| {
            s.sql_count("SELECT count(*) FROM notifications WHERE state = 'known'")
                .await
                == 1
                && s.sql_count("SELECT count(*) FROM provider_reads").await == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_24_while_the_store_is_away_cm_is_told_to_come_back() {
    let (mut postgres, url) = crate::world::own_postgres("b_24").await;
    let store = kassa_event_store::Store::connect(kassa_event_store::StoreConfig { url, pool_size: 2 })
        .await
        .expect("it opens");
    let stop = tokio_util::sync::CancellationToken::new();
    let bound = kassa_cm_notifications::Notifications::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("it binds");
    let hook = format!("http://{}/hooks/cm/{SHOP}?id=a", bound.local_addr());
    tokio::spawn(bound.serve(store, stop.clone()));
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    assert_eq!(http.get(&hook).send().await.expect("it answers").status(), 200);
    tokio::task::spawn_blocking(move || postgres.stop().expect("it is ours to stop"))
        .await
        .expect("no panic");
    assert_eq!(http.get(&hook).send().await.expect("it answers").status(), 503);
    stop.cancel();
}

//! Is every answer that is not plainly yes or no taken as not known, in bounded time and memory?

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A CM that answers every request with these bytes and closes; `None` closes without an answer.
async fn cm(answer: Option<Vec<u8>>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                if let Some(answer) = answer {
                    let _ = stream.write_all(&answer).await;
                }
            });
        }
    });
    client(&format!("http://{address}"))
}

fn client(rest_url: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(&Cm {
        mode: Mode::Sim,
        rest_url: rest_url.to_owned(),
        account: "account".to_owned(),
        password: Some(SecretString::from("hunter2")),
        password_file: None,
        merchant_key: "merchant".to_owned(),
        timeout: jiff::SignedDuration::from_millis(500),
    })
    .unwrap()
}

fn http(status: &str, headers: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

const JSON: &str = "Content-Type: application/json\r\n";
const KEY: &str = "0287A1617D93780EF28044B98438BF2F";

async fn start(client: &Client) -> Answer<Started> {
    client
        .start(
            KEY,
            &StartBody {
                method: "IDEAL",
                ideal_details: None,
            },
        )
        .await
}

#[tokio::test]
async fn what_is_not_cms_own_answer_leaves_the_outcome_unknown() {
    let started =
        r#"{"id":"pid1t","urls":[{"purpose":"REDIRECT","method":"GET","url":"http://bank/1","order":1}]}"#;
    assert!(matches!(
        start(&cm(http("201 Created", JSON, started)).await).await,
        Answer::Yes(_)
    ));
    let endless = format!(
        "HTTP/1.1 200 OK\r\n{JSON}Content-Length: 104857600\r\n\r\n{}",
        " ".repeat(2_000_000)
    );
    for (what, answer) in [
        (
            "an HTML page",
            http("200 OK", "Content-Type: text/html\r\n", started),
        ),
        ("no content type", http("200 OK", "", started)),
        ("a list", http("200 OK", JSON, &format!("[{started}]"))),
        (
            "an error document with 200",
            http("200 OK", JSON, r#"{"messages":["no"]}"#),
        ),
        ("an empty 200", http("200 OK", JSON, "")),
        ("204", Some(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())),
        (
            "junk after the end",
            http("201 Created", JSON, &format!("{started} x")),
        ),
        (
            "cut in the middle",
            Some(format!("HTTP/1.1 201 Created\r\n{JSON}Content-Length: 900\r\n\r\n{started}").into_bytes()),
        ),
        ("a hundred megabytes", Some(endless.into_bytes())),
        (
            "a redirect",
            http("302 Found", "Location: http://127.0.0.1:1/\r\n", ""),
        ),
        (
            "a proxy's 404",
            http("404 Not Found", "Content-Type: text/html\r\n", "<html>"),
        ),
        (
            "500 with an error document",
            http("500 Internal Server Error", JSON, r#"{"messages":["no"]}"#),
        ),
        ("503", http("503 Service Unavailable", "", "")),
        ("a closed connection", None),
        ("not HTTP", Some(b"hello".to_vec())),
        (
            "an error beside the success",
            http(
                "201 Created",
                JSON,
                &started.replace("\"urls\"", "\"messages\":[\"no\"],\"urls\""),
            ),
        ),
        (
            "a success beside the error",
            http("400 Bad Request", JSON, r#"{"messages":["no"],"id":"pid1t"}"#),
        ),
        (
            "500 with a success in it",
            http("500 Internal Server Error", JSON, started),
        ),
        ("202", http("202 Accepted", JSON, started)),
        ("a part", http("206 Partial Content", JSON, started)),
        (
            "another charset",
            http(
                "201 Created",
                "Content-Type: application/json; charset=utf-16\r\n",
                started,
            ),
        ),
        (
            "packed, and nobody asked",
            http(
                "201 Created",
                &format!("{JSON}Content-Encoding: gzip\r\n"),
                started,
            ),
        ),
        (
            "two lengths",
            http("201 Created", &format!("{JSON}Content-Length: 3\r\n"), started),
        ),
        (
            "values in the right order instead of names",
            http("201 Created", JSON, r#"["pid1t", []]"#),
        ),
        (
            "a script for a link",
            http(
                "201 Created",
                JSON,
                &started.replace("http://bank/1", "javascript:alert(1)"),
            ),
        ),
        (
            "a line break in a link",
            http(
                "201 Created",
                JSON,
                &started.replace("bank/1", "bank/1\\r\\nSet-Cookie: a"),
            ),
        ),
        (
            "Latin-1 that says UTF-8",
            Some(
                [
                    format!("HTTP/1.1 201 Created\r\n{JSON}Content-Length: 14\r\n\r\n").as_bytes(),
                    b"{\"id\":\"pid\xE91\"}",
                ]
                .concat(),
            ),
        ),
        (
            "chunks that are broken off",
            Some(
                format!("HTTP/1.1 201 Created\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"id\"")
                    .into_bytes(),
            ),
        ),
        (
            "a head that is broken off",
            Some(b"HTTP/1.1 201 Created\r\nContent-Ty".to_vec()),
        ),
        (
            "nested a hundred thousand times",
            http("200 OK", JSON, &"[".repeat(100_000)),
        ),
    ] {
        let said = start(&cm(answer).await).await;
        assert!(matches!(said, Answer::Unknown { .. }), "{what}: {said:?}");
    }
}

#[tokio::test]
async fn an_answer_that_trickles_is_cut_off_by_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream
            .write_all(format!("HTTP/1.1 200 OK\r\n{JSON}Content-Length: 9999\r\n\r\n").as_bytes())
            .await;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        // One byte at a time: never idle, never done.
        while stream.write_all(b" ").await.is_ok() {
            tick.tick().await;
        }
    });
    let said = start(&client(&format!("http://{address}"))).await;
    assert!(
        matches!(
            said,
            Answer::Unknown {
                class: LossClass::Timeout,
                ..
            }
        ),
        "{said:?}"
    );
}

#[tokio::test]
async fn cms_own_refusal_is_a_no_and_its_words_are_kept_short() {
    let words = format!(
        r#"{{"messages":["Order could not be found {}"]}}"#,
        "x".repeat(1_000)
    );
    let Answer::No(kept) = start(&cm(http("400 Bad Request", JSON, &words)).await).await else {
        panic!()
    };
    assert!(kept.starts_with("Order could not be found") && kept.chars().count() == 250);
}

#[tokio::test]
async fn an_account_that_is_not_served_is_not_a_refused_payment() {
    for status in ["403 Forbidden", "429 Too Many Requests"] {
        let said = start(&cm(http(status, "", "")).await).await;
        assert!(
            matches!(said, Answer::Unknown { .. }),
            "{status} may be a proxy's: {said:?}"
        );
    }
    for status in ["401 Unauthorized", "403 Forbidden", "429 Too Many Requests"] {
        let headers = format!("{JSON}Retry-After: 7\r\n");
        let said = start(&cm(http(status, &headers, r#"{"messages":["no"]}"#)).await).await;
        assert!(matches!(said, Answer::NotServed { .. }), "{status}: {said:?}");
    }
}

#[tokio::test]
async fn one_orders_refused_report_shuts_nobody_out_and_a_refused_start_does() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let client = cm(http(status, JSON, r#"{"messages":["no"]}"#)).await;
        let said = client.report(KEY).await;
        assert!(matches!(said, Answer::NotServed { .. }), "{status}: {said:?}");
        assert_eq!(client.enter(Call::Effect), Ok(()), "{status}");
        start(&client).await;
        assert!(client.enter(Call::Effect).is_err(), "{status}");
    }
    // Nothing but such reports: it is the account.
    let client = cm(http("403 Forbidden", JSON, r#"{"messages":["no"]}"#)).await;
    for _ in 0..8 {
        assert_eq!(client.enter(Call::Read), Ok(()));
        client.report(KEY).await;
    }
    assert!(client.enter(Call::Read).is_err());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_was_sent_nothing() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    assert!(matches!(
        start(&client(&format!("http://{free}"))).await,
        Answer::NotSent(_)
    ));
}

#[tokio::test]
async fn f_60_no_name_no_tls_and_no_answer_to_a_connection_are_not_sent() {
    let plain = cm(http("201 Created", JSON, "{}")).await;
    let tls = client(&plain.base().as_str().replace("http://", "https://"));
    for (what, client) in [
        ("a name that nobody has", client("http://cm.invalid")),
        ("no TLS at the other end", tls),
    ] {
        let said = start(&client).await;
        assert!(matches!(said, Answer::NotSent(_)), "{what}: {said:?}");
    }
}

/// A connection that stays open after its first answer, and closes under its second request.
#[tokio::test]
async fn f_63_a_kept_connection_that_closes_under_a_start_has_it_sent_no_second_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, mut requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let body = r#"{"id":"pid1t","status":"X"}"#;
                let answer = format!(
                    "HTTP/1.1 201 Created\r\n{JSON}Connection: keep-alive\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut buffer = [0; 4096];
                let mut first = true;
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let word = buffer.split(|byte| *byte == b' ').next().unwrap_or_default();
                    let _ = heard.send((String::from_utf8_lossy(word).into_owned(), first));
                    if !std::mem::take(&mut first) {
                        return;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let client = client(&format!("http://{address}"));
    for _ in 0..4 {
        assert!(matches!(start(&client).await, Answer::Yes(_)));
    }
    for _ in 0..4 {
        // A report may be asked for again, and is where its connection was closed under it.
        let _ = client.report(KEY).await;
    }
    drop(client);
    let mut posts = vec![];
    while let Ok(Some((method, first))) =
        tokio::time::timeout(Duration::from_millis(500), requests.recv()).await
    {
        if method == "POST" {
            posts.push(first);
        }
    }
    assert_eq!(posts, [true; 4], "each on a connection of its own, and once");
}

#[tokio::test]
async fn f_67_when_cm_says_when_to_come_again_it_is_honoured_within_a_bound() {
    let refused = r#"{"messages":["slow down"]}"#;
    for (header, wait) in [
        ("Retry-After: 120\r\n", 120),
        ("Retry-After: 86400\r\n", 600),
        ("Retry-After: soon\r\n", 5),
        ("", 5),
        (
            "Date: Tue, 24 Nov 2026 10:00:00 GMT\r\nRetry-After: Tue, 24 Nov 2026 10:00:30 GMT\r\n",
            30,
        ),
        (
            "Date: Tue, 24 Nov 2026 10:00:00 GMT\r\nRetry-After: Tue, 24 Nov 2026 09:00:00 GMT\r\n",
            5,
        ),
    ] {
        let client = cm(http("429 Too Many Requests", &format!("{JSON}{header}"), refused)).await;
        let Answer::NotServed { wait: told, .. } = start(&client).await else {
            panic!("{header}")
        };
        assert_eq!(told, Duration::from_secs(wait), "{header}");
        // For everybody, and nothing is recorded of a call that is not made.
        assert!(client.enter(Call::Effect).is_err() && client.enter(Call::Read).is_err());
    }
    let busy = cm(http("503 Service Unavailable", "Retry-After: 7\r\n", "")).await;
    assert!(busy.enter(Call::Effect).is_ok());
    let said = start(&busy).await;
    let asked = Some(Duration::from_secs(7));
    assert!(
        matches!(said, Answer::Unknown { class: LossClass::ServerError, wait } if wait == asked),
        "{said:?}"
    );
    assert!(busy.enter(Call::Effect).is_err());
}

#[tokio::test]
async fn p_16_an_answer_that_never_ends_is_left_within_its_bound() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, mut written) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{JSON}\r\n").as_bytes())
                .await;
            let mut total = 0_usize;
            while stream.write_all(&[b' '; 64 * 1024]).await.is_ok() {
                total += 64 * 1024;
            }
            let _ = sent.send(total);
        }
    });
    let client = client(&format!("http://{address}"));
    let said = start(&client).await;
    assert!(
        matches!(
            said,
            Answer::Unknown {
                class: LossClass::Unreadable | LossClass::Timeout,
                ..
            }
        ),
        "{said:?}"
    );
    let total = written.recv().await.unwrap();
    assert!(total < 32 * ANSWER_MAX, "{total} bytes were taken");
}

#[test]
fn the_password_is_in_no_debug_output() {
    assert!(!format!("{:?}", client("https://cm.example")).contains("hunter2"));
}

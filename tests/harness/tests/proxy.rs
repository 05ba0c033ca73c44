//! Does the proxy do to a connection what it says, and nothing when it says nothing? Real sockets on both sides.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kassa_harness::proxy::{Accept, At, Cut, How, Proxy, Release, Side, Trap, Upstream, Way, Weather, When};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener},
    time::{Instant, timeout},
};

/// Whatever has to come comes in this time, on a loaded machine too.
const SOON: Duration = Duration::from_secs(20);
/// What has not come by then does not come at all: the server is on this machine and has nothing else to do.
const NEVER: Duration = Duration::from_millis(200);

/// A server that answers each byte with the same one, and counts what reached it.
struct Echo {
    upstream: Upstream,
    bytes: Arc<AtomicU64>,
}

async fn echo() -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = Upstream::Tcp(listener.local_addr().expect("an address"));
    let bytes = Arc::new(AtomicU64::new(0));
    let counted = bytes.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4_096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    counted.fetch_add(u64::try_from(n).expect("few"), Ordering::SeqCst);
                    if stream.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Echo { upstream, bytes }
}

/// A server that answers each request with its number among all, and keeps connections open.
async fn http() -> (Upstream, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = Upstream::Tcp(listener.local_addr().expect("an address"));
    let requests = Arc::new(AtomicU64::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 4_096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..n]);
                    if !seen.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    seen.clear();
                    let n = counted.fetch_add(1, Ordering::SeqCst) + 1;
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (upstream, requests)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// What comes back, as much as was sent.
async fn say(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .expect("an answer or an end")?;
    Ok(answer)
}

/// What came until the connection ended, and whether it ended in order.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut answer = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    (answer, ended.is_ok())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    let mut look = tokio::time::interval(Duration::from_millis(2));
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        look.tick().await;
    }
}

#[tokio::test]
async fn in_good_weather_everything_passes_and_is_counted() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let mut client = connect(&proxy).await;
    let large = vec![7; 300_000];
    let (mut from, mut to) = client.split();
    let (sent, answer) = tokio::join!(to.write_all(&large), async {
        let mut answer = vec![0; large.len()];
        timeout(SOON, from.read_exact(&mut answer))
            .await
            .expect("an answer")
            .map(|_| answer)
    });
    sent.expect("it is taken");
    assert!(answer.expect("it comes back") == large);
    let counts = proxy.counts();
    assert_eq!(
        (counts.accepted, counts.up_bytes, counts.down_bytes),
        (1, 300_000, 300_000)
    );
    assert_eq!(
        (counts.cuts, counts.resets, counts.delayed, counts.held),
        (0, 0, 0, 0)
    );
}

#[tokio::test]
async fn a_unix_socket_is_reached_by_a_port() {
    let folder = std::env::temp_dir().join(format!("kassa-proxy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody comes");
        stream.write_all(b"hello").await.expect("it is taken");
    });
    let proxy = Proxy::start(Upstream::Unix(path)).expect("a proxy");
    let said = rest(&mut connect(&proxy).await).await;
    assert_eq!(said, (b"hello".to_vec(), true));
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[tokio::test]
async fn latency_holds_up_each_answer_and_keeps_the_order() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let mut client = connect(&proxy).await;
    let way = Way {
        latency: Duration::from_millis(60),
        jitter: Duration::from_millis(20),
        ..Way::default()
    };
    proxy.set(Weather {
        down: way,
        ..Weather::default()
    });
    let begin = Instant::now();
    for text in [b"one", b"two"] {
        assert_eq!(say(&mut client, text).await.expect("it comes"), text);
    }
    assert!(
        begin.elapsed() >= Duration::from_millis(120),
        "{:?}",
        begin.elapsed()
    );
    assert!(proxy.counts().delayed >= 2);
    proxy.heal();
    assert_eq!(say(&mut client, b"three").await.expect("it comes"), b"three");
}

#[tokio::test]
async fn a_narrow_line_lets_bytes_through_at_its_pace() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let mut client = connect(&proxy).await;
    let way = Way {
        bytes_per_second: Some(200),
        ..Way::default()
    };
    proxy.set(Weather {
        up: way,
        ..Weather::default()
    });
    let begin = Instant::now();
    assert_eq!(say(&mut client, &[1; 60]).await.expect("it comes").len(), 60);
    assert!(
        begin.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_connection_is_cut_after_exactly_so_many_bytes_and_the_next_one_is_not() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.cut(Cut::new(Side::Down, At::Bytes(4)).how(How::Close));
    let mut client = connect(&proxy).await;
    client.write_all(b"1234567").await.expect("it is taken");
    assert_eq!(rest(&mut client).await, (b"1234".to_vec(), true));
    assert_eq!(proxy.counts().cuts, 1);
    assert_eq!(
        say(&mut connect(&proxy).await, b"again").await.expect("it comes"),
        b"again"
    );
}

#[tokio::test]
async fn a_reset_is_an_error_to_the_client_and_not_an_end() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let mut client = connect(&proxy).await;
    assert_eq!(say(&mut client, b"open").await.expect("it comes"), b"open");
    proxy.reset_all();
    assert_eq!(rest(&mut client).await, (vec![], false));
    assert_eq!(proxy.counts().resets, 1);
}

#[tokio::test]
async fn a_request_is_cut_in_the_middle_and_its_rest_never_arrives() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.cut(Cut::new(Side::Up, At::Bytes(3)));
    let mut client = connect(&proxy).await;
    client.write_all(b"1234567").await.expect("it is taken");
    rest(&mut client).await;
    until("three bytes at the server", || {
        echo.bytes.load(Ordering::SeqCst) == 3
    })
    .await;
}

#[tokio::test]
async fn between_a_commit_and_its_answer_there_is_a_place_to_cut() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.cut(Cut::new(Side::Up, At::PieceWith(b"COMMIT".to_vec())).answered(b"COMMIT"));
    let mut client = connect(&proxy).await;
    assert_eq!(say(&mut client, b"BEGIN").await.expect("it comes"), b"BEGIN");
    client.write_all(b"COMMIT").await.expect("it is taken");
    let (heard, in_order) = rest(&mut client).await;
    assert_eq!((heard, in_order), (vec![], false), "the answer is lost");
    assert_eq!(
        echo.bytes.load(Ordering::SeqCst),
        11,
        "and what it answers is not"
    );
}

#[tokio::test]
async fn a_cut_that_is_meant_for_one_request_spares_the_others() {
    let (upstream, requests) = http().await;
    let proxy = Proxy::start(upstream).expect("a proxy");
    proxy.cut(Cut::new(Side::Down, At::Through(b"\r\n\r\n".to_vec())).only(b"POST /start"));
    let mut client = connect(&proxy).await;
    client
        .write_all(b"GET /status HTTP/1.1\r\n\r\n")
        .await
        .expect("it is taken");
    let mut answer = vec![0; 39];
    timeout(SOON, client.read_exact(&mut answer))
        .await
        .expect("soon")
        .expect("an answer");
    assert!(
        answer.ends_with(b"\r\n\r\n1"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    client
        .write_all(b"POST /start HTTP/1.1\r\n\r\n")
        .await
        .expect("it is taken");
    let (head, _) = rest(&mut client).await;
    assert!(
        head.is_empty() || head.ends_with(b"\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    assert_eq!((requests.load(Ordering::SeqCst), proxy.counts().cuts), (2, 1));
}

#[tokio::test]
async fn while_stalled_nothing_moves_and_afterwards_everything_does() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let mut client = connect(&proxy).await;
    proxy.set(Weather::stalled());
    client.write_all(b"wait").await.expect("the kernel takes it");
    until("a piece that waits", || proxy.counts().stalled == 1).await;
    assert_eq!(echo.bytes.load(Ordering::SeqCst), 0);
    // A new connection is taken, as by a server that hangs.
    let mut other = connect(&proxy).await;
    other.write_all(b"too").await.expect("the kernel takes it");
    proxy.heal();
    let mut answer = [0; 4];
    timeout(SOON, client.read_exact(&mut answer))
        .await
        .expect("soon")
        .expect("it comes");
    assert_eq!(&answer, b"wait");
}

#[tokio::test]
async fn a_connection_that_a_cut_has_stalled_is_reset_when_the_proxy_heals() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.cut(Cut::new(Side::Down, At::Bytes(1)).how(How::Stall));
    let mut client = connect(&proxy).await;
    client.write_all(b"abc").await.expect("it is taken");
    let mut first = [0; 1];
    timeout(SOON, client.read_exact(&mut first))
        .await
        .expect("soon")
        .expect("it comes");
    until("the cut", || proxy.counts().cuts == 1).await;
    assert!(
        timeout(NEVER, client.read_exact(&mut first)).await.is_err(),
        "nothing more comes"
    );
    proxy.heal();
    assert!(!rest(&mut client).await.1);
}

#[tokio::test]
async fn refused_is_refused_and_the_port_stays_ours() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.set(Weather::accepting(Accept::Refuse));
    let deadline = Instant::now() + SOON;
    let refused = loop {
        match TcpStream::connect(proxy.address()).await {
            // Until the proxy has heard of it.
            Ok(_) => assert!(Instant::now() < deadline, "it went on listening"),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(
        TcpListener::bind(proxy.address()).await.is_err(),
        "nobody else can have the port"
    );
    proxy.heal();
    let deadline = Instant::now() + SOON;
    let mut client = loop {
        match TcpStream::connect(proxy.address()).await {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(say(&mut client, b"back").await.expect("it comes"), b"back");
}

#[tokio::test]
async fn a_black_hole_takes_connections_and_says_nothing() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    proxy.set(Weather::accepting(Accept::BlackHole));
    let mut client = connect(&proxy).await;
    client.write_all(b"anybody?").await.expect("the kernel takes it");
    until("the hole", || proxy.counts().black_holed == 1).await;
    assert!(timeout(NEVER, client.read_u8()).await.is_err());
    assert_eq!(echo.bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_arrives_twice_and_the_client_has_the_first_answer() {
    let (upstream, requests) = http().await;
    let proxy = Proxy::start(upstream).expect("a proxy");
    proxy.set(Weather {
        duplicate: Some("/hooks".to_owned()),
        ..Weather::default()
    });
    let mut client = connect(&proxy).await;
    client
        .write_all(b"GET /other HTTP/1.1\r\n\r\n")
        .await
        .expect("it is taken");
    let mut answer = vec![0; 39];
    timeout(SOON, client.read_exact(&mut answer))
        .await
        .expect("soon")
        .expect("an answer");
    client
        .write_all(b"GET /hooks?id=1 HTTP/1.1\r\n\r\n")
        .await
        .expect("it is taken");
    timeout(SOON, client.read_exact(&mut answer))
        .await
        .expect("soon")
        .expect("an answer");
    until("three requests at the server", || {
        requests.load(Ordering::SeqCst) == 3
    })
    .await;
    assert_eq!(proxy.counts().duplicated, 1);
}

#[tokio::test]
async fn a_close_is_told_late() {
    let (upstream, _) = http().await;
    let proxy = Proxy::start(upstream).expect("a proxy");
    proxy.set(Weather {
        close_delay: Duration::from_millis(80),
        ..Weather::default()
    });
    let mut client = connect(&proxy).await;
    let begin = Instant::now();
    client.shutdown().await.expect("a socket");
    rest(&mut client).await;
    assert!(begin.elapsed() >= Duration::from_millis(80));
    assert!(proxy.counts().slow_closes >= 1);
}

#[tokio::test]
async fn a_trap_holds_the_nth_write_of_all_its_edges_and_drops_it_for_the_dead() {
    for (when, arrives) in [(When::Before, 2), (When::After, 3)] {
        let (one, two) = (echo().await, echo().await);
        let first = Proxy::start(one.upstream).expect("a proxy");
        let second = Proxy::start(two.upstream).expect("a proxy");
        let trap = Arc::new(Trap::new(3, when));
        for proxy in [&first, &second] {
            proxy.set_trap(Some(trap.clone()));
        }
        let (mut a, mut b) = (connect(&first).await, connect(&second).await);
        say(&mut a, b"1").await.expect("it comes");
        say(&mut b, b"2").await.expect("it comes");
        assert!(!trap.is_reached());
        a.write_all(b"3").await.expect("the kernel takes it");
        assert!(trap.reached(SOON).await, "{when:?}");
        b.write_all(b"4").await.expect("the kernel takes it");
        until("the fourth is held as well", || second.counts().held == 1).await;
        trap.release(Release::Drop);
        rest(&mut a).await;
        rest(&mut b).await;
        let arrived = one.bytes.load(Ordering::SeqCst) + two.bytes.load(Ordering::SeqCst);
        assert_eq!(arrived, arrives, "{when:?}");
    }
}

#[tokio::test]
async fn a_trap_that_is_released_forward_is_as_if_it_had_never_been() {
    let echo = echo().await;
    let proxy = Proxy::start(echo.upstream).expect("a proxy");
    let trap = Arc::new(Trap::new(1, When::Before));
    proxy.set_trap(Some(trap.clone()));
    let mut client = connect(&proxy).await;
    client.write_all(b"held").await.expect("the kernel takes it");
    assert!(trap.reached(SOON).await);
    trap.release(Release::Forward);
    let mut answer = [0; 4];
    timeout(SOON, client.read_exact(&mut answer))
        .await
        .expect("soon")
        .expect("it comes");
    assert_eq!(say(&mut client, b"more").await.expect("it comes"), b"more");
}

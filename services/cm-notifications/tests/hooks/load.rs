use crate::server::{Hook, SHOP};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn clients(
    hook: &Hook,
    n: usize,
    secs: u64,
    id: impl Fn(usize, usize) -> String,
) -> (usize, usize, Duration, Duration) {
    let until = Instant::now() + Duration::from_secs(secs);
    let mut all = Vec::new();
    let tasks = (0..n).map(|c| {
        let id = &id;
        async move {
            let mut s = TcpStream::connect(hook.address).await.unwrap();
            let mut t = Vec::new();
            let mut bad = 0;
            let mut k = 0;
            let mut buf = [0u8; 2048];
            while Instant::now() < until {
                k += 1;
                let b = Instant::now();
                s.write_all(
                    format!("GET /hooks/cm/{SHOP}?id={} HTTP/1.1\r\nHost: k\r\n\r\n", id(c, k)).as_bytes(),
                )
                .await
                .unwrap();
                let m = s.read(&mut buf).await.unwrap();
                if !String::from_utf8_lossy(&buf[..m]).starts_with("HTTP/1.1 200") {
                    bad += 1;
                    if m == 0 {
                        break;
                    }
                }
                t.push(b.elapsed());
            }
            (t, bad)
        }
    });
    // in one task set
    let mut bad = 0;
    for (t, b) in futures_join(tasks).await {
        all.extend(t);
        bad += b;
    }
    all.sort();
    (all.len(), bad, all[all.len() / 2], all[all.len() * 99 / 100])
}
async fn futures_join<F: Future>(fs: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut fs: Vec<_> = fs.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut p = false;
        for (f, o) in &mut fs {
            if o.is_none() {
                match f.as_mut().poll(cx) {
                    std::task::Poll::Ready(v) => *o = Some(v),
                    _ => p = true,
                }
            }
        }
        if p {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    fs.into_iter().map(|(_, o)| o.unwrap()).collect()
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load() {
    let hook = Hook::new().await;
    for n in 0..500 {
        hook.create(&format!("o{n}")).await;
    }
    for c in [64, 128] {
        println!(
            "one known id, {c}      {:?}",
            clients(&hook, c, 4, |_, _| "o1".into()).await
        );
        println!(
            "many known ids, {c}    {:?}",
            clients(&hook, c, 4, |c, k| format!("o{}", (c * 31 + k) % 500)).await
        );
        println!(
            "random unknown, {c}    {:?}",
            clients(&hook, c, 4, |c, k| format!("r{c}-{k}")).await
        );
    }
    println!(
        "known, 1 client       {:?}",
        clients(&hook, 1, 5, |_, k| format!("o{}", k % 500)).await
    );
    println!(
        "unknown, 1 client     {:?}",
        clients(&hook, 1, 5, |_, k| format!("u{k}")).await
    );
}

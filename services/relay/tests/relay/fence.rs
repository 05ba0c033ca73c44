//! What if a relay comes back with an old view, after another has gone on? The server refuses what it appends, by the fence.
//! Where both send the same event, the server's memory of ids would hide it for two minutes; here they send different ones.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

use super::*;

/// Between a relay and its server; holds back the first event and all that comes after it.
struct Gate {
    url: String,
    open: watch::Sender<bool>,
    /// Whether an event waits.
    held: watch::Receiver<bool>,
}

impl Gate {
    async fn before(server: &Nats) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("nats://{}", listener.local_addr()?);
        let address = server.url().replace("nats://", "");
        let (open, opened) = watch::channel(false);
        let (holds, held) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&address).await else {
                    continue;
                };
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                tokio::spawn(hold_events(from_client, to_server, opened.clone(), holds.clone()));
            }
        });
        Ok(Self { url, open, held })
    }
}

async fn hold_events(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut opened: watch::Receiver<bool>,
    holds: watch::Sender<bool>,
) -> Result<()> {
    const EVENT: &[u8] = b"kassa.evt.";
    let mut seen = Vec::new();
    loop {
        let before = seen.len();
        if from.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
        // A subject may come in two pieces; without its end, the server waits.
        let from_here = before.saturating_sub(EVENT.len());
        if seen[from_here..].windows(EVENT.len()).any(|ten| ten == EVENT) {
            holds.send_replace(true);
            opened.wait_for(|open| *open).await?;
        }
        to.write_all(&seen[before..]).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_with_an_old_view_of_the_stream_appends_nothing() -> Result<()> {
    let world = World::start().await?;
    world.store.append(order(1)).await?;
    let mut relay = world.relay();
    relay.reaches(1, &world).await?;

    // A store that took another way after the first event, as after a restore; its relay does not know that the stream went on.
    let restored = world.another_database().await?;
    restored.append(order(1)).await?;
    restored.append(order(2)).await?;
    let mut gate = Gate::before(&world.nats).await?;
    let stale = world.relay_at(gate.url.clone(), restored, 10_000_000);
    tokio::time::timeout(DEADLINE, gate.held.wait_for(|held| *held)).await??;
    world.store.append(order(3)).await?;
    relay.reaches(2, &world).await?;
    gate.open.send_replace(true);
    let error = stale.failed().await?;
    assert!(
        matches!(error, RelayError::OtherContent { position: 2, .. }),
        "it appended where another had been: {error}"
    );

    world.store.append(order(4)).await?;
    relay.reaches(3, &world).await?;
    world.check().await?;
    relay.shut_down().await
}

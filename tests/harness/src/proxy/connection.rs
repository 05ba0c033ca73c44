//! How does one connection pass through its proxy?
//!
//! Each direction is a reader that stamps pieces with the time at which they are due and a writer that forwards them then,
//! if nothing stands against it. Whatever ends a connection early is the error of its pump.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    Accept, How, Shared, Side, Upstream,
    cut::{Due, Finder, Progress},
    http::{Requests, exchange, first_line},
    trap::Passing,
};

/// One read; small enough that a narrow line does not come in bursts of seconds.
const PIECE_MAX: usize = 16 * 1024;
/// Pieces that wait for their time in one direction; then the sender is held up, as by a full window.
const PIECES_WAITING_MAX: usize = 256;
/// How long a cut waits for an answer that may never come, as when the server refuses what it was sent.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What is remembered of an exchange, for cuts that are meant for some of them: a request's head.
const SENT_MAX: usize = 16 * 1024;

/// A byte stream to the server behind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What the two directions of a connection know of each other.
#[derive(Debug, Default)]
struct Link {
    /// What the client has sent since the server's last piece.
    sent: Mutex<Sent>,
    /// Set: the client hears nothing more, and this is what the server still has to say.
    awaited: Mutex<Option<(Vec<u8>, Finder)>>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Sent {
    bytes: Vec<u8>,
    answered: bool,
}

impl Link {
    fn sending(&self, piece: &[u8]) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut sent.answered) {
            sent.bytes.clear();
        }
        let room = SENT_MAX.saturating_sub(sent.bytes.len()).min(piece.len());
        sent.bytes
            .extend_from_slice(piece.get(..room).unwrap_or_default());
    }

    fn answering(&self) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).answered = true;
    }

    fn has_sent(&self, needle: &[u8]) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        needle.is_empty() || sent.bytes.windows(needle.len()).any(|window| window == needle)
    }

    fn mute(&self, awaited: Vec<u8>) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some((awaited, Finder::default()));
    }

    fn is_muted(&self) -> bool {
        self.awaited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn heard(&self, piece: &[u8]) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((needle, finder)) = awaited.as_mut()
            && finder.find(needle, piece).is_some()
        {
            self.answered.notify_one();
        }
    }
}

/// Forwards a connection until one of its ends, or the proxy, ends it.
pub(crate) async fn serve(shared: Arc<Shared>, mut client: TcpStream) {
    // Pieces are forwarded as they come: a client that waits for each answer would wait for the kernel otherwise.
    let _ = client.set_nodelay(true);
    let mut resets = shared.resets.subscribe();
    let how = tokio::select! {
        _ = resets.changed() => {
            shared.counters.reset();
            Some(How::Reset)
        }
        how = forward(&shared, &mut client) => how,
    };
    let how = match how {
        Some(How::Stall) => {
            let _stuck = shared.counters.sticking();
            tokio::select! {
                _ = resets.changed() => shared.counters.reset(),
                () = until_closed(&mut client) => {}
            }
            Some(How::Reset)
        }
        other => other,
    };
    if how == Some(How::Reset) {
        let _ = client.set_zero_linger();
    }
}

/// How it ended early; none when both ends were done.
async fn forward(shared: &Shared, client: &mut TcpStream) -> Option<How> {
    if shared.weather.borrow().accept == Accept::BlackHole {
        shared.counters.black_holed();
        until_closed(client).await;
        return None;
    }
    let Ok(server) = connect(&shared.upstream).await else {
        shared.counters.unreachable();
        return Some(How::Reset);
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    let link = Link::default();
    let up = Pump::new(shared, &link, Side::Up).run(from_client, to_server);
    let down = Pump::new(shared, &link, Side::Down).run(from_server, to_client);
    tokio::try_join!(up, down).err()
}

async fn connect(upstream: &Upstream) -> io::Result<Box<dyn Stream>> {
    Ok(match upstream {
        Upstream::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Upstream::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

async fn until_closed(client: &mut TcpStream) {
    let mut ignored = vec![0; PIECE_MAX];
    while client.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
}

struct Pump<'a> {
    shared: &'a Shared,
    link: &'a Link,
    side: Side,
    progress: Progress,
    requests: Requests,
}

impl<'a> Pump<'a> {
    fn new(shared: &'a Shared, link: &'a Link, side: Side) -> Self {
        Self {
            shared,
            link,
            side,
            progress: Progress::default(),
            requests: Requests::default(),
        }
    }

    /// Forwards until the reader ends, and tells the writer.
    async fn run(self, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) -> Result<(), How> {
        let (pieces, due) = mpsc::channel(PIECES_WAITING_MAX);
        let reading = read(self.shared, self.link, self.side, reader, pieces);
        tokio::try_join!(reading, self.write(writer, due)).map(|_| ())
    }

    async fn write(
        mut self,
        mut writer: impl AsyncWrite + Unpin,
        mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    ) -> Result<(), How> {
        while let Some((due, piece)) = pieces.recv().await {
            if due > Instant::now() {
                self.shared.counters.delayed();
                tokio::time::sleep_until(due).await;
            }
            self.piece(&mut writer, &piece).await?;
        }
        let delay = self.shared.weather.borrow().close_delay;
        if !delay.is_zero() {
            self.shared.counters.slow_close();
            tokio::time::sleep(delay).await;
        }
        // It may be gone already.
        let _ = writer.shutdown().await;
        Ok(())
    }

    async fn piece(&mut self, writer: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> Result<(), How> {
        self.until_flowing().await;
        let trap = (self.side == Side::Up).then(|| self.shared.trap()).flatten();
        let held = || self.shared.counters.held();
        let passing = match &trap {
            Some(trap) => trap.pass(held).await,
            None => Passing::Forward,
        };
        if passing == Passing::Drop {
            return Err(How::Reset);
        }
        match self.side {
            Side::Up => self.link.sending(piece),
            Side::Down if self.link.is_muted() => return std::future::pending().await,
            Side::Down => self.link.answering(),
        }
        let due = self
            .progress
            .pass(&mut self.shared.armed(), self.side, piece, |needle| {
                self.link.has_sent(needle)
            });
        if let Some(due) = due {
            return Err(self.cut(writer, piece, due).await);
        }
        self.forward(writer, piece).await;
        if let (Some(trap), Passing::ForwardAndTell) = (&trap, passing)
            && trap.wrote(held).await == Passing::Drop
        {
            return Err(How::Reset);
        }
        if self.side == Side::Up {
            self.duplicate(piece);
        }
        Ok(())
    }

    /// Waits while nothing may be forwarded.
    async fn until_flowing(&self) {
        let mut weather = self.shared.weather.subscribe();
        let flowing = |weather: &super::Weather| !weather.way(self.side).stalled;
        if flowing(&weather.borrow()) {
            return;
        }
        self.shared.counters.stalled();
        let _ = weather.wait_for(flowing).await;
    }

    async fn cut(&mut self, writer: &mut (impl AsyncWrite + Unpin), piece: &[u8], due: Due) -> How {
        let awaits = due.answered.is_some();
        if let Some(awaited) = due.answered {
            self.link.mute(awaited);
        }
        self.forward(writer, piece.get(..due.keep).unwrap_or(piece)).await;
        if awaits {
            let _ = tokio::time::timeout(ANSWER_MAX, self.link.answered.notified()).await;
        }
        self.shared.counters.cut();
        due.how
    }

    /// At the pace of the line. An end that is gone is seen by the next read, which is where connections end.
    async fn forward(&self, writer: &mut (impl AsyncWrite + Unpin), piece: &[u8]) {
        self.shared.counters.forwarded(self.side, piece.len());
        let mut left = piece;
        while !left.is_empty() {
            let pace = self.shared.weather.borrow().way(self.side).bytes_per_second;
            let Some(pace) = pace else {
                let _ = writer.write_all(left).await;
                break;
            };
            // A byte at a time, or a twentieth of a second's worth.
            let step = usize::try_from((pace / 20).max(1)).unwrap_or(1).min(left.len());
            let (now, later) = left.split_at(step);
            let _ = writer.write_all(now).await;
            self.shared.counters.delayed();
            let wait = Duration::from_secs(1).saturating_mul(u32::try_from(step).unwrap_or(1)) / pace.max(1);
            tokio::time::sleep(wait).await;
            left = later;
        }
        let _ = writer.flush().await;
    }

    /// Sends again, beside this connection, what is to arrive twice.
    fn duplicate(&mut self, piece: &[u8]) {
        let Some(wanted) = self.shared.weather.borrow().duplicate.clone() else {
            return;
        };
        for request in self.requests.feed(piece) {
            if !first_line(&request).contains(&wanted) {
                continue;
            }
            self.shared.counters.duplicated();
            let upstream = self.shared.upstream.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = connect(&upstream).await
                    && let Err(error) = exchange(&mut server, &request).await
                {
                    tracing::debug!(%error, "a request that was sent twice had one answer");
                }
            });
        }
    }
}

/// Until the sender is done.
async fn read(
    shared: &Shared,
    link: &Link,
    side: Side,
    mut reader: impl AsyncRead + Unpin,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
) -> Result<(), How> {
    let mut buffer = vec![0; PIECE_MAX];
    let mut last = Instant::now();
    loop {
        let Ok(n @ 1..) = reader.read(&mut buffer).await else {
            return Ok(());
        };
        let piece = buffer.get(..n).unwrap_or_default();
        if side == Side::Down {
            link.heard(piece);
        }
        let way = shared.weather.borrow().way(side);
        let late = way.latency + way.jitter.mul_f64(fraction());
        // A piece never overtakes the one before it.
        last = last.max(Instant::now() + late);
        if pieces.send((last, piece.to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

/// From 0 to 1, scattered well enough for lateness.
#[expect(clippy::float_arithmetic, reason = "a share of a duration")]
fn fraction() -> f64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    // The golden ratio spreads any number of draws evenly.
    let n = DRAWN.fetch_add(0x9E37_79B9, Ordering::Relaxed) & 0xFFFF_FFFF;
    f64::from(u32::try_from(n).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

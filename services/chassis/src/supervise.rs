//! How does a worker stay up? It runs until shutdown; after an error it runs again, after a pause that grows.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

/// What a shell expects of a program that a signal has ended.
const INTERRUPTED: i32 = 130;
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Long enough to spare a server that is down, short enough that nobody waits once it is back.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Runs `work` until it ends well or `shutdown` is called.
pub async fn keep_running<F, E>(name: &str, shutdown: &CancellationToken, mut work: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: Into<anyhow::Error>,
{
    let mut pause = PAUSE_MIN;
    let mut failures: u32 = 0;
    while !shutdown.is_cancelled() {
        let began = std::time::Instant::now();
        match work().await {
            Ok(()) => return,
            Err(error) => {
                if began.elapsed() > PAUSE_MAX * 5 {
                    pause = PAUSE_MIN;
                    failures = 0;
                }
                failures = failures.saturating_add(1);
                // At its 1st, 2nd, 4th … time in a row: a server may be away for a night.
                if failures.is_power_of_two() {
                    tracing::warn!(
                        worker = name,
                        times = failures,
                        error = format!("{:#}", error.into()),
                        "stopped; it runs again shortly"
                    );
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Cancels the returned token at SIGTERM or Ctrl-C; a second one ends the process at once.
///
/// # Errors
/// When the process may not listen for signals.
pub fn until_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        // The first asks; the second has no patience. Children end with the process.
        for first in [true, false] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if first {
                cancel.cancel();
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

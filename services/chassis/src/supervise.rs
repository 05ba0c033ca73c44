//! How does a worker stay up? It runs until shutdown; after an error it runs again, after a pause that grows.

use std::{future::Future, pin::pin, time::Duration};

use tokio_util::sync::CancellationToken;

/// What a shell expects of a program that a signal has ended.
const INTERRUPTED: i32 = 130;
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Long enough to spare a server that is down, short enough that nobody waits once it is back.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Work that has lasted so long after failures has overcome them.
const WELL: Duration = Duration::from_secs(10);

/// Runs `work` until it ends well or `shutdown` is called.
pub async fn keep_running<F, E>(name: &str, shutdown: &CancellationToken, work: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: Into<anyhow::Error>,
{
    keep_well(name, shutdown, WELL, work).await;
}

async fn keep_well<F, E>(
    name: &str,
    shutdown: &CancellationToken,
    well: Duration,
    mut work: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), E>>,
    E: Into<anyhow::Error>,
{
    let mut pause = PAUSE_MIN;
    let mut failures: u32 = 0;
    while !shutdown.is_cancelled() {
        let mut working = pin!(work());
        let ended = match tokio::time::timeout(well, &mut working).await {
            Ok(ended) => ended,
            Err(_) => {
                if failures > 0 {
                    tracing::info!(worker = name, after = failures, "runs again");
                }
                pause = PAUSE_MIN;
                failures = 0;
                working.await
            }
        };
        match ended {
            Ok(()) => return,
            Err(error) => {
                failures = failures.saturating_add(1);
                // At its 1st, 2nd, 4th … time in a row: a server may be away for a night.
                if failures.is_power_of_two() {
                    tracing::warn!(
                        worker = name,
                        times = failures,
                        error = sentence(&error.into()),
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

/// An error and its causes; a cause that was told with what it caused is not told again.
fn sentence(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            let between = if told.is_empty() { "" } else { ": " };
            told = format!("{told}{between}{cause}");
        }
    }
    told
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logged::Log;

    #[tokio::test]
    async fn a_worker_that_is_well_again_says_so_once() {
        let (log, _told) = Log::here();
        let tries = std::cell::Cell::new(0);
        let stop = CancellationToken::new();
        let working = keep_well("worker", &stop, Duration::from_millis(50), || {
            tries.set(tries.get() + 1);
            let (times, stop) = (tries.get(), stop.clone());
            async move {
                anyhow::ensure!(times >= 3, "away");
                stop.cancelled().await;
                Ok(())
            }
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let watching = async {
            while !log.text().contains("runs again worker") && tokio::time::Instant::now() < deadline {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        tokio::join!(working, watching);
        let log = log.text();
        assert_eq!(log.matches("stopped; it runs again shortly").count(), 2, "{log}");
        assert_eq!(log.matches("INFO").count(), 1, "{log}");
        assert!(log.contains(r#"runs again worker="worker" after=2"#), "{log}");
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("no such stream");
        let text = inner.to_string();
        let error = inner.context(format!("looking for it: {text}")).context("inbox");
        assert_eq!(sentence(&error), "inbox: looking for it: no such stream");
    }
}

//! When is nothing under way any more? Only then may what is stored be held against what happened.
//!
//! First what was begun ends by itself, by clocks that nobody moved ([`begun`]): there moments can still be compared. Then time
//! is not waited for but moved ([`end`]), for the services and the simulator together: whatever waits for a clock happens, and
//! two of the longest poll intervals pass, in an order in which each can be seen to have been dealt with.

use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream;
use jiff::Timestamp;
use kassa_chassis::bus;
use kassa_infra::nats::{GATEWAY_DURABLE, INBOX_DURABLE, INBOX_STREAM};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

use crate::installation::{Access, Installation, SHIPMENT_DURABLE};

/// From one clock to the next.
const LOOK: Duration = Duration::from_millis(200);
/// Looks in a row that find nothing under way, and the log at the same position: some four seconds, longer than what has just
/// been asked for is let be ([`AT_ONCE`]).
const LOOKS: u32 = 18;
/// What is younger than this is being worked at, not waited for: among thousands of orders some report is always due.
const AT_ONCE: &str = "3 seconds";
/// For all that is due after a step of the clock: thousands of reports in the worst case.
const STEP_MAX: Duration = Duration::from_secs(180);
/// One look asks three servers.
const LOOK_MAX: Duration = Duration::from_secs(15);
const STREAM: &str = "KASSA_EVENTS";

/// By how much the clocks are moved, and what that ends. An unknown outcome is resolved after 92 s, so first of all, and
/// before it is old; a day and an hour end reviews and bring chargebacks; then what was left open expires.
const STEPS: [&str; 4] = ["100s", "30s", "25h", "60h"];

/// An order may be paid for this long in a run: longer than any shift of clocks in it, shorter than the steps at its end.
pub const ORDER_TTL: &str = "72h";

/// Waits until nothing of what was begun is under way: all else waits for a clock.
///
/// # Errors
/// When something is still under way after minutes: what.
pub async fn begun(at: &mut Installation) -> anyhow::Result<Looker> {
    for name in at.names() {
        at.until_ready(&name).await?;
    }
    let looker = Looker::new(at.access()).await?;
    looker.until_quiet("what was begun").await?;
    Ok(looker)
}

/// Moves the clocks until everything has ended that can.
///
/// # Errors
/// As [`begun`].
pub async fn end(looker: &Looker, mut say: impl FnMut(&str)) -> anyhow::Result<()> {
    let access = &looker.access;
    for step in STEPS {
        say(&format!("the clocks are moved by {step}"));
        access
            .tool(&["sim", "clock", &format!("+{step}"), "--url", &access.cm_url])
            .await?;
        looker.until_quiet(&format!("what {step} brought")).await?;
    }
    Ok(())
}

/// Asks all three servers what is under way.
#[derive(Debug)]
pub struct Looker {
    access: Access,
    http: reqwest::Client,
    jetstream: jetstream::Context,
}

impl Looker {
    /// # Errors
    /// When a login or an address is malformed.
    pub async fn new(access: &Access) -> anyhow::Result<Self> {
        let deploy = bus::connect(&access.nats_url, &access.login("deploy"), "harness").await?;
        Ok(Self {
            access: access.clone(),
            http: reqwest::Client::builder().no_proxy().timeout(LOOK_MAX).build()?,
            jetstream: jetstream::new(deploy),
        })
    }

    /// Waits until nothing is under way; the log's last position.
    ///
    /// # Errors
    /// After minutes: what is still under way.
    pub async fn until_quiet(&self, after: &str) -> anyhow::Result<i64> {
        let deadline = Instant::now() + STEP_MAX;
        let (mut looks, mut head) = (0, -1);
        loop {
            let busy = match timeout(LOOK_MAX, self.look()).await {
                Ok(Ok((now, None))) => {
                    looks = if now == head { looks + 1 } else { 1 };
                    head = now;
                    if looks >= LOOKS {
                        return Ok(head);
                    }
                    None
                }
                Ok(Ok((_, busy))) => busy,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some("a server does not answer".to_owned()),
            };
            if busy.is_some() {
                looks = 0;
            }
            if Instant::now() >= deadline {
                let busy = busy.unwrap_or_else(|| "the log grows".to_owned());
                bail!("{after} has not ended after {} s: {busy}", STEP_MAX.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// The log's last position, and what is under way.
    async fn look(&self) -> anyhow::Result<(i64, Option<String>)> {
        let (head, stored) = store(&self.access).await?;
        if stored.is_some() {
            return Ok((head, stored));
        }
        if let Some(busy) = self.provider().await? {
            return Ok((head, Some(busy)));
        }
        Ok((head, self.on_the_bus(head).await?))
    }

    /// Notifications and effects that are due.
    async fn provider(&self) -> anyhow::Result<Option<String>> {
        let url = format!("{}/sim/clock", self.access.cm_url);
        let clock: Value = self.http.get(url).send().await?.json().await?;
        let at = |field: &str| {
            let text = clock[field].as_str();
            text.and_then(|text| text.parse::<Timestamp>().ok())
        };
        Ok(match (at("next_due"), at("now")) {
            (Some(due), Some(now)) if due <= now => Some("the provider has something to do".to_owned()),
            (_, None) => Some("the provider does not tell the time".to_owned()),
            _ => None,
        })
    }

    /// Events that the bus does not have yet, or that a consumer has not settled.
    async fn on_the_bus(&self, head: i64) -> anyhow::Result<Option<String>> {
        let stream = self.jetstream.get_stream(STREAM).await?;
        let last = stream.cached_info().state.last_sequence;
        if last != u64::try_from(head)? {
            return Ok(Some(format!("the stream ends at {last}, the log at {head}")));
        }
        for (stream, durable) in [
            (STREAM, GATEWAY_DURABLE),
            (STREAM, SHIPMENT_DURABLE),
            (INBOX_STREAM, INBOX_DURABLE),
        ] {
            let stream = self.jetstream.get_stream_no_info(stream).await?;
            let info = stream.consumer_info(durable).await?;
            let waiting = info.num_pending + u64::try_from(info.num_ack_pending)?;
            if waiting > 0 {
                return Ok(Some(format!("{waiting} messages wait for {durable}")));
            }
        }
        Ok(None)
    }
}

/// Reads that were asked for, timers that are due, projections that are behind.
async fn store(access: &Access) -> anyhow::Result<(i64, Option<String>)> {
    let (client, connection) = tokio_postgres::connect(&access.database_url, NoTls).await?;
    let driving = tokio::spawn(connection);
    let row = client
        .query_one(
            &format!(
                "SELECT (SELECT position FROM log_head WHERE part = 0),
                    (SELECT count(*) FROM provider_reads
                      WHERE requests > served AND requested_at < clock_timestamp() - interval '{AT_ONCE}'),
                    (SELECT count(*) FROM timers, clock
                      WHERE due_at <= clock_timestamp() + offset_ms * interval '1 ms' - interval '{AT_ONCE}'),
                    (SELECT coalesce(string_agg(name, ', '), '') FROM projections, log_head
                      WHERE projections.part = log_head.part AND projections.position < log_head.position)"
            ),
            &[],
        )
        .await?;
    drop(client);
    driving.await??;
    let (head, reads, timers, behind): (i64, i64, i64, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let busy = match (reads, timers, behind.as_str()) {
        (0, 0, "") => None,
        (0, 0, behind) => Some(format!("behind the log: {behind}")),
        (reads, timers, _) => Some(format!("{reads} reads wait, {timers} timers are due")),
    };
    Ok((head, busy))
}

//! What does a person see of the bus? One line an event, with the time since the beginning.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Lines on stdout, as they happen.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    json: bool,
}

impl Timeline {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            began: Instant::now(),
            json,
        }
    }

    pub(crate) fn line(&self, who: &str, what: &str, id: &str, note: &str) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.json {
            println!(
                "{}",
                json!({ "ms": ms, "who": who, "what": what, "id": id, "note": note })
            );
        } else {
            println!("{ms:>6} ms  {who:10} {what:32} {id}  {note}");
        }
    }

    pub(crate) fn event(&self, envelope: &Value) {
        let kind = envelope["type"].as_str().unwrap_or_default();
        let what = kind.trim_start_matches("kassa.").trim_end_matches(".v1");
        if what.ends_with(".internal") {
            return;
        }
        let id = envelope["subject"]
            .as_str()
            .and_then(|subject| subject.split('/').nth(1))
            .unwrap_or_default();
        let data = &envelope["data"];
        let note = ["paid", "amount", "found"]
            .iter()
            .find_map(|field| {
                data[*field]["value"]
                    .as_i64()
                    .map(|minor| format!("{field} {minor} minor units"))
            })
            .unwrap_or_default();
        self.line("event", what, id, &note);
    }
}

/// Until `kassa-commands` answers: roles start side by side.
pub(crate) async fn wait_for_service(client: &async_nats::Client, shop: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // A question with an empty body: refused, which is an answer.
        let asked = |subject: String| client.request(subject, "".into());
        // Verbs are subscribed to one after the other: the last one tells.
        let commands = asked(kassa_events_schema::subject::command(shop, "start_payment")).await;
        let queries = asked(kassa_events_schema::subject::query(shop, "get_order")).await;
        if commands.is_ok() && queries.is_ok() {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "kassa-commands and kassa-queries do not answer on NATS"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

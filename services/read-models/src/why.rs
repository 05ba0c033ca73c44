//! Why has an order not shipped? `explain_order`: the verdict in sentences, with the last read of the provider's report and
//! the next.

use jiff::Timestamp;
use kassa_chassis::problem::Problem;
use kassa_domain::{
    ids::{OrderId, Shop},
    order::{Opened, Safety, ghosts},
    safety::explain::{Explained, explain, told_of_ghosts},
};
use kassa_event_store::Store;
use kassa_events_schema::{
    api::{Explanation, MissingCondition, SafeValue},
    time::UtcTime,
};
use serde_json::Value;

use crate::checkout::{self, State};

/// `None` where the projection has no such order of this shop.
///
/// # Errors
/// 503 when the database does not answer.
pub(crate) async fn explain_order(
    store: &Store,
    shop: &Shop,
    order_id: OrderId,
) -> Result<Option<Explanation>, Box<Problem>> {
    asked(store, shop, order_id).await.map_err(|error| {
        tracing::error!(order.id = %order_id, error = format!("{error:#}"), "an order cannot be explained now");
        Box::new(Problem::store_unavailable())
    })
}

async fn asked(store: &Store, shop: &Shop, order_id: OrderId) -> anyhow::Result<Option<Explanation>> {
    let client = store.pool().get().await?;
    let now = store.clock().now();
    let row = client
        .query_opt(
            "SELECT o.state, o.part, o.position, r.last_read_at, coalesce(r.requests > r.served, false),
                    (SELECT min(due_at) FROM timers AS t
                      WHERE t.part = o.part AND t.stream_id = $3 AND t.kind = 'poll')
               FROM read_orders AS o LEFT JOIN provider_reads AS r ON r.order_id = o.order_id
              WHERE o.order_id = $1 AND o.shop = $2",
            &[&order_id.to_string(), &shop.as_str(), &order_id.stream()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let state: State = serde_json::from_value(row.get::<_, Value>(0))?;
    let (part, position): (i32, i64) = (row.get(1), row.get(2));
    let Some(opened) = state.order.opened() else {
        return Ok(None);
    };
    // Before there is an order at the provider, nothing can have been read.
    let last_read_at: Option<Timestamp> = row.get::<_, Option<_>>(3).filter(|_| opened.provider.is_some());
    let next_read_at = if row.get(4) {
        Some(now)
    } else {
        row.get::<_, Option<Timestamp>>(5)
    };
    let told = state.explained(opened);
    let ghosts = told_of_ghosts(&ghosts(opened, state.payments.values()));
    Ok(Some(Explanation {
        order_id: order_id.to_string(),
        status: opened.status().into(),
        safe: match opened.safety {
            Safety::Safe { .. } => SafeValue::Yes,
            Safety::Lost { .. } => SafeValue::Lost,
            Safety::No => SafeValue::No,
        },
        sentence: with_reads(
            [Some(told.sentence), ghosts]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" "),
            last_read_at,
            opened.read_no,
            next_read_at,
        ),
        missing: told
            .missing
            .into_iter()
            .map(|missing| MissingCondition {
                code: missing.code.to_owned(),
                sentence: missing.sentence,
                details: missing.details,
            })
            .collect(),
        evidence: match (opened.safety, &state.evidence) {
            (Safety::Safe { .. }, Some(evidence)) => Some(checkout::in_words_of_the_wire(evidence)?),
            (Safety::Safe { .. } | Safety::Lost { .. } | Safety::No, _) => None,
        },
        last_read_at: last_read_at.map(UtcTime::from),
        next_read_at: next_read_at.map(UtcTime::from),
        position: format!("{part}-{position}"),
    }))
}

impl State {
    fn explained(&self, opened: &Opened) -> Explained {
        let attempt = opened.undecided_attempt().or(opened.attempts.last());
        let payment = attempt.and_then(|attempt| self.payments.get(&attempt.payment_id));
        explain(opened, payment, self.evidence.as_ref())
    }
}

fn with_reads(sentence: String, last: Option<Timestamp>, read_no: i64, next: Option<Timestamp>) -> String {
    let mut sentences = vec![sentence];
    if let Some(at) = last {
        let news = match read_no {
            0 => String::new(),
            number => format!("; the newest that said something new was read number {number}"),
        };
        sentences.push(format!("CM's report was last read at {at}{news}."));
    }
    if let Some(at) = next {
        sentences.push(format!("The next read is due at {at}."));
    }
    sentences.join(" ")
}

//! How does a shop learn where an order stands? `get_order`, by id or by its own reference.

use std::{collections::BTreeSet, time::Duration};

use kassa_chassis::{
    input,
    micro::{Asked, MicroService, Reply},
    problem::{FieldError, Problem},
};
use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::Store;
use kassa_events_schema::api::GetOrder;
use tokio::sync::watch;

pub(crate) const SERVICE: MicroService = MicroService {
    name: "kassa-queries",
    description: "questions to the payment orchestrator kassa: where does an order stand?",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "kassa.qry",
    verbs: &["get_order"],
};

/// How long a question waits for the projection to have what was stored before it came. After it, an order that is there is
/// told as it is known: late is better than none. One that is not there may be on its way, and is not called unknown.
const CATCH_UP: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Queries {
    pub(crate) store: Store,
    pub(crate) part: i32,
    pub(crate) shops: BTreeSet<String>,
    pub(crate) progress: watch::Receiver<i64>,
}

impl Queries {
    pub(crate) async fn answer(&self, asked: &Asked) -> Reply {
        match self.document(asked).await {
            Ok(document) => Reply {
                result: Ok(document),
                replayed: false,
            },
            Err(problem) => Reply::from(problem),
        }
    }

    async fn document(&self, asked: &Asked) -> Result<Vec<u8>, Box<Problem>> {
        if !self.shops.contains(&asked.shop) {
            return Err(Box::new(Problem::unknown_shop()));
        }
        let shop = Shop::parse(&asked.shop).map_err(|_| Problem::unknown_shop())?;
        let body: GetOrder = input::decode(&asked.body, rule)?;
        let order_id = match (body.order_id, body.order_reference) {
            // A malformed id and an id of another shop get one answer.
            (Some(id), None) => OrderId::parse(&id).map_err(|_| Problem::not_found("order"))?,
            (None, Some(reference)) => OrderId::new(&shop, &reference),
            (Some(_), Some(_)) | (None, None) => {
                let error = |pointer: &str| {
                    FieldError::new(
                        pointer,
                        "one_of",
                        "give either order_id or order_reference, and not both",
                    )
                };
                return Err(Box::new(Problem::validation(vec![
                    error("/order_id"),
                    error("/order_reference"),
                ])));
            }
        };
        let caught_up = self.caught_up().await?;
        let client = self
            .store
            .pool()
            .get()
            .await
            .map_err(|_| Problem::store_unavailable())?;
        let row = client
            .query_opt(
                "SELECT document FROM read_orders WHERE order_id = $1 AND shop = $2",
                &[&order_id.to_string(), &shop.as_str()],
            )
            .await
            .map_err(|_| Problem::store_unavailable())?
            .ok_or_else(|| {
                if caught_up {
                    Problem::not_found("order")
                } else {
                    behind()
                }
            })?;
        let document: serde_json::Value = row.get(0);
        serde_json::to_vec(&document).map_err(|_| Box::new(Problem::store_unavailable()))
    }

    /// Waits until the projection has everything that was stored before this question; `false` if that takes too long.
    async fn caught_up(&self) -> Result<bool, Box<Problem>> {
        let head = self
            .store
            .head(self.part)
            .await
            .map_err(|_| Problem::store_unavailable())?;
        let mut progress = self.progress.clone();
        let reached = tokio::time::timeout(CATCH_UP, progress.wait_for(|position| *position >= head)).await;
        Ok(matches!(reached, Ok(Ok(_))))
    }
}

/// The same for every shop and id: whether it is an order is what nobody knows yet.
fn behind() -> Problem {
    let mut problem = Problem::new(
        503,
        "store_unavailable",
        "the answer is not ready",
        "orders are being read in, and this one is not among those that were",
        "ask again a little later",
    );
    problem.retry_after_s = Some(1);
    problem
}

fn rule(pointer: &str) -> &'static str {
    match pointer {
        "/order_id" => "must be the order_id that create_order gave",
        "/order_reference" => "must be the shop's own reference, as a text",
        _ => "must be a JSON object with order_id or order_reference",
    }
}

//! `cancel_order`: a shop gives an order up that nothing was paid for.

use kassa_chassis::problem::Problem;
use kassa_domain::{
    ids::{OrderId, Shop},
    order::OrderCommand,
};
use kassa_events_schema::api::CancelOrder as Body;

use super::{OrderMade, create_order::refused};
use crate::{
    executor::{Decide, Refusal},
    expiry,
    input::Checks,
    session::{Session, Told},
};

/// A checked request to cancel.
#[derive(Debug)]
pub struct CancelOrder {
    shop: Shop,
    order_id: OrderId,
    reason: Option<String>,
}

impl CancelOrder {
    /// # Errors
    /// A problem that names what is wrong. An id that is malformed and an id that is another shop's get one answer.
    pub(crate) fn check(shop: &Shop, body: Body) -> Result<Self, Box<Problem>> {
        let mut checks = Checks::default();
        if let Some(reason) = &body.reason {
            checks.text("/reason", reason, 255);
        }
        checks.done()?;
        let order_id = OrderId::parse(&body.order_id).map_err(|_| Problem::not_found("order"))?;
        Ok(Self {
            shop: shop.clone(),
            order_id,
            reason: body.reason,
        })
    }

    pub fn order_id(&self) -> OrderId {
        self.order_id
    }
}

impl Decide for CancelOrder {
    type Outcome = OrderMade;

    async fn decide(&self, session: &mut Session<'_>) -> Result<OrderMade, Refusal> {
        let order_id = self.order_id;
        match session.order(order_id).await?.opened() {
            Some(opened) if opened.facts.shop == self.shop && opened.facts.order_id == order_id => {}
            Some(_) | None => return Err(Problem::not_found("order").into()),
        }
        let command = OrderCommand::Cancel {
            at: session.now(),
            reason: self.reason.clone(),
        };
        match session.tell_order(order_id, command).await {
            Ok(()) => {}
            Err(Told::Rejected(rejection)) => return Err(refused(&rejection).with_order(order_id).into()),
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        // What is canceled does not expire any more.
        session.settle_timer(expiry::timer_id(order_id));
        Ok(OrderMade { order_id })
    }
}

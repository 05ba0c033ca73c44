//! `start_payment`: a shopper tries to pay, by one method.

use std::sync::Arc;

use jiff::SignedDuration;
use kassa_chassis::problem::{FieldError, Problem};
use kassa_domain::{
    ids::{OrderId, PaymentId, Shop},
    order::OrderCommand,
    payment::{Attempt, Method, PaymentCommand},
};
use kassa_events_schema::api::StartPayment as Body;
use serde::{Deserialize, Serialize};

use super::create_order::refused;
use crate::{
    executor::{Decide, Refusal},
    input::Checks,
    poll::Ladders,
    session::{Session, Told},
};

/// A checked request for an attempt.
#[derive(Debug)]
pub struct StartPayment {
    shop: Shop,
    order_id: OrderId,
    method: Method,
    issuer: Option<String>,
    ttl: SignedDuration,
    ladders: Arc<Ladders>,
}

/// What a repeat is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct PaymentMade {
    pub order_id: OrderId,
    pub payment_id: PaymentId,
}

impl StartPayment {
    /// # Errors
    /// A problem that names what is wrong. An id that is malformed and an id that is another shop's get one answer.
    pub(crate) fn check(
        shop: &Shop,
        ttl: SignedDuration,
        ladders: Arc<Ladders>,
        body: Body,
    ) -> Result<Self, Box<Problem>> {
        let mut checks = Checks::default();
        if let Some(issuer) = &body.issuer {
            checks.issuer("/issuer", issuer);
        }
        checks.done()?;
        let order_id = OrderId::parse(&body.order_id).map_err(|_| Problem::not_found("order"))?;
        let method = Method::parse(&body.method).ok_or_else(|| {
            let known = Method::ALL
                .iter()
                .map(Method::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            Problem::new(
                422,
                "method_not_available",
                "this payment method is not available",
                format!("/method: one of {known}"),
                "offer the shopper one of the methods listed",
            )
            .with_errors(vec![FieldError::new(
                "/method",
                "unknown",
                format!("one of {known}"),
            )])
        })?;
        Ok(Self {
            shop: shop.clone(),
            order_id,
            method,
            issuer: body.issuer,
            ttl,
            ladders,
        })
    }

    pub fn order_id(&self) -> OrderId {
        self.order_id
    }
}

impl Decide for StartPayment {
    type Outcome = PaymentMade;

    async fn decide(&self, session: &mut Session<'_>) -> Result<PaymentMade, Refusal> {
        let order_id = self.order_id;
        let opened = match session.order(order_id).await?.opened() {
            Some(opened) if opened.facts.shop == self.shop && opened.facts.order_id == order_id => {
                opened.clone()
            }
            Some(_) | None => return Err(Problem::not_found("order").into()),
        };
        let payment_id = PaymentId::new(order_id, session.command());
        match session
            .tell_order(
                order_id,
                OrderCommand::OpenAttempt {
                    payment_id,
                    method: self.method,
                },
            )
            .await
        {
            Ok(()) => {}
            Err(Told::Rejected(rejection)) => return Err(refused(&rejection).with_order(order_id).into()),
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        let number = opened
            .attempts
            .len()
            .try_into()
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let attempt = Attempt {
            payment_id,
            order_id,
            shop: self.shop.clone(),
            method: self.method,
            amount: opened.remaining(),
            issuer: self.issuer.clone(),
            number,
        };
        let start = PaymentCommand::Start {
            attempt,
            expires_at: session.now() + self.ttl,
        };
        match session.tell_payment(payment_id, start).await {
            Ok(()) => {}
            // The id hangs on this very command, and the order has just taken it as new.
            Err(Told::Rejected(_)) => {
                return Err(Refusal::Fault(crate::executor::Fault::Internal(
                    "a new attempt was started before",
                )));
            }
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        if let Some(timer) =
            self.ladders
                .first_rung(order_id, payment_id, &self.shop, self.method, session.now())
        {
            session.set_timer(timer);
        }
        Ok(PaymentMade { order_id, payment_id })
    }
}

//! `create_order`: what a shopper owes, from now on.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use kassa_chassis::{
    input::Object,
    problem::{FieldError, Problem},
};
use kassa_domain::{
    ids::{OrderId, Shop, ShopperId},
    money::{Currency, Money},
    order::{OrderCommand, OrderFacts, OrderRejection},
};
use kassa_event_store::VaultRow;
use kassa_events_schema::api::CreateOrder as Body;
use serde::{Deserialize, Serialize};

use crate::{
    executor::{Decide, Refusal},
    expiry,
    input::{self, Checks},
    session::{Session, Told},
};

/// A checked request for an order.
#[derive(Debug)]
pub struct CreateOrder {
    facts: OrderFacts,
    metadata: BTreeMap<String, String>,
    person: Vec<u8>,
    ttl: SignedDuration,
    /// Where a shopper may be sent, as it is configured now; looked at when it is decided.
    origins: Vec<url::Origin>,
}

/// What a repeat is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct OrderMade {
    pub order_id: OrderId,
}

impl CreateOrder {
    /// # Errors
    /// A problem that names every field that is wrong, with its rule.
    pub(crate) fn check(
        shop: &Shop,
        origins: &[url::Origin],
        ttl: SignedDuration,
        body: Body,
    ) -> Result<Self, Box<Problem>> {
        let (Object(amount), Object(shopper)) = (body.amount, body.shopper);
        let mut checks = Checks::default();
        checks.reference("/order_reference", &body.order_reference);
        checks.text("/description", &body.description, 255);
        checks.amount("/amount/value", amount.value);
        checks.country("/country", &body.country);
        checks.email("/shopper/email", &shopper.email);
        for (pointer, field, max) in [
            ("/shopper/first_name", &shopper.first_name, 35),
            ("/shopper/last_name", &shopper.last_name, 100),
            ("/shopper/phone", &shopper.phone, 50),
        ] {
            if let Some(text) = field {
                checks.text(pointer, text, max);
            }
        }
        checks.metadata("/metadata", &body.metadata.0);
        checks.done()?;

        let currency = Currency::parse(&amount.currency)
            .ok()
            .filter(Currency::is_supported)
            .ok_or_else(input::currency_not_supported)?;
        let order_id = OrderId::new(shop, &body.order_reference);
        let person = serde_json::to_vec(&shopper).map_err(|_| {
            Problem::validation(vec![FieldError::new(
                "/shopper",
                "invalid",
                "must be plain text fields",
            )])
        })?;
        Ok(Self {
            facts: OrderFacts {
                order_id,
                shop: shop.clone(),
                order_reference: body.order_reference,
                description: body.description,
                amount: Money::new(amount.value, currency),
                country: body.country,
                language: input::language(&body.language),
                shopper_id: ShopperId::new(order_id),
                // Checked when it is decided: an order that was made before is not refused for what is configured since.
                return_url: body.return_url,
                // Set when it is decided: a repeat of the request does not move it.
                expires_at: None,
            },
            metadata: body.metadata.0,
            person,
            ttl,
            origins: origins.to_vec(),
        })
    }

    pub fn order_id(&self) -> OrderId {
        self.facts.order_id
    }
}

impl Decide for CreateOrder {
    type Outcome = OrderMade;

    async fn decide(&self, session: &mut Session<'_>) -> Result<OrderMade, Refusal> {
        let order_id = self.facts.order_id;
        let return_url =
            input::return_url(&self.facts.return_url, &self.origins).map_err(Refusal::NotKept)?;
        let expires_at = session.now() + self.ttl;
        let command = OrderCommand::Create {
            facts: OrderFacts {
                return_url,
                expires_at: Some(expires_at),
                ..self.facts.clone()
            },
            metadata: self.metadata.clone(),
        };
        match session.tell_order(order_id, command).await {
            Ok(()) => {}
            Err(Told::Rejected(rejection)) => return Err(refused(&rejection).into()),
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        if let Some(timer) = expiry::timer(order_id, &self.facts.shop, expires_at) {
            session.set_timer(timer);
        }
        session.keep_in_vault(VaultRow {
            shopper_id: self.facts.shopper_id.to_string(),
            shop: self.facts.shop.to_string(),
            data: self.person.clone(),
        });
        Ok(OrderMade { order_id })
    }
}

/// Every way in which an order says no, as a shop reads it.
pub(super) fn refused(rejection: &OrderRejection) -> Problem {
    let detail = rejection.to_string();
    match rejection {
        OrderRejection::ReferenceTaken { order_id } => Problem::of(
            "order_reference_taken",
            detail,
            "use the existing order, or a new reference for another order",
        )
        .with_order(order_id)
        .with_errors(vec![FieldError::new(
            "/order_reference",
            "taken",
            "already names an order of this shop",
        )]),
        OrderRejection::NotPayable { .. }
        | OrderRejection::Stopped
        | OrderRejection::TooManyAttempts { .. } => Problem::of(
            "order_not_payable",
            detail,
            "ask get_order where it stands; create another order for another purchase",
        ),
        OrderRejection::AttemptLive { payment_id } => Problem::of(
            "payment_under_way",
            detail,
            "send the shopper to the next_action that get_order gives, or wait until the attempt has ended",
        )
        .with_payment(payment_id),
        OrderRejection::Unopened | OrderRejection::UnknownAttempt { .. } => Problem::not_found("order"),
    }
}

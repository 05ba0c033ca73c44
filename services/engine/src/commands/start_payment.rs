//! `start_payment`: a shopper tries to pay, by one method.

use std::sync::Arc;

use jiff::SignedDuration;
use kassa_chassis::problem::{FieldError, Problem};
use kassa_domain::{
    ids::{OrderId, PaymentId, Shop},
    methods::{Catalogue, Entry, Excluded, Purchase},
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
    method: String,
    /// Looked at when it is decided: a payment that was started before is not refused for what is configured since.
    methods: Arc<Catalogue>,
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
        methods: Arc<Catalogue>,
        ladders: Arc<Ladders>,
        body: Body,
    ) -> Result<Self, Box<Problem>> {
        let mut checks = Checks::default();
        if let Some(issuer) = &body.issuer {
            checks.issuer("/issuer", issuer);
        }
        checks.done()?;
        let order_id = OrderId::parse(&body.order_id).map_err(|_| Problem::not_found("order"))?;
        Ok(Self {
            shop: shop.clone(),
            order_id,
            method: body.method,
            methods,
            issuer: body.issuer,
            ttl,
            ladders,
        })
    }

    pub fn order_id(&self) -> OrderId {
        self.order_id
    }

    /// The method as it is configured.
    fn entry(&self) -> Result<&Entry, Box<Problem>> {
        let entry = Method::parse(&self.method)
            .and_then(|method| self.methods.entry(method))
            .ok_or_else(|| unknown_method(&self.methods))?;
        if self.issuer.is_some() && !entry.issuer {
            return Err(Box::new(Problem::validation(vec![FieldError::new(
                "/issuer",
                "invalid",
                "must be absent: this method has no choice of a bank",
            )])));
        }
        Ok(entry)
    }
}

impl Decide for StartPayment {
    type Outcome = PaymentMade;

    async fn decide(&self, session: &mut Session<'_>) -> Result<PaymentMade, Refusal> {
        let order_id = self.order_id;
        let entry = self.entry().map_err(Refusal::NotKept)?;
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
                    method: entry.method,
                },
            )
            .await
        {
            Ok(()) => {}
            Err(Told::Rejected(rejection)) => return Err(refused(&rejection).with_order(order_id).into()),
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        let amount = opened.remaining();
        let purchase = Purchase {
            country: &opened.facts.country,
            currency: amount.currency,
            amount: Some(amount.minor),
            at: session.now(),
        };
        if let Err(rule) = entry.check(&purchase) {
            return Err(excluded(&rule).with_order(order_id).into());
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
            method: entry.method,
            amount,
            issuer: self.issuer.clone(),
            number,
        };
        let start = PaymentCommand::Start {
            attempt,
            expires_at: session.now() + self.ttl,
        };
        match session.tell_payment(payment_id, start).await {
            Ok(()) => {}
            // The id hangs on this very command, and the order has just taken it as new: another process was given the same
            // command, and stored it after the order was read here.
            Err(Told::Rejected(_)) => return Err(Refusal::Torn),
            Err(Told::Fault(fault)) => return Err(fault.into()),
        }
        if let Some(timer) =
            self.ladders
                .first_rung(order_id, payment_id, &self.shop, entry.method, session.now())
        {
            session.set_timer(timer);
        }
        Ok(PaymentMade { order_id, payment_id })
    }
}

fn unknown_method(methods: &Catalogue) -> Box<Problem> {
    let known: Vec<_> = methods.all().iter().map(|entry| entry.method.as_str()).collect();
    let known = format!("one of {}", known.join(", "));
    Box::new(
        Problem::of(
            "method_not_available",
            format!("/method: {known}"),
            "offer the shopper one of the methods that list_methods gives",
        )
        .with_errors(vec![FieldError::new("/method", "unknown", known)]),
    )
}

/// The rule that excludes a method here, as a shop reads it.
fn excluded(rule: &Excluded) -> Problem {
    let (code, hint) = match rule {
        Excluded::NotYet { .. } | Excluded::NoLonger { .. } | Excluded::Country { .. } => (
            "method_not_available",
            "offer the shopper one of the methods that list_methods gives",
        ),
        Excluded::Currency { .. } => (
            "currency_not_supported",
            "offer the shopper a method that takes the order's currency",
        ),
        Excluded::Amount(_) => (
            "amount_out_of_range",
            "offer the shopper a method that takes this amount",
        ),
    };
    let detail = rule.to_string();
    Problem::of(code, format!("/method: {detail}"), hint)
        .with_errors(vec![FieldError::new("/method", code, detail)])
}

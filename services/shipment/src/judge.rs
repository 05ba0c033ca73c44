//! Is this message a permission to ship, or one that is taken back?

use kassa_events_schema::{
    Envelope, EnvelopeError, PublishedEvent,
    order::{PaymentSafe, PaymentSafetyLost},
};
use uuid::Uuid;

/// What a shipment service is told to do with an order. New kinds may come; none is ever a permission to ship but `Ship`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instruction {
    /// The order may be shipped. Where it was released under an earlier epoch, this lifts the hold: no second parcel.
    Ship(PaymentSafe),
    /// It may not be shipped any more: hold what has not left. What has left is for a person.
    Hold(PaymentSafetyLost),
}

impl Instruction {
    /// Id of the order.
    #[must_use]
    pub fn order_id(&self) -> &str {
        match self {
            Self::Ship(safe) => &safe.order_id,
            Self::Hold(lost) => &lost.order_id,
        }
    }

    /// The safety epoch that begins or ends with it.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        match self {
            Self::Ship(safe) => safe.epoch.get(),
            Self::Hold(lost) => lost.epoch.get(),
        }
    }
}

/// A message that may be acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) event_id: Uuid,
    /// As Postgres holds it; the same number as in the instruction.
    pub(crate) epoch: i32,
    pub(crate) instruction: Instruction,
}

/// Why a message is not trusted. It is never shipped on, whatever it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not an envelope, or its data is not what its type promises.
    #[error("message cannot be read as an event")]
    Unreadable(#[source] EnvelopeError),
    /// The envelope belongs to another subject than the one it came under.
    #[error("event says that it belongs to {expected}")]
    Elsewhere {
        /// The subject by the envelope.
        expected: String,
    },
    /// Another type, or a major version that came after this reader.
    #[error("event type {0} is not one that this reader can ship on, upgrade it")]
    UnknownType(String),
    /// An id or a number that does not fit the inbox.
    #[error("{0} does not fit the inbox")]
    DoesNotFit(&'static str),
}

/// Reads a message and holds it against the subject that it came under.
///
/// # Errors
/// [`Refusal`], for everything that is not beyond doubt a `payment_safe` or `payment_safety_lost` of the order that the
/// subject names.
pub(crate) fn judge(subject: &str, payload: &[u8]) -> Result<Order, Refusal> {
    let envelope = Envelope::parse(payload).map_err(Refusal::Unreadable)?;
    let expected = envelope.nats_subject().to_string();
    if expected != subject {
        return Err(Refusal::Elsewhere { expected });
    }
    let instruction = match envelope.decode().map_err(Refusal::Unreadable)? {
        Some(PublishedEvent::OrderPaymentSafe(safe)) => Instruction::Ship(safe),
        Some(PublishedEvent::OrderPaymentSafetyLost(lost)) => Instruction::Hold(lost),
        Some(_) | None => return Err(Refusal::UnknownType(envelope.event_type())),
    };
    let event_id = envelope
        .meta()
        .event_id
        .parse()
        .map_err(|_| Refusal::DoesNotFit("event id"))?;
    let epoch = i32::try_from(instruction.epoch()).map_err(|_| Refusal::DoesNotFit("epoch"))?;
    Ok(Order {
        event_id,
        epoch,
        instruction,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SUBJECT: &str = "kassa.evt.0.brekz-nl.order.ord_5k3m01kb2m8x4r7fezd9t6hqnvsg.payment_safe";
    const SAFE: &[u8] = include_bytes!("../../../events-schema/samples/order/payment_safe.v1.json");
    const PAID: &[u8] = include_bytes!("../../../events-schema/samples/order/paid.v1.json");
    const INTERNAL: &[u8] = include_bytes!("../../../events-schema/samples/order/internal.v1.json");

    #[test]
    fn an_order_that_is_safe_may_be_shipped() {
        let order = judge(SUBJECT, SAFE).unwrap();
        let Instruction::Ship(safe) = order.instruction else {
            panic!("{order:?}")
        };
        assert_eq!(safe.order_id, "ord_5k3m01kb2m8x4r7fezd9t6hqnvsg");
        assert_eq!((order.epoch, safe.amount.value), (1, 4995));
    }

    #[test]
    fn an_order_whose_safety_is_lost_is_to_be_held_and_never_shipped() {
        let lost = include_bytes!("../../../events-schema/samples/order/payment_safety_lost.v1.json");
        let subject = SUBJECT.replace("payment_safe", "payment_safety_lost");
        let order = judge(&subject, lost).unwrap();
        assert!(matches!(order.instruction, Instruction::Hold(_)), "{order:?}");
        assert!(matches!(judge(SUBJECT, lost), Err(Refusal::Elsewhere { .. })));
    }

    #[test]
    fn a_message_under_another_subject_is_never_shipped() {
        for subject in [
            SUBJECT.replace("qnvsg", "qnvs0"),
            SUBJECT.replace("brekz-nl", "brekz-be"),
            SUBJECT.replace(".0.", ".1."),
            SUBJECT.replace("payment_safe", "paid"),
            SUBJECT.replace("kassa.evt.0", "kassa.live"),
            String::new(),
        ] {
            assert!(
                matches!(judge(&subject, SAFE), Err(Refusal::Elsewhere { .. })),
                "{subject}"
            );
        }
    }

    #[test]
    fn an_order_that_is_only_paid_is_never_shipped() {
        assert!(matches!(judge(SUBJECT, PAID), Err(Refusal::Elsewhere { .. })));
        let subject = SUBJECT.replace("payment_safe", "paid");
        assert!(matches!(judge(&subject, PAID), Err(Refusal::UnknownType(_))));
        let subject = SUBJECT.replace("payment_safe", "internal");
        assert!(matches!(judge(&subject, INTERNAL), Err(Refusal::UnknownType(_))));
    }

    #[test]
    fn a_version_from_the_future_is_never_shipped() {
        let later = with(&[
            ("/type", json!("kassa.order.payment_safe.v2")),
            ("/dataschema", json!("/schemas/order/payment_safe.v2.json")),
        ]);
        let refusal = judge(SUBJECT, &later).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "event type kassa.order.payment_safe.v2 is not one that this reader can ship on, upgrade it"
        );
    }

    #[test]
    fn a_message_that_contradicts_itself_or_does_not_decode_is_never_shipped() {
        for wrong in [
            with(&[("/data/order_id", json!("ord_5k3m01kb2m8x4r7fezd9t6hqnvs0"))]),
            with(&[("/data/amount/value", json!(49.95))]),
            with(&[("/data/epoch", json!(0))]),
            with(&[("/data/evidence", json!(null))]),
            with(&[("/id", json!("not-a-uuid"))]),
            with(&[("/type", json!("kassa.order.paid.v1"))]),
            SAFE[..SAFE.len() / 2].to_vec(),
            b"{}".to_vec(),
            Vec::new(),
            vec![0xff; 100],
            vec![b' '; 100_000],
        ] {
            let read = judge(SUBJECT, &wrong);
            assert!(
                matches!(read, Err(Refusal::Unreadable(_))),
                "{}: {read:?}",
                String::from_utf8_lossy(&wrong)
            );
        }
        assert!(matches!(
            judge(SUBJECT, &with(&[("/data/epoch", json!(u32::MAX))])),
            Err(Refusal::DoesNotFit("epoch"))
        ));
    }

    fn with(changes: &[(&str, Value)]) -> Vec<u8> {
        let mut message: Value = serde_json::from_slice(SAFE).unwrap();
        for (pointer, value) in changes {
            *message.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::to_vec(&message).unwrap()
    }
}

//! Plugs the payment into cqrs-es.

use cqrs_es::{Aggregate, event_sink::EventSink};

use super::{PaymentCommand, PaymentEvent, PaymentRejection, phase::Payment};

impl Aggregate for Payment {
    const TYPE: &'static str = "payment";
    type Command = PaymentCommand;
    type Event = PaymentEvent;
    type Error = PaymentRejection;
    /// Nothing: no I/O, no clock, no randomness may enter a decision.
    type Services = ();

    async fn handle(
        &mut self,
        command: PaymentCommand,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), PaymentRejection> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: PaymentEvent) {
        *self = std::mem::take(self).evolve(event);
    }
}

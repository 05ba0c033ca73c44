//! Plugs the order into cqrs-es.

use cqrs_es::{Aggregate, event_sink::EventSink};

use super::{OrderCommand, OrderEvent, OrderRejection, phase::Order};

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = OrderRejection;
    /// Nothing: no I/O, no clock, no randomness may enter a decision.
    type Services = ();

    async fn handle(
        &mut self,
        command: OrderCommand,
        _services: &(),
        sink: &EventSink<Self>,
    ) -> Result<(), OrderRejection> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: OrderEvent) {
        *self = std::mem::take(self).evolve(event);
    }
}

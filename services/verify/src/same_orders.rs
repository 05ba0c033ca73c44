//! Did the same orders take the same way in two runs whose clocks differed?

use std::collections::HashMap;

use crate::{
    facts::Facts,
    report::Check,
    store::{Order, Store},
};

/// Which intermediate reports are seen depends on when it was looked, in any two runs; what follows from them does not.
const DEPENDS_ON_THE_MOMENT: &[&str] = &["ProviderReportObserved"];

/// I-36: per order, and per attempt by its number, the same types of facts in the same sequence.
pub(crate) fn independent_of_clocks(facts: &Facts, check: &mut Check) {
    let Some(other) = &facts.other else {
        return check.skip("no other run was given: kassa verify DIR --same-orders-as DIR2");
    };
    let named = |store: &Store| -> HashMap<(String, String), usize> {
        let orders = store.orders.iter().enumerate();
        orders
            .map(|(at, order)| ((order.shop.clone(), order.reference.clone()), at))
            .collect()
    };
    let theirs = named(other);
    for order in &facts.store.orders {
        let Some(at) = theirs.get(&(order.shop.clone(), order.reference.clone())) else {
            check.violated(Some(order.name()), "the other run does not have it", []);
            continue;
        };
        check.look();
        let (here, there) = (way(&facts.store, order), way(other, &other.orders[*at]));
        if here != there {
            let step = here
                .iter()
                .zip(&there)
                .take_while(|(here, there)| here == there)
                .count();
            let tell = |way: &[String]| way.get(step).map_or("the end", String::as_str).to_owned();
            check.violated(
                Some(order.name()),
                format!("step {}: {} here, {} there", step + 1, tell(&here), tell(&there)),
                order.events.first().map(|event| facts.store.row(*event)),
            );
        }
    }
}

fn way(store: &Store, order: &Order) -> Vec<String> {
    let of_order = order.events.iter().map(|event| store.events[*event].kind);
    let attempts = store.attempts(order).flat_map(|payment| {
        let steps = payment.steps.iter().map(|step| store.events[step.event].kind);
        steps.map(|kind| format!("{}/{kind}", payment.number))
    });
    of_order
        .filter(|kind| !DEPENDS_ON_THE_MOMENT.contains(kind))
        .map(ToOwned::to_owned)
        .chain(attempts)
        .collect()
}

//! Which verbs are there, and what does each take, answer and refuse? One table for NATS, HTTP, schemas and pages.

use schemars::{Schema, SchemaGenerator};

use super::{
    CancelOrder, CreateOrder, ExplainOrder, Explanation, GetOrder, GetOrderEvents, ListMethods, ListOrders,
    MethodList, OrderAnswer, OrderEvents, OrderList, OrderView, PaymentAnswer, StartPayment,
};

/// Whether something is to be done or only to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kassa.cmd.{shop}.{verb}`, and `kassa.inbox.{shop}.{verb}` for who does not wait: changes something, once for each
    /// `Idempotency-Key`.
    Command,
    /// `kassa.qry.{shop}.{verb}`: changes nothing.
    Query,
}

impl Kind {
    /// Folder of its schemas and samples.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Command => "commands",
            Self::Query => "queries",
        }
    }
}

/// One verb.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// As it stands in the subject: `create_order`.
    pub name: &'static str,
    /// Command or query.
    pub kind: Kind,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// HTTP path, with `{order_id}` where that field of the body stands.
    pub path: &'static str,
    /// HTTP status of its answer.
    pub status: u16,
    /// What an API key must be allowed.
    pub scope: &'static str,
    /// The problems that are its own, beside [`COMMON`] and those of its kind.
    pub problems: &'static [&'static str],
    /// Builds the schema of its body.
    pub request: fn(&mut SchemaGenerator) -> Schema,
    /// Builds the schema of its answer.
    pub answer: fn(&mut SchemaGenerator) -> Schema,
}

/// What every verb may answer.
pub const COMMON: &[&str] = &[
    "validation",
    "not_found",
    "payload_too_large",
    "headers_too_large",
    "unsupported_encoding",
    "card_data_refused",
    "rate_limited",
    "internal",
    "store_unavailable",
    "shutting_down",
];
/// What every command may answer besides.
pub const OF_COMMANDS: &[&str] = &[
    "idempotency_key_missing",
    "idempotency_in_flight",
    "idempotency_key_reused",
    "command_version_unknown",
];
/// What every address may answer over HTTP besides.
pub const OF_HTTP: &[&str] = &[
    "malformed_request",
    "unauthenticated",
    "forbidden",
    "method_not_allowed",
    "not_acceptable",
    "request_timeout",
    "uri_too_long",
    "unsupported_media_type",
    // Of verbs, wherever they are asked; over HTTP, of pages too.
    "headers_too_large",
];

impl Verb {
    /// Path of the body's schema and sample: `commands/create_order.v1.json`.
    #[must_use]
    pub fn request_path(&self) -> String {
        format!("{}/{}.v1.json", self.kind.folder(), self.name)
    }

    /// Path of the answer's schema and sample: `commands/create_order_answer.v1.json`.
    #[must_use]
    pub fn answer_path(&self) -> String {
        format!("{}/{}_answer.v1.json", self.kind.folder(), self.name)
    }

    /// Every code that it may answer, on NATS.
    pub fn codes(&self) -> impl Iterator<Item = &'static str> {
        let of_kind = match self.kind {
            Kind::Command => OF_COMMANDS,
            Kind::Query => &[],
        };
        [COMMON, of_kind, self.problems].into_iter().flatten().copied()
    }
}

/// What is known of a verb.
#[must_use]
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|known| known.name == name)
}

macro_rules! schema_of {
    ($type:ty) => {
        |generator| generator.root_schema_for::<$type>()
    };
}

/// Every verb, in the order in which a shop meets them.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "create_order",
        kind: Kind::Command,
        summary: "Makes an order known: what a shopper owes, from now on.",
        method: "post",
        path: "/v1/orders",
        status: 201,
        scope: "orders:write",
        problems: &[
            "order_reference_taken",
            "currency_not_supported",
            "return_url_not_allowed",
        ],
        request: schema_of!(CreateOrder),
        answer: schema_of!(OrderAnswer),
    },
    Verb {
        name: "start_payment",
        kind: Kind::Command,
        summary: "Starts an attempt to pay an order and says where to send the shopper.",
        method: "post",
        path: "/v1/orders/{order_id}/payments",
        status: 201,
        scope: "orders:write",
        problems: &[
            "order_not_payable",
            "payment_under_way",
            "method_not_available",
            "amount_out_of_range",
            "currency_not_supported",
        ],
        request: schema_of!(StartPayment),
        answer: schema_of!(PaymentAnswer),
    },
    Verb {
        name: "cancel_order",
        kind: Kind::Command,
        summary: "Ends an order that nothing was paid for.",
        method: "post",
        path: "/v1/orders/{order_id}/cancel",
        status: 200,
        scope: "orders:write",
        problems: &["order_not_payable"],
        request: schema_of!(CancelOrder),
        answer: schema_of!(OrderAnswer),
    },
    Verb {
        name: "get_order",
        kind: Kind::Query,
        summary: "Where an order stands, at once or when it has changed.",
        method: "get",
        path: "/v1/orders/{order_id}",
        status: 200,
        scope: "orders:read",
        problems: &[],
        request: schema_of!(GetOrder),
        answer: schema_of!(OrderView),
    },
    Verb {
        name: "list_orders",
        kind: Kind::Query,
        summary: "The shop's orders, newest first, page by page.",
        method: "get",
        path: "/v1/orders",
        status: 200,
        scope: "orders:read",
        problems: &[],
        request: schema_of!(ListOrders),
        answer: schema_of!(OrderList),
    },
    Verb {
        name: "get_order_events",
        kind: Kind::Query,
        summary: "What has happened to an order and its payments, as CloudEvents.",
        method: "get",
        path: "/v1/orders/{order_id}/events",
        status: 200,
        scope: "events:read",
        problems: &[],
        request: schema_of!(GetOrderEvents),
        answer: schema_of!(OrderEvents),
    },
    Verb {
        name: "explain_order",
        kind: Kind::Query,
        summary: "Why an order is safe to ship, or what is missing.",
        method: "get",
        path: "/v1/orders/{order_id}/why",
        status: 200,
        scope: "orders:read",
        problems: &[],
        request: schema_of!(ExplainOrder),
        answer: schema_of!(Explanation),
    },
    Verb {
        name: "list_methods",
        kind: Kind::Query,
        summary: "Which payment methods a checkout may offer.",
        method: "get",
        path: "/v1/methods",
        status: 200,
        scope: "orders:read",
        problems: &["currency_not_supported"],
        request: schema_of!(ListMethods),
        answer: schema_of!(MethodList),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problems::problem_type;

    #[test]
    fn every_problem_of_a_verb_is_registered_and_every_registered_code_is_reached() {
        let of_verbs = VERBS.iter().flat_map(Verb::codes);
        let reached: Vec<_> = of_verbs.chain(OF_HTTP.iter().copied()).collect();
        for code in &reached {
            assert!(problem_type(code).is_some(), "{code} is not registered");
        }
        // Of the simulator, which is no part of a shop's API.
        let elsewhere = ["not_in_live_mode"];
        for problem in crate::api::PROBLEMS {
            assert!(
                reached.contains(&problem.code) || elsewhere.contains(&problem.code),
                "nobody answers {}",
                problem.code
            );
        }
    }
}

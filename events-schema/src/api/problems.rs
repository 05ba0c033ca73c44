//! Which problems are there, and what does one do about each? The registry of codes: what a code means never changes, and a
//! code that was published is never used for something else.

/// One kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemType {
    /// Stable, snake_case.
    pub code: &'static str,
    /// HTTP status number, on NATS as well.
    pub status: u16,
    /// Short, the same for every problem with this code.
    pub title: &'static str,
    /// When it is answered.
    pub when: &'static str,
    /// What to do about it.
    pub hint: &'static str,
    /// Whether the same request, sent again later, may succeed.
    pub retry: bool,
}

/// Every code in use, by status.
pub const PROBLEMS: &[ProblemType] = &[
    ProblemType {
        code: "validation",
        status: 400,
        title: "the request is not valid",
        when: "A field is missing, unknown, given twice or not as it should be; `errors` names each with its rule.",
        hint: "correct the fields named in errors and send it again with the same Idempotency-Key",
        retry: false,
    },
    ProblemType {
        code: "malformed_request",
        status: 400,
        title: "the request cannot be read in one way only",
        when: "Over HTTP, something could be understood in two ways: two hosts, two lengths, an address in the request line.",
        hint: "send it as HTTP/1.1 with a library that is kept up to date",
        retry: false,
    },
    ProblemType {
        code: "idempotency_key_missing",
        status: 400,
        title: "the Idempotency-Key is missing",
        when: "A command came without the header `Idempotency-Key`.",
        hint: "send a UUID, made once for this intention and sent again with every repeat",
        retry: false,
    },
    ProblemType {
        code: "unauthenticated",
        status: 401,
        title: "who is asking?",
        when: "Over HTTP, no API key was sent, or one that is not known, has expired or was revoked.",
        hint: "send Authorization: Bearer with an API key of the shop",
        retry: false,
    },
    ProblemType {
        code: "forbidden",
        status: 403,
        title: "this key may not do that",
        when: "The API key is valid, and lacks the scope that `detail` names.",
        hint: "use a key with the scope named in detail, or have it added",
        retry: false,
    },
    ProblemType {
        code: "not_in_live_mode",
        status: 403,
        title: "not in live mode",
        when: "A verb of the simulator was sent to an installation that takes real money.",
        hint: "use an installation in test mode",
        retry: false,
    },
    ProblemType {
        code: "not_found",
        status: 404,
        title: "not found",
        when: "There is no such thing in this shop; what belongs to another shop is not there either.",
        hint: "check the id, and that it belongs to the shop that asks",
        retry: false,
    },
    ProblemType {
        code: "method_not_allowed",
        status: 405,
        title: "this address does not take that method",
        when: "Over HTTP, the address exists and takes other methods: the header `Allow` names them.",
        hint: "use one of the methods in Allow",
        retry: false,
    },
    ProblemType {
        code: "not_acceptable",
        status: 406,
        title: "no form of the answer is acceptable",
        when: "Over HTTP, `Accept` names only media types that this address does not write.",
        hint: "accept application/json, or leave Accept out",
        retry: false,
    },
    ProblemType {
        code: "request_timeout",
        status: 408,
        title: "the request did not arrive in time",
        when: "Over HTTP, the headers or the body took too long to arrive.",
        hint: "send it again, whole; a command with the same Idempotency-Key",
        retry: true,
    },
    ProblemType {
        code: "idempotency_in_flight",
        status: 409,
        title: "the same request is being decided",
        when: "Another request with this `Idempotency-Key` has not been answered yet.",
        hint: "wait for its answer, or send it again a little later with the same Idempotency-Key",
        retry: true,
    },
    ProblemType {
        code: "order_reference_taken",
        status: 409,
        title: "this order reference is taken",
        when: "Another order of the shop has this reference; `order_id` names it.",
        hint: "use the existing order, or a new reference for another order",
        retry: false,
    },
    ProblemType {
        code: "order_not_payable",
        status: 409,
        title: "this order takes no payment",
        when: "It is paid, canceled, expired, stopped, or has had too many attempts: `detail` says which.",
        hint: "ask get_order where it stands; create another order for another purchase",
        retry: false,
    },
    ProblemType {
        code: "payment_under_way",
        status: 409,
        title: "a payment of this order is under way",
        when: "An attempt has not ended yet; `payment_id` names it. Two at once could be paid twice.",
        hint: "send the shopper to the next_action that get_order gives, or wait until the attempt has ended",
        retry: false,
    },
    ProblemType {
        code: "payload_too_large",
        status: 413,
        title: "the body is too large",
        when: "A command has more than 64 KiB.",
        hint: "send less: long texts do not belong in a command",
        retry: false,
    },
    ProblemType {
        code: "uri_too_long",
        status: 414,
        title: "the address is too long",
        when: "Over HTTP, the path with its query is longer than any of ours.",
        hint: "shorten the query",
        retry: false,
    },
    ProblemType {
        code: "unsupported_encoding",
        status: 415,
        title: "compressed bodies are not taken",
        when: "`Content-Encoding` is something other than `identity`.",
        hint: "send the JSON as it is",
        retry: false,
    },
    ProblemType {
        code: "unsupported_media_type",
        status: 415,
        title: "this media type is not taken",
        when: "Over HTTP, the body is not said to be `application/json`.",
        hint: "send Content-Type: application/json",
        retry: false,
    },
    ProblemType {
        code: "idempotency_key_reused",
        status: 422,
        title: "this Idempotency-Key belongs to another request",
        when: "The key was used before, with another verb or another body.",
        hint: "make a new key for a new intention; send the same body to repeat the old one",
        retry: false,
    },
    ProblemType {
        code: "command_version_unknown",
        status: 422,
        title: "this version of the command is not known",
        when: "`Kassa-Command-Version` is higher than what this installation knows.",
        hint: "send an older version, or leave the header out",
        retry: false,
    },
    ProblemType {
        code: "card_data_refused",
        status: 422,
        title: "never send card numbers here",
        when: "A field holds what looks like a card number. It was not stored and not logged.",
        hint: "remove it: cards are entered at the provider, and only there",
        retry: false,
    },
    ProblemType {
        code: "currency_not_supported",
        status: 422,
        title: "this currency is not supported",
        when: "The amount is in a currency that orders, or this method, are not taken in; `detail` lists those that are.",
        hint: "send the amount in one of the currencies listed",
        retry: false,
    },
    ProblemType {
        code: "amount_out_of_range",
        status: 422,
        title: "this amount is not possible",
        when: "The method has limits, and the amount is outside of them; `detail` tells them.",
        hint: "offer the shopper a method that takes this amount",
        retry: false,
    },
    ProblemType {
        code: "return_url_not_allowed",
        status: 422,
        title: "the shopper may not be sent there",
        when: "`return_url` is not on one of the shop's origins.",
        hint: "use a URL of the shop, or add its origin to shops.<shop>.return_url_origins",
        retry: false,
    },
    ProblemType {
        code: "method_not_available",
        status: 422,
        title: "this payment method is not available",
        when: "The method is not known, or a rule excludes it here: country, currency or date. `detail` says which.",
        hint: "offer the shopper one of the methods that list_methods gives",
        retry: false,
    },
    ProblemType {
        code: "rate_limited",
        status: 429,
        title: "too much at once",
        when: "The shop, or the service as a whole, is asked more than it takes.",
        hint: "send the same request again a little later",
        retry: true,
    },
    ProblemType {
        code: "headers_too_large",
        status: 431,
        title: "the headers are too large",
        when: "The headers together are larger than 64 KiB or, over HTTP, more than a hundred.",
        hint: "send fewer or shorter headers",
        retry: false,
    },
    ProblemType {
        code: "internal",
        status: 500,
        title: "something of ours is broken",
        when: "A fault in kassa itself. Nothing was decided or, if it was, a repeat tells what.",
        hint: "send the same request again with the same Idempotency-Key, and tell us the trace_id",
        retry: true,
    },
    ProblemType {
        code: "store_unavailable",
        status: 503,
        title: "the store does not answer",
        when: "The database is away or behind. Nothing was decided or, if it was, a repeat tells what.",
        hint: "send the same request again with the same Idempotency-Key",
        retry: true,
    },
    ProblemType {
        code: "shutting_down",
        status: 503,
        title: "this instance is stopping",
        when: "It is being replaced; another one answers.",
        hint: "send the same request again with the same Idempotency-Key",
        retry: true,
    },
];

/// What is known of a code.
#[must_use]
pub fn problem_type(code: &str) -> Option<&'static ProblemType> {
    PROBLEMS.iter().find(|known| known.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::is_word;

    #[test]
    fn every_code_is_a_word_with_a_status_and_something_to_do() {
        for problem in PROBLEMS {
            assert!(is_word(problem.code), "{}", problem.code);
            assert!((400..=599).contains(&problem.status), "{}", problem.code);
            assert!(
                !problem.hint.is_empty() && !problem.when.is_empty(),
                "{}",
                problem.code
            );
            assert_eq!(problem_type(problem.code), Some(problem), "a code is there twice");
        }
        assert!(PROBLEMS.is_sorted_by_key(|problem| problem.status));
    }
}

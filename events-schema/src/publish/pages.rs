//! What does a person read about an event or a problem? One page each, below `docs/`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{PROBLEMS, ProblemType, Samples, VERBS, example_of};
use crate::event::{CATALOGUE, EventType};

/// What no type can say about an event.
#[derive(Clone, Copy, Debug)]
struct Notes {
    event: (&'static str, &'static str),
    /// When it comes, and what has come before.
    when: &'static str,
    /// Who reads it, and what for.
    readers: &'static str,
    /// The nearest status of ISO 20022, for people who know those. Not part of the contract.
    iso: &'static str,
}

/// By event, in the catalogue's order.
const NOTES: &[Notes] = &[
    Notes {
        event: ("order", "created"),
        when: "At once when `create_order` was accepted: the first event of every order.",
        readers: "Analysts, as the first step of the funnel. The checkout has the command's answer.",
        iso: "RCVD",
    },
    Notes {
        event: ("order", "partially_paid"),
        when: "When a report of the provider shows money, and less than was ordered beyond the tolerance.",
        readers: "A checkout that offers to pay the rest; operators.",
        iso: "none",
    },
    Notes {
        event: ("order", "paid"),
        when: "When a report of the provider shows what was ordered, within the tolerance. Often in the same moment as \
               `order.payment_safe`, and never instead of it.",
        readers: "The checkout, to thank the shopper; analysts. Not a shipment service.",
        iso: "ACSP",
    },
    Notes {
        event: ("order", "amount_mismatch_found"),
        when: "When a report does not agree with the order: another amount, currency or reference. The order does not become \
               safe by itself.",
        readers: "Operators: a person must look.",
        iso: "none",
    },
    Notes {
        event: ("order", "payment_safe"),
        when: "When a report of the provider met every condition of the policy; `evidence` holds each. Once for each order and \
               safety epoch.",
        readers: "The shipment service: this, and nothing else, is the permission to ship. It keeps an inbox by `id`.",
        iso: "ACSP or ACSC, by method",
    },
    Notes {
        event: ("order", "payment_safety_lost"),
        when: "When an order that was safe is not any more: reversal, chargeback or refund. Once for each epoch; if the money \
               comes back, `order.payment_safe` comes again under the next epoch.",
        readers: "The shipment service, on the same subjects: it holds what has not left. Operators.",
        iso: "none",
    },
    Notes {
        event: ("order", "canceled"),
        when: "When `cancel_order` was accepted: nothing had been paid. Money that comes all the same is recorded, and never \
               makes the order safe.",
        readers: "The shop, to give stock free; analysts.",
        iso: "CANC",
    },
    Notes {
        event: ("order", "expired"),
        when: "When the order's time was over, nothing was paid and no attempt was open or unclear any more.",
        readers: "The shop, to give stock free; analysts.",
        iso: "CANC",
    },
    Notes {
        event: ("payment", "started"),
        when: "When `start_payment` was accepted, before the provider is called.",
        readers: "The worker that calls the provider; analysts.",
        iso: "PDNG",
    },
    Notes {
        event: ("payment", "redirected"),
        when: "When the provider took the attempt and gave an address for the shopper. The address itself is not published.",
        readers: "Analysts. The checkout has it in `next_action`.",
        iso: "PDNG",
    },
    Notes {
        event: ("payment", "authorized"),
        when: "When a report of the provider shows the attempt as authorized.",
        readers: "Analysts; a checkout that shows progress. Not a shipment service.",
        iso: "ACTC or ACCP",
    },
    Notes {
        event: ("payment", "failed"),
        when: "When the provider refused the attempt, or a report shows that it ended without money.",
        readers: "The checkout, to offer another method; analysts.",
        iso: "RJCT",
    },
    Notes {
        event: ("payment", "canceled"),
        when: "When a report shows that the shopper or the provider gave the attempt up.",
        readers: "The checkout, to offer another method; analysts.",
        iso: "CANC",
    },
    Notes {
        event: ("payment", "expired"),
        when: "When a report that was read late enough does not show the attempt, or shows it as expired. Time alone never ends \
               one.",
        readers: "The checkout, to offer another method; analysts.",
        iso: "RJCT",
    },
    Notes {
        event: ("payment", "outcome_unknown"),
        when: "When a call to the provider had no clear answer. It is not repeated: reports are read until it is clear.",
        readers: "Operators, when it lasts. The shopper goes on by the provider's menu meanwhile.",
        iso: "PDNG",
    },
];

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Path below `docs/`: `events/order.payment_safe.md`.
    pub path: String,
    /// Markdown.
    pub text: String,
}

/// Every page, with an index each.
///
/// # Panics
/// When an event of the catalogue has no notes here: whoever publishes one says what it means.
#[must_use]
pub fn pages(samples: &Samples) -> Vec<Page> {
    let mut pages = vec![event_index(), problem_index()];
    pages.extend(CATALOGUE.iter().map(|entry| event_page(entry, samples)));
    pages.extend(PROBLEMS.iter().map(problem_page));
    pages
}

const GENERATED: &str =
    "<!-- Written by a test of events-schema from its tables: KASSA_UPDATE_SCHEMAS=1 rewrites it. -->\n\n";

fn notes(entry: &EventType) -> &'static Notes {
    NOTES
        .iter()
        .find(|notes| notes.event == (entry.aggregate, entry.token))
        .unwrap_or_else(|| {
            panic!(
                "{}.{} has no notes in publish/pages.rs",
                entry.aggregate, entry.token
            )
        })
}

fn event_page(entry: &EventType, samples: &Samples) -> Page {
    let EventType {
        aggregate,
        token,
        version,
        summary,
    } = entry;
    let notes = notes(entry);
    let file = format!("{aggregate}/{token}.v{version}.json");
    let sample = &samples[&file];
    let text = format!(
        "# {aggregate}.{token}\n\n{GENERATED}{summary}\n\n\
         | | |\n|---|---|\n\
         | Type | `kassa.{aggregate}.{token}.v{version}` (spoken: {spoken}) |\n\
         | When | {when} |\n\
         | Who reads it | {readers} |\n\
         | Stored, for a JetStream consumer | `kassa.evt.*.*.{aggregate}.*.{token}` |\n\
         | Live, for a core subscription | `kassa.live.{{shop}}.{aggregate}.{{{aggregate}_id}}.{token}` |\n\
         | Schema of `data` | [{file}](../../events-schema/schemas/{file}) |\n\
         | Nearest ISO 20022 status | {iso} (informative) |\n\n\
         ## Fields of `data`\n\n{fields}\n\
         ## Example\n\n```json\n{sample}\n```\n",
        spoken = entry.spoken(),
        when = notes.when,
        readers = notes.readers,
        iso = notes.iso,
        fields = fields_of(entry),
        sample = pretty(sample),
    );
    Page {
        path: format!("events/{aggregate}.{token}.md"),
        text,
    }
}

/// One line a field, from the schema.
fn fields_of(entry: &EventType) -> String {
    let mut lines = String::new();
    for (found, schema) in crate::event::schemas(crate::schema::generator) {
        if found != *entry {
            continue;
        }
        let schema = schema.to_value();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let always = if required.contains(&Value::from(name.as_str())) {
                ""
            } else {
                " (where known)"
            };
            let description = field["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " ");
            let _ = writeln!(lines, "- `{name}`{always}: {description}");
        }
    }
    lines
}

fn event_index() -> Page {
    let mut text = format!(
        "# Events\n\n{GENERATED}\
         What has happened, as [CloudEvents](../../events-schema/README.md): one JSON document a message. A reader ignores \
         fields it does not know, counts types it does not know, and keeps an inbox by `id`, because everything may come \
         twice. Stored events that are not published travel as `internal`, without data.\n\n\
         | Event | Meaning |\n|---|---|\n"
    );
    for EventType {
        aggregate,
        token,
        summary,
        ..
    } in CATALOGUE
    {
        let _ = writeln!(
            text,
            "| [{aggregate}.{token}]({aggregate}.{token}.md) | {summary} |"
        );
    }
    Page {
        path: "events/README.md".to_owned(),
        text,
    }
}

fn problem_page(problem: &ProblemType) -> Page {
    let ProblemType {
        code,
        status,
        title,
        when,
        hint,
        retry,
    } = problem;
    let mut verbs: Vec<_> = VERBS
        .iter()
        .filter(|verb| verb.codes().any(|known| known == *code))
        .map(|verb| format!("`{}`", verb.name))
        .collect();
    if verbs.len() == VERBS.len() {
        verbs = vec!["every verb".to_owned()];
    } else if verbs.is_empty() {
        let of_simulator = *code == "not_in_live_mode";
        verbs = vec![
            if of_simulator {
                "the simulator"
            } else {
                "every address, over HTTP only"
            }
            .to_owned(),
        ];
    }
    let again = if *retry {
        "Yes, after `retry_after_s` seconds: the same request, a command with the same `Idempotency-Key`."
    } else {
        "Not unchanged: it would be refused again."
    };
    let text = format!(
        "# {code}\n\n{GENERATED}**{status}**: {title}\n\n\
         | | |\n|---|---|\n\
         | When | {when} |\n\
         | What to do | {hint} |\n\
         | Send it again? | {again} |\n\
         | Answered by | {verbs} |\n\n\
         ## Example\n\n```json\n{example}\n```\n\n\
         A program decides by `code`, which never changes its meaning; `title`, `detail` and `hint` are for people.\n",
        verbs = verbs.join(", "),
        example = pretty(&example_of(problem)),
    );
    Page {
        path: format!("problems/{code}.md"),
        text,
    }
}

fn problem_index() -> Page {
    let mut text = format!(
        "# Problems\n\n{GENERATED}\
         Every refusal is a problem document (RFC 9457), over HTTP and on NATS alike. On NATS the status stands in the header \
         `Nats-Service-Error-Code`.\n\n| Code | Status | Meaning |\n|---|---|---|\n"
    );
    for problem in PROBLEMS {
        let _ = writeln!(
            text,
            "| [{0}]({0}.md) | {1} | {2} |",
            problem.code, problem.status, problem.title
        );
    }
    Page {
        path: "problems/README.md".to_owned(),
        text,
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

//! What travels on NATS, for tools? AsyncAPI 3.0, named in the metadata of the micro services.
//!
//! AsyncAPI's NATS binding knows nothing of JetStream, so streams, retention and recommended consumers stand in one extension,
//! `x-nats-jetstream`.

use serde_json::{Map, Value, json};

use super::{Components, Samples, VERSION, add_envelope, add_problem, example_of, extend, reference};
use crate::api::problems::problem_type;
use crate::api::{Kind, Verb};
use crate::event::{self, EventType, INTERNAL, spoken};
use crate::{dead_letter, headers, schema, subject};

/// The whole document.
#[must_use]
pub fn document(samples: &Samples) -> Value {
    let mut writer = Writer {
        samples,
        components: Components::default(),
        messages: Map::new(),
        channels: Map::new(),
        operations: Map::new(),
    };
    add_envelope(&mut writer.components);
    add_problem(&mut writer.components);
    writer.events();
    writer.problem();
    for verb in super::VERBS {
        writer.verb(verb);
    }
    writer.dead_letters();
    let tags = ["commands", "questions", "events", "dead_letters"]
        .map(|tag| json!({ "$ref": format!("#/components/tags/{tag}") }));
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:kassa:api",
        "info": {
            "title": "kassa",
            "version": VERSION,
            "description": "Commands, questions and events of kassa on NATS; the same bodies over HTTP are in openapi.json. Stored \
                            events are read with a JetStream consumer, never with a core subscription on `kassa.evt.>`, which \
                            would also see what the stream refused; core subscriptions listen to `kassa.live.>`.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
            "contact": { "name": "the installation's operators" },
            "tags": tags,
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "The installation's NATS, 2.12.6 or newer. Environments and tenants are accounts, not subjects.",
                "security": [{ "$ref": "#/components/securitySchemes/login" }],
            },
        },
        "channels": writer.channels,
        "operations": writer.operations,
        "components": {
            "securitySchemes": {
                "login": { "type": "userPassword", "description": "A user of the installation: its permissions say which shops." },
            },
            "tags": {
                "commands": { "name": "commands", "description": "What may be asked to be done." },
                "questions": { "name": "questions", "description": "What may be asked to be known." },
                "events": { "name": "events", "description": "What has happened." },
                "dead_letters": { "name": "dead letters", "description": "What a consumer gave up on." },
            },
            "parameters": parameters(),
            "messages": writer.messages,
            "schemas": alone(writer.components.0),
        },
    })
}

struct Writer<'s> {
    samples: &'s Samples,
    components: Components,
    messages: Map<String, Value>,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Writer<'_> {
    /// Every published event: stored, and republished once stored.
    fn events(&mut self) {
        for (entry, data) in event::schemas(schema::generator) {
            let name = format!("{}{}", spoken(entry.aggregate), entry.spoken());
            let path = format!("{}/{}.v{}.json", entry.aggregate, entry.token, entry.version);
            let data = self.components.add(schema::generator(), |_| {
                let mut data = data;
                data.insert("title".to_owned(), json!(name));
                data
            });
            let payload = json!({
                "allOf": [
                    reference("Envelope"),
                    {
                        "type": "object",
                        "required": ["data"],
                        "properties": {
                            "type": { "const": format!("kassa.{}.{}.v{}", entry.aggregate, entry.token, entry.version) },
                            "data": data,
                        },
                    },
                ],
            });
            self.event(&entry, &name, entry.summary, payload, self.samples.get(&path));
        }
        for aggregate in crate::Aggregate::KNOWN {
            let entry = EventType {
                aggregate,
                token: INTERNAL,
                version: 1,
                summary: "",
            };
            let name = format!("{}Internal", spoken(aggregate));
            let summary = "A stored event that is not published: it keeps sequence numbers without gaps, and has no data.";
            let sample = self.samples.get(&format!("{aggregate}/{INTERNAL}.v1.json"));
            self.event(&entry, &name, summary, reference("Envelope"), sample);
        }
    }

    fn event(
        &mut self,
        entry: &EventType,
        name: &str,
        summary: &str,
        payload: Value,
        sample: Option<&Value>,
    ) {
        let (aggregate, token) = (entry.aggregate, entry.token);
        let mut message = json!({
            "name": name,
            "title": name,
            "summary": summary,
            "contentType": headers::EVENT_CONTENT_TYPE,
            "headers": {
                "type": "object",
                "description": "Copies for routing; the body is authoritative.",
                "required": [headers::CONTENT_TYPE, headers::MSG_ID],
                "properties": {
                    headers::CONTENT_TYPE: { "const": headers::EVENT_CONTENT_TYPE },
                    headers::MSG_ID: { "type": "string", "description": "The event's id." },
                    headers::CE_ID: { "type": "string" },
                    headers::CE_TYPE: { "type": "string" },
                    headers::CE_SOURCE: { "type": "string" },
                    headers::CE_SUBJECT: { "type": "string" },
                    headers::CE_TIME: { "type": "string" },
                    headers::TRACEPARENT: { "type": "string" },
                    headers::TRACESTATE: { "type": "string" },
                },
            },
            "payload": payload,
        });
        if let Some(sample) = sample {
            message["examples"] = json!([{ "name": token, "payload": sample }]);
        }
        self.messages.insert(name.to_owned(), message);
        let id = format!("{aggregate}_id");
        let of_aggregate = ["shop", id.as_str()];
        let stored = format!("evt_{aggregate}_{token}");
        self.channel(
            &stored,
            &format!("kassa.evt.{{part}}.{{shop}}.{aggregate}.{{{id}}}.{token}"),
            &format!("Stored: {summary}"),
            &[&["part"][..], &of_aggregate].concat(),
            &[name],
            json!({ "x-nats-jetstream": events_stream(&format!("kassa.evt.*.*.{aggregate}.*.{token}")) }),
        );
        self.operation(
            &format!("publish_{stored}"),
            "send",
            &stored,
            &[name],
            "events",
            summary,
            None,
        );
        let live = format!("live_{aggregate}_{token}");
        self.channel(
            &live,
            &format!("kassa.live.{{shop}}.{aggregate}.{{{id}}}.{token}"),
            &format!("Live, at most once: {summary}"),
            &of_aggregate,
            &[name],
            json!({ "x-nats-jetstream": { "stream": subject::STREAM, "republished": true } }),
        );
        self.operation(
            &format!("republish_{live}"),
            "send",
            &live,
            &[name],
            "events",
            summary,
            None,
        );
    }

    fn problem(&mut self) {
        let example = problem_type("validation").map(example_of);
        let message = json!({
            "name": "Problem",
            "title": "Problem",
            "summary": "A refusal: stable code, field, remedy.",
            "contentType": headers::PROBLEM_CONTENT_TYPE,
            "headers": {
                "type": "object",
                "properties": {
                    headers::SERVICE_ERROR_CODE: { "type": "string", "description": "The HTTP status number." },
                    headers::SERVICE_ERROR: { "type": "string", "description": "The title." },
                },
            },
            "payload": reference("Problem"),
            "examples": [{ "name": "validation", "payload": example }],
        });
        self.messages.insert("Problem".to_owned(), message);
    }

    fn verb(&mut self, verb: &Verb) {
        let name = spoken(verb.name);
        let answer = format!("{name}Answer");
        let request_schema = self.components.add(schema::of_requests(), verb.request);
        let answer_schema = if verb.name == "get_order_events" {
            json!({ "type": "array", "items": reference("Envelope") })
        } else {
            self.components.add(schema::generator(), verb.answer)
        };
        let mut request = json!({
            "name": name,
            "title": name,
            "summary": verb.summary,
            "contentType": "application/json",
            "payload": request_schema,
            "examples": [{ "name": verb.name, "payload": self.samples[&verb.request_path()] }],
        });
        let mut accepted = json!({ headers::PREFER: { "type": "string", "description": "`wait=N`, in seconds, at most 25; `for=safe|final|change` on get_order." } });
        if verb.kind == Kind::Command {
            extend(
                &mut accepted,
                json!({
                    headers::IDEMPOTENCY_KEY: {
                        "type": "string", "pattern": "^[!-~]{1,64}$",
                        "description": "The caller's name for one intention; sent again with every repeat.",
                    },
                    "Kassa-Command-Version": { "type": "string", "enum": ["1"] },
                    headers::TRACEPARENT: { "type": "string" },
                }),
            );
            request["headers"] =
                json!({ "type": "object", "required": [headers::IDEMPOTENCY_KEY], "properties": accepted });
        } else {
            request["headers"] = json!({ "type": "object", "properties": accepted });
        }
        self.messages.insert(name.clone(), request);
        self.messages.insert(answer.clone(), json!({
            "name": answer,
            "title": answer,
            "summary": format!("Answer of {}.", verb.name),
            "contentType": if verb.name == "get_order_events" { "application/cloudevents-batch+json" } else { "application/json" },
            "headers": {
                "type": "object",
                "properties": {
                    "Idempotent-Replayed": { "const": "true" },
                    "Kassa-Position": { "type": "string", "pattern": crate::api::POSITION },
                    "Preference-Applied": { "type": "string" },
                },
            },
            "payload": answer_schema,
            "examples": [{ "name": verb.name, "payload": self.samples[&verb.answer_path()] }],
        }));
        let (prefix, tag, service) = match verb.kind {
            Kind::Command => ("cmd", "commands", "kassa-commands"),
            Kind::Query => ("qry", "questions", "kassa-queries"),
        };
        let channel = format!("{prefix}_{}", verb.name);
        self.channel(
            &channel,
            &format!("kassa.{prefix}.{{shop}}.{}", verb.name),
            verb.summary,
            &["shop"],
            &[&name],
            json!({ "x-nats-service": { "name": service, "endpoint": verb.name, "stream": "none may match this subject" } }),
        );
        let reply = format!("{channel}_reply");
        self.channels.insert(
            reply.clone(),
            json!({
                "title": format!("answer of {}", verb.name),
                "description": "The request's reply subject: an answer, or a problem.",
                "messages": {
                    answer.as_str(): { "$ref": format!("#/components/messages/{answer}") },
                    "Problem": { "$ref": "#/components/messages/Problem" },
                },
            }),
        );
        let reply = json!({
            "channel": { "$ref": format!("#/channels/{reply}") },
            "messages": [
                { "$ref": format!("#/channels/{reply}/messages/{answer}") },
                { "$ref": format!("#/channels/{reply}/messages/Problem") },
            ],
        });
        self.operation(
            verb.name,
            "receive",
            &channel,
            &[&name],
            tag,
            verb.summary,
            Some(reply),
        );
        if verb.kind == Kind::Command {
            self.durable(verb, &name);
        }
    }

    /// The same command for who does not wait, and its refusal.
    fn durable(&mut self, verb: &Verb, name: &str) {
        let inbox = format!("inbox_{}", verb.name);
        self.channel(
            &inbox,
            &subject::inbox("{shop}", verb.name),
            &format!("Durable, without an answer: {}", verb.summary),
            &["shop"],
            &[name],
            json!({ "x-nats-jetstream": {
                "stream": subject::INBOX_STREAM, "retention": "workqueue", "storage": "file",
                "acknowledged": "the stream's acknowledgement says that it is kept; what became of it, get_order or kassa.rejected tells",
            }}),
        );
        self.operation(
            &format!("take_{inbox}"),
            "receive",
            &inbox,
            &[name],
            "commands",
            verb.summary,
            None,
        );
        let rejected = format!("rejected_{}", verb.name);
        let summary = format!(
            "A {} from the inbox was refused: the problem, with the command's Idempotency-Key.",
            verb.name
        );
        self.channel(
            &rejected,
            &format!("kassa.rejected.{{shop}}.{}", verb.name),
            &summary,
            &["shop"],
            &["Problem"],
            json!({ "x-nats-jetstream": { "stream": "KASSA_REJECTED", "retention": "limits", "storage": "file" } }),
        );
        self.operation(
            &format!("publish_{rejected}"),
            "send",
            &rejected,
            &["Problem"],
            "commands",
            &summary,
            None,
        );
    }

    fn dead_letters(&mut self) {
        self.messages.insert("DeadLetter".to_owned(), json!({
            "name": "DeadLetter",
            "title": "DeadLetter",
            "summary": "What a consumer gave up on, byte for byte as it came: an event, or a command of the inbox.",
            "payload": { "description": "The original payload. Empty for a command that could not be decoded, and where it held a card number: the header Kassa-Body-Bytes tells how long it was." },
        }));
        self.channel(
            "dlq",
            "kassa.dlq.{consumer}.{shop}.{aggregate}.{id}",
            "Dead letters, by who gave up: kept until a person has looked.",
            &["consumer", "shop", "aggregate", "id"],
            &["DeadLetter"],
            json!({ "x-nats-jetstream": { "stream": dead_letter::STREAM, "retention": "limits", "storage": "file" } }),
        );
        self.operation(
            "park",
            "receive",
            "dlq",
            &["DeadLetter"],
            "dead_letters",
            "A consumer gives a message up.",
            None,
        );
    }

    fn channel(
        &mut self,
        name: &str,
        address: &str,
        description: &str,
        parameters: &[&str],
        messages: &[&str],
        more: Value,
    ) {
        let of = |names: &[&str], at: &str| -> Map<String, Value> {
            let refer = |name: &&str| {
                (
                    (*name).to_owned(),
                    json!({ "$ref": format!("#/components/{at}/{name}") }),
                )
            };
            names.iter().map(refer).collect()
        };
        let mut channel = json!({
            "address": address,
            "title": name,
            "description": description,
            "parameters": of(parameters, "parameters"),
            "messages": of(messages, "messages"),
        });
        extend(&mut channel, more);
        self.channels.insert(name.to_owned(), channel);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call per operation, each argument a field of it"
    )]
    fn operation(
        &mut self,
        name: &str,
        action: &str,
        channel: &str,
        messages: &[&str],
        tag: &str,
        summary: &str,
        reply: Option<Value>,
    ) {
        let refer = |message: &&str| json!({ "$ref": format!("#/channels/{channel}/messages/{message}") });
        let mut operation = json!({
            "action": action,
            "channel": { "$ref": format!("#/channels/{channel}") },
            "summary": summary,
            "tags": [{ "$ref": format!("#/components/tags/{tag}") }],
            "messages": messages.iter().map(refer).collect::<Vec<_>>(),
        });
        if let Some(reply) = reply {
            operation["reply"] = reply;
        }
        self.operations.insert(name.to_owned(), operation);
    }
}

/// What holds the events, and how to read it.
fn events_stream(filter: &str) -> Value {
    json!({
        "stream": subject::STREAM,
        "further_parts": "KASSA_EVENTS_1, …",
        "retention": "limits",
        "storage": "file",
        "sequence": "equals the envelope's sequence",
        "republish": { "source": subject::REPUBLISH_SOURCE, "destination": subject::LIVE },
        "consumer": {
            "kind": "durable pull",
            "filter_subject": filter,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait_s": 30,
            "max_ack_pending": 64,
            "deliveries_before_the_dead_letter": 5,
        },
    })
}

/// AsyncAPI's own schema language knows nothing beside a `$ref`: what stands there goes around it.
fn alone(schemas: Map<String, Value>) -> Value {
    fn wrap(schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                fields.values_mut().for_each(wrap);
                if fields.len() > 1
                    && let Some(target @ Value::String(_)) = fields.remove("$ref")
                {
                    fields.insert("allOf".to_owned(), json!([{ "$ref": target }]));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(wrap),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut schemas = Value::Object(schemas);
    wrap(&mut schemas);
    schemas
}

fn parameters() -> Value {
    let one = |description: &str, example: &str| json!({ "description": description, "examples": [example] });
    json!({
        "part": one("Part of the log; 0 on one machine.", "0"),
        "shop": one("The shop's token: 1 to 32 of a-z, 0-9 and hyphen.", "brekz-nl"),
        "order_id": one("Id of the order.", "ord_5k3m01kb2m8x4r7fezd9t6hqnvsg"),
        "payment_id": one("Id of the attempt.", "pay_5k3m01kb2m905wj3cgy8a2p1mztg"),
        "consumer": one("Name of the durable that gave up.", "ship-brekz-nl"),
        "aggregate": one("`order` or `payment`, as in the original subject.", "order"),
        "id": one("Id in the original subject.", "ord_5k3m01kb2m8x4r7fezd9t6hqnvsg"),
    })
}

//! What is the HTTP API, for tools? OpenAPI 3.1, served at `/openapi.json`.

use serde_json::{Map, Value, json};

use super::{
    Components, Samples, VERSION, add_envelope, add_problem, by_status, example_of, extend, reference,
};
use crate::api::verbs::{COMMON, OF_HTTP, verb};
use crate::api::{Kind, Verb, WAIT_MAX_HTTP_S};
use crate::schema;

/// The whole document.
#[must_use]
pub fn document(samples: &Samples) -> Value {
    let mut writer = Writer {
        samples,
        components: Components::default(),
        responses: Map::new(),
    };
    add_envelope(&mut writer.components);
    add_problem(&mut writer.components);
    let mut paths = writer.verbs();
    writer.events(&mut paths);
    writer.pages(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kassa",
            "version": VERSION,
            "summary": "Orders, payments, and what is safe to ship.",
            "description": "The same bodies and answers as on NATS (see asyncapi.json). The shop is the API key's. Every \
                            answer that is not 2xx is a problem document whose `code` has a page at `/problems/{code}`. \
                            Amounts are whole minor units. Coming back to `return_url` decides nothing: only `safe` with \
                            value `yes`, or the event `order.payment_safe`, is a permission to ship.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "where this document came from" }],
        "security": [{ "apiKey": [] }],
        "tags": [
            { "name": "orders", "description": "What a shopper owes, and where it stands." },
            { "name": "events", "description": "What has happened, as CloudEvents." },
            { "name": "methods", "description": "What a checkout may offer." },
            { "name": "contract", "description": "This contract itself; open to everybody." },
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of the shop. Scopes: orders:write, orders:read, events:read.",
                },
            },
            "parameters": parameters(),
            "headers": headers(),
            "responses": writer.responses,
            "schemas": writer.components.0,
        },
    })
}

struct Writer<'s> {
    samples: &'s Samples,
    components: Components,
    responses: Map<String, Value>,
}

impl Writer<'_> {
    fn verbs(&mut self) -> Value {
        let mut paths = json!({});
        for verb in super::VERBS {
            let mut operation = match verb.kind {
                Kind::Command => self.command(verb),
                Kind::Query => self.query(verb),
            };
            if verb.name == "list_orders" {
                self.with_look_up(&mut operation);
            }
            let mut item = json!({});
            item[verb.method] = operation;
            if paths.get(verb.path).is_some() {
                extend(&mut paths[verb.path], item);
            } else {
                paths[verb.path] = item;
            }
        }
        paths
    }

    fn command(&mut self, verb: &Verb) -> Value {
        let in_path = verb.path.contains("{order_id}");
        let mut body = self.components.add(schema::of_requests(), verb.request);
        let mut sample = self.samples[&verb.request_path()].clone();
        let mut required = true;
        if in_path {
            // The path says which order; the rest of the body is the command's.
            required = self.without_order_id(&body);
            if let Value::Object(fields) = &mut sample {
                fields.remove("order_id");
            }
        }
        body = json!({
            "required": required,
            "content": { "application/json": { "schema": body, "example": sample } },
        });
        let mut parameters = vec![parameter("IdempotencyKey"), parameter("CommandVersion")];
        if in_path {
            parameters.insert(0, parameter("OrderId"));
        }
        let mut answered = json!({
            "Trace-Id": header("TraceId"),
            "Kassa-Position": header("KassaPosition"),
            "Idempotent-Replayed": header("IdempotentReplayed"),
        });
        if verb.name == "start_payment" {
            parameters.push(parameter("PreferWait"));
            answered["Preference-Applied"] = header("PreferenceApplied");
        }
        let content = self.answer(verb, "application/json");
        let mut responses = json!({});
        let mut answer = json!({ "description": verb.summary, "headers": answered, "content": content });
        if verb.name == "create_order" {
            answer["links"] = links();
        }
        responses[verb.status.to_string()] = answer;
        extend(&mut responses, self.refusals(verb.codes(), true));
        operation(
            verb,
            json!({ "parameters": parameters, "requestBody": body, "responses": responses }),
        )
    }

    fn query(&mut self, verb: &Verb) -> Value {
        let mut parameters = self.of_query(verb);
        let mut answered = json!({ "Trace-Id": header("TraceId") });
        if verb.name == "get_order" {
            parameters.push(parameter("PreferWaitFor"));
            answered["Preference-Applied"] = header("PreferenceApplied");
        }
        if matches!(verb.name, "get_order" | "explain_order" | "get_order_events") {
            answered["Kassa-Position"] = header("KassaPosition");
        }
        if verb.name == "list_orders" {
            answered["Link"] = header("Link");
        }
        let media_type = match verb.name {
            "get_order_events" => "application/cloudevents-batch+json",
            _ => "application/json",
        };
        let content = self.answer(verb, media_type);
        let mut responses = json!({
            "200": { "description": verb.summary, "headers": answered, "content": content },
        });
        extend(&mut responses, self.refusals(verb.codes(), true));
        operation(verb, json!({ "parameters": parameters, "responses": responses }))
    }

    /// The fields of a question as parameters: the order's id in the path, the rest in the query.
    fn of_query(&self, verb: &Verb) -> Vec<Value> {
        let schema = (verb.request)(&mut schema::of_requests()).to_value();
        let required: Vec<_> = schema["required"].as_array().cloned().unwrap_or_default();
        let in_path = verb.path.contains("{order_id}");
        let mut parameters = Vec::new();
        if in_path {
            parameters.push(parameter("OrderId"));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            // Of get_order and explain_order: looking up by reference is an address of its own.
            if in_path && (name == "order_id" || name == "order_reference") {
                continue;
            }
            parameters.push(query_parameter(
                name,
                field.clone(),
                required.contains(&json!(name)),
            ));
        }
        parameters
    }

    /// `GET /v1/orders?order_reference=` is a question about one order: its answer is that of `get_order`.
    fn with_look_up(&mut self, operation: &mut Value) {
        let Some(get_order) = verb("get_order") else {
            return;
        };
        let of_get_order = (get_order.request)(&mut schema::of_requests()).to_value();
        for name in ["order_reference", "min_position"] {
            let field = of_get_order["properties"][name].clone();
            if let Some(parameters) = operation["parameters"].as_array_mut() {
                parameters.push(query_parameter(name, field, false));
            }
        }
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.push(parameter("PreferWaitFor"));
        }
        operation["description"] = json!(
            "With `order_reference` (and without `status`, `limit` and `after`) the answer is one order, as that of \
             `GET /v1/orders/{order_id}`; otherwise it is a page."
        );
        let answer = &mut operation["responses"]["200"];
        answer["headers"]["Preference-Applied"] = header("PreferenceApplied");
        answer["headers"]["Kassa-Position"] = header("KassaPosition");
        let content = &mut answer["content"]["application/json"];
        content["schema"] = json!({ "anyOf": [reference("OrderList"), reference("OrderView")] });
        let page = content["example"].take();
        *content = json!({
            "schema": content["schema"],
            "examples": {
                "page": { "summary": "a page", "value": page },
                "one": { "summary": "by reference", "value": self.samples[&get_order.answer_path()] },
            },
        });
    }

    fn answer(&mut self, verb: &Verb, media_type: &str) -> Value {
        let schema = if verb.name == "get_order_events" {
            json!({ "type": "array", "items": reference("Envelope") })
        } else {
            self.components.add(schema::generator(), verb.answer)
        };
        let mut content = json!({});
        content[media_type] = json!({ "schema": schema, "example": self.samples[&verb.answer_path()] });
        content
    }

    /// Takes `order_id` out of the component; whether something that must be sent is left.
    fn without_order_id(&mut self, body: &Value) -> bool {
        let name = body["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let Some(schema) = name.and_then(|name| self.components.0.get_mut(name)) else {
            return true;
        };
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("order_id");
        }
        if let Some(required) = schema["required"].as_array_mut() {
            required.retain(|field| field != "order_id");
        }
        let left = schema["required"]
            .as_array()
            .is_some_and(|required| !required.is_empty());
        if !left && let Some(fields) = schema.as_object_mut() {
            fields.remove("required");
        }
        left
    }

    /// One response a status, shared by all operations that refuse for the same reasons.
    fn refusals<'c>(&mut self, codes: impl Iterator<Item = &'c str>, with_key: bool) -> Value {
        let of_http = OF_HTTP
            .iter()
            .copied()
            .filter(|code| with_key || !matches!(*code, "unauthenticated" | "forbidden"));
        let mut responses = json!({});
        for (status, problems) in by_status(codes.chain(of_http)) {
            let name = problems
                .iter()
                .map(|problem| problem.code)
                .collect::<Vec<_>>()
                .join("-or-");
            let mut headers = json!({ "Trace-Id": header("TraceId") });
            if problems.iter().any(|problem| problem.retry) {
                headers["Retry-After"] = header("RetryAfter");
            }
            match status {
                401 => headers["WWW-Authenticate"] = header("WwwAuthenticate"),
                405 => headers["Allow"] = header("Allow"),
                _ => {}
            }
            let mut examples = json!({});
            for problem in &problems {
                examples[problem.code] = json!({ "summary": problem.title, "value": example_of(problem) });
            }
            let lines = problems
                .iter()
                .map(|problem| format!("`{}`: {}", problem.code, problem.when));
            self.responses.insert(
                name.clone(),
                json!({
                    "description": lines.collect::<Vec<_>>().join("\n\n"),
                    "headers": headers,
                    "content": {
                        "application/problem+json": { "schema": reference("Problem"), "examples": examples },
                    },
                }),
            );
            responses[status.to_string()] = json!({ "$ref": format!("#/components/responses/{name}") });
        }
        responses
    }

    fn events(&mut self, paths: &mut Value) {
        let envelope = self.samples["order/payment_safe.v1.json"].clone();
        let mut responses = json!({
            "200": {
                "description": "Events in the order of the log.",
                "headers": { "Trace-Id": header("TraceId"), "Link": header("Link"), "Kassa-Position": header("KassaPosition") },
                "content": {
                    "application/x-ndjson": {
                        "schema": { "type": "string", "description": "One CloudEvent a line." },
                    },
                    "application/json": {
                        "schema": { "type": "array", "items": reference("Envelope") },
                        "example": [envelope],
                    },
                },
            },
        });
        extend(&mut responses, self.refusals(COMMON.iter().copied(), true));
        let filters = |names: &[&str]| names.iter().map(|name| parameter(name)).collect::<Vec<_>>();
        paths["/v1/events"] = json!({ "get": {
            "operationId": "list_events",
            "tags": ["events"],
            "summary": "What has happened, filtered, from the log itself.",
            "description": "With `Accept: application/x-ndjson` everything that fits the filter is streamed; otherwise the \
                            answer is a page, and the header `Link` leads to the next.",
            "x-scope": "events:read",
            "parameters": filters(&[
                "After", "Type", "Shop", "Order", "Method", "From", "To", "AsKnownAt", "EventsLimit",
            ]),
            "responses": responses,
        }});
        let mut responses = json!({
            "200": {
                "description": "Frames: `id` is the position, `event` is aggregate.event, `data` is the CloudEvent. A comment \
                                every 15 seconds. With `order`, a last frame `event: end` once the order is safe, canceled or expired, or its safety is lost. Money may \
                                still come or go after it: what happens to an order's safety later is told on the stream of the \
                                whole shop, and by a durable consumer on NATS.",
                "headers": { "Trace-Id": header("TraceId") },
                "content": { "text/event-stream": { "schema": { "type": "string" } } },
            },
        });
        extend(&mut responses, self.refusals(COMMON.iter().copied(), true));
        paths["/v1/events/stream"] = json!({ "get": {
            "operationId": "stream_events",
            "tags": ["events"],
            "summary": "What happens, as it happens: server-sent events.",
            "description": "Resumes from the log after `Last-Event-ID` (or `after`): nothing is missed while a client sleeps.",
            "x-scope": "events:read",
            "parameters": filters(&["After", "Type", "Order", "LastEventId"]),
            "responses": responses,
        }});
    }

    fn pages(&mut self, paths: &mut Value) {
        let page = |id: &str,
                    summary: &str,
                    parameters: Value,
                    media_type: &str,
                    schema: Value,
                    refusals: Value| {
            let mut content = json!({});
            content[media_type] = json!({ "schema": schema });
            let mut responses = json!({
                "200": { "description": summary, "headers": { "Trace-Id": header("TraceId") }, "content": content },
            });
            extend(&mut responses, refusals);
            json!({ "get": {
                "operationId": id,
                "tags": ["contract"],
                "summary": summary,
                "security": [],
                "parameters": parameters,
                "responses": responses,
            }})
        };
        let codes = [
            "validation",
            "not_found",
            "payload_too_large",
            "rate_limited",
            "internal",
            "shutting_down",
        ];
        let refusals = self.refusals(codes.into_iter(), false);
        let object = json!({ "type": "object" });
        let text = json!({ "type": "string" });
        paths["/openapi.json"] = page(
            "get_openapi",
            "This document.",
            json!([]),
            "application/json",
            object.clone(),
            refusals.clone(),
        );
        paths["/asyncapi.json"] = page(
            "get_asyncapi",
            "The same contract on NATS.",
            json!([]),
            "application/json",
            object.clone(),
            refusals.clone(),
        );
        paths["/docs/api"] = page(
            "read_api",
            "This document, for people.",
            json!([]),
            "text/html",
            text.clone(),
            refusals.clone(),
        );
        paths["/problems/{code}"] = page(
            "read_problem",
            "What a problem means and what to do about it.",
            json!([{
                "name": "code", "in": "path", "required": true, "description": "Code of the problem.",
                "schema": { "type": "string" }, "example": "validation",
            }]),
            "text/html",
            text,
            refusals.clone(),
        );
        paths["/schemas/{path}"] = page(
            "get_schema",
            "A JSON Schema (2020-12), under the path that `dataschema` of an event names.",
            json!([{
                "name": "path", "in": "path", "required": true,
                "description": "Family and file: `order/payment_safe.v1.json`. Its slash stands as it is.",
                "schema": { "type": "string" }, "example": "problem.v1.json",
            }]),
            "application/schema+json",
            object,
            refusals,
        );
    }
}

/// Where one goes with an order that was just made.
fn links() -> Value {
    let mut links = json!({});
    for next in super::VERBS
        .iter()
        .filter(|verb| verb.path.contains("{order_id}"))
    {
        links[next.name] = json!({
            "operationId": next.name,
            "description": next.summary,
            "parameters": { "order_id": "$response.body#/order_id" },
        });
    }
    links
}

fn operation(verb: &Verb, more: Value) -> Value {
    let tag = match verb.name {
        "get_order_events" => "events",
        "list_methods" => "methods",
        _ => "orders",
    };
    let mut operation = json!({
        "operationId": verb.name,
        "tags": [tag],
        "summary": verb.summary,
        "x-scope": verb.scope,
    });
    extend(&mut operation, more);
    operation
}

fn parameter(name: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

/// A field of a question as a parameter. There is no `null` in a query: it is there, or it is not.
fn query_parameter(name: &str, mut schema: Value, required: bool) -> Value {
    let description = schema
        .as_object_mut()
        .and_then(|fields| fields.remove("description"));
    if let Some(Value::Array(kinds)) = schema.get("type") {
        schema["type"] = kinds.first().cloned().unwrap_or_default();
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    json!({ "name": name, "in": "query", "required": required, "description": description, "schema": schema })
}

fn parameters() -> Value {
    let position = json!({ "type": "string", "pattern": crate::api::POSITION_GIVEN });
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let of_header = |name: &str, required: bool, description: &str, schema: Value| json!({ "name": name, "in": "header", "required": required, "description": description, "schema": schema });
    let time = json!({ "type": "string", "format": "date-time" });
    json!({
        "OrderId": {
            "name": "order_id", "in": "path", "required": true, "description": "Id of the order.",
            "schema": { "type": "string", "pattern": crate::order::ORDER_ID },
        },
        "IdempotencyKey": of_header(
            "Idempotency-Key",
            true,
            "The caller's name for one intention: a UUID, made once and sent again with every repeat.",
            json!({ "type": "string", "pattern": "^[!-~]{1,64}$" }),
        ),
        "CommandVersion": of_header(
            "Kassa-Command-Version",
            false,
            "The shape of the body, where it is not the newest.",
            json!({ "type": "string", "enum": ["1"] }),
        ),
        "PreferWait": of_header(
            "Prefer",
            false,
            &format!("`wait=N`: seconds to wait for the provider's answer; 10 where it is absent, at most {WAIT_MAX_HTTP_S}."),
            json!({ "type": "string", "examples": ["wait=10"] }),
        ),
        "PreferWaitFor": of_header(
            "Prefer",
            false,
            &format!(
                "`wait=N; for=safe|final|change`: seconds to wait, at most {WAIT_MAX_HTTP_S}, until the order is safe, has \
                 ended, or has changed. The answer tells where it stands then, whichever it is."
            ),
            json!({ "type": "string", "examples": ["wait=2; for=safe"] }),
        ),
        "LastEventId": of_header("Last-Event-ID", false, "`id` of the last frame that was received.", position.clone()),
        "After": query(
            "after",
            "Only what comes after this position, which must not lie beyond the end of the log.",
            position.clone(),
        ),
        "Type": query(
            "type",
            "Only these types: `order.payment_safe`, `payment.*`, `*.canceled`, or the whole type as it stands in an event, \
             `kassa.order.payment_safe.v1`; several parted by commas.",
            json!({ "type": "string", "pattern": types() }),
        ),
        "Shop": query("shop", "The API key's own shop, for who asks for several with a key each; another is not found.", json!({ "type": "string" })),
        "Order": query("order", "Only this order and its payments.", json!({ "type": "string", "pattern": crate::order::ORDER_ID })),
        "Method": query("method", "Only payments by this method.", json!({ "type": "string", "enum": crate::api::lists::METHODS })),
        "From": query("from", "Only what happened at or after this moment.", time.clone()),
        "To": query(
            "to",
            "Only what happened before this moment; or only what lies up to this position, which is included.",
            json!({ "anyOf": [time.clone(), position] }),
        ),
        "AsKnownAt": query("as_known_at", "Only what was known at this moment.", time),
        "EventsLimit": query("limit", "At most so many.", json!({ "type": "integer", "minimum": 1, "maximum": 1000 })),
    })
}

/// What `type` may be: an event that there is, with or without what stands around it in its whole type, or all of a family.
fn types() -> String {
    let mut names: Vec<String> = Vec::new();
    for entry in crate::CATALOGUE {
        names.push(format!(r"{}\.{}", entry.aggregate, entry.token));
        names.push(format!(r"\*\.{}", entry.token));
    }
    names.extend(
        crate::Aggregate::KNOWN
            .iter()
            .map(|aggregate| format!(r"{aggregate}\.\*")),
    );
    names.sort();
    names.dedup();
    let versions: std::collections::BTreeSet<String> = crate::CATALOGUE
        .iter()
        .map(|entry| entry.version.to_string())
        .collect();
    let versions = versions.into_iter().collect::<Vec<_>>().join("|");
    let one = format!(r"(kassa\.)?({})(\.v({versions}))?", names.join("|"));
    format!("^{one}(,{one})*$")
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "schema": schema });
    let text = || json!({ "type": "string" });
    json!({
        "TraceId": header("Under which the request is found in logs and traces.", json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" })),
        "KassaPosition": header("Where the log stood; give it to a read as `min_position`.", json!({ "type": "string", "pattern": crate::api::POSITION })),
        "IdempotentReplayed": header("`true` where the same command was decided before.", json!({ "type": "string", "enum": ["true"] })),
        "PreferenceApplied": header("What was made of `Prefer`.", text()),
        "RetryAfter": header("Seconds to wait before the same request is sent again.", json!({ "type": "integer", "minimum": 0 })),
        "Link": header("`<…>; rel=\"next\"` where there is more (RFC 8288).", text()),
        "Allow": header("The methods that this address takes.", text()),
        "WwwAuthenticate": header("`Bearer`.", text()),
    })
}

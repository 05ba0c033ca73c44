//! What are the JSON Schemas (2020-12) of the contract?
//!
//! They describe what is *written*: readers must still ignore fields that they do not know. The files in `schemas/` are
//! this module's output, kept equal by a test.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform, transform_subschemas};
use schemars::{Schema, json_schema};
use serde_json::{Map, Value, json};

use crate::api::{Problem, VERBS};
use crate::envelope::{Wire, schema_path};
use crate::event::{self, INTERNAL, spoken};
use crate::words::Aggregate;

/// One schema file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Path below `schemas/`: `order/payment_safe.v1.json`.
    pub path: String,
    /// The schema.
    pub schema: Value,
}

/// Every schema of the contract: the envelope's, one per event type and version, `internal` per family, body and answer of
/// every verb, and the problem document's.
#[must_use]
pub fn documents() -> Vec<Document> {
    let envelope = generator().into_root_schema_for::<Wire>();
    let mut documents = vec![document("/schemas/envelope.v1.json".to_owned(), envelope)];
    for (entry, schema) in event::schemas(generator) {
        documents.push(document(
            schema_path(entry.aggregate, entry.token, entry.version),
            schema,
        ));
    }
    for aggregate in Aggregate::KNOWN {
        let schema = json_schema!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": spoken(INTERNAL),
            "description": "A stored event that is not published: its envelope has no data, so no data is valid.",
            "not": {},
        });
        documents.push(document(schema_path(aggregate, INTERNAL, 1), schema));
    }
    for verb in VERBS {
        let request = (verb.request)(&mut of_requests());
        documents.push(document(format!("/schemas/{}", verb.request_path()), request));
        let answer = (verb.answer)(&mut generator());
        documents.push(document(format!("/schemas/{}", verb.answer_path()), answer));
    }
    let problem = generator().into_root_schema_for::<Problem>();
    documents.push(document("/schemas/problem.v1.json".to_owned(), problem));
    documents
}

fn document(id: String, mut schema: Schema) -> Document {
    let path = id.trim_start_matches("/schemas/").to_owned();
    schema.insert("$id".to_owned(), Value::String(id));
    // What it is comes first, for people who open the file.
    let mut ordered = Map::new();
    for key in ["$schema", "$id", "title", "description"] {
        if let Some(value) = schema.remove(key) {
            ordered.insert(key.to_owned(), value);
        }
    }
    if let Value::Object(rest) = schema.to_value() {
        ordered.extend(rest);
    }
    Document {
        path,
        schema: Value::Object(ordered),
    }
}

/// Of what is written.
pub(crate) fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings
        .with_transform(AbsentMeansAbsent)
        .with_transform(RecursiveTransform(tidy))
        .into_generator()
}

/// Of what is read strictly: `null` for an optional field is taken, as if it were left out.
pub(crate) fn of_requests() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12();
    settings.with_transform(RecursiveTransform(tidy)).into_generator()
}

/// An optional field is left out, never `null`: takes the `null` out that generated schemas allow for an `Option`.
#[derive(Clone)]
struct AbsentMeansAbsent;

impl Transform for AbsentMeansAbsent {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
            choices.retain(|choice| choice != &json!({"type": "null"}));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                schema.remove("anyOf");
                for (key, value) in only {
                    schema.insert(key, value);
                }
            }
        }
    }
}

/// `int64` and its like are not formats of JSON Schema; the bounds that matter are written as `minimum` and `maximum`.
/// And where a line of source ends is nobody's business.
fn tidy(schema: &mut Schema) {
    if schema.get("type").and_then(Value::as_str) == Some("integer") {
        schema.remove("format");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        let paragraphs = description
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "));
        *description = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
}

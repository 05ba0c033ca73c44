//! Do the documents that people and tools read say what the types say? OpenAPI, AsyncAPI and the pages below `docs/`.
//!
//! `KASSA_UPDATE_SCHEMAS=1` rewrites them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its own files has failed"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kassa_events_schema::publish::{Samples, asyncapi, openapi, pages};
use kassa_events_schema::{CATALOGUE, api};
use serde_json::{Value, json};

#[test]
fn openapi_is_what_the_types_say() {
    hold(
        "events-schema/openapi.json",
        &pretty(&openapi::document(&samples())),
    );
}

#[test]
fn asyncapi_is_what_the_types_say() {
    hold(
        "events-schema/asyncapi.json",
        &pretty(&asyncapi::document(&samples())),
    );
}

#[test]
fn every_event_and_every_problem_has_its_page_and_no_page_is_left_over() {
    let mut expected = BTreeSet::new();
    for page in pages::pages(&samples()) {
        hold(&format!("docs/{}", page.path), &page.text);
        expected.insert(page.path);
    }
    for folder in ["events", "problems"] {
        let found = fs::read_dir(repository().join("docs").join(folder)).unwrap();
        for file in found {
            let path = format!("{folder}/{}", file.unwrap().file_name().to_str().unwrap());
            assert!(
                expected.contains(&path),
                "docs/{path} is about nothing that there is"
            );
        }
    }
}

#[test]
fn every_verb_and_every_event_is_in_the_documents() {
    let (http, nats) = (openapi::document(&samples()), asyncapi::document(&samples()));
    for verb in api::VERBS {
        assert_eq!(
            http["paths"][verb.path][verb.method]["operationId"], verb.name,
            "not in OpenAPI"
        );
        assert!(
            nats["operations"].get(verb.name).is_some(),
            "{} is not in AsyncAPI",
            verb.name
        );
    }
    for entry in CATALOGUE {
        for kind in ["evt", "live"] {
            let channel = format!("{kind}_{}_{}", entry.aggregate, entry.token);
            assert!(
                nats["channels"].get(&channel).is_some(),
                "{channel} is not in AsyncAPI"
            );
        }
    }
}

/// Tools stop at the first reference that leads nowhere.
#[test]
fn every_reference_leads_somewhere_and_every_component_is_referred_to() {
    for document in [openapi::document(&samples()), asyncapi::document(&samples())] {
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        for reference in &references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for kind in ["schemas", "responses", "parameters", "headers", "messages"] {
            for name in document["components"][kind]
                .as_object()
                .into_iter()
                .flat_map(|all| all.keys())
            {
                let reference = format!("#/components/{kind}/{name}");
                assert!(references.contains(&reference), "nobody refers to {reference}");
            }
        }
    }
}

/// What an operation may answer is closed: a status that is not documented is a fault to whoever tests by the document.
#[test]
fn every_operation_says_what_else_it_may_answer() {
    let document = openapi::document(&samples());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let mut least = vec![
                "400", "404", "405", "406", "408", "413", "414", "429", "431", "500", "503",
            ];
            if operation.get("security") != Some(&json!([])) {
                least.extend(["401", "403", "415", "422"]);
            }
            if method == "post" {
                least.push("409");
            }
            for status in least {
                assert!(
                    responses.contains_key(status),
                    "{method} {path} does not document {status}"
                );
            }
        }
    }
}

fn collect(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                into.insert(reference.clone());
            }
            fields.values().for_each(|field| collect(field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        _ => {}
    }
}

/// Compares a file with what it should be, or writes it.
fn hold(path: &str, text: &str) {
    let file = repository().join(path);
    if std::env::var_os("KASSA_UPDATE_SCHEMAS").is_some_and(|value| value == "1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == text,
        "{path} is not what the types say: run this test with KASSA_UPDATE_SCHEMAS=1 and read the diff"
    );
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn samples() -> Samples {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let mut samples = Samples::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                samples.insert(
                    name,
                    serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap(),
                );
            }
        }
    }
    samples
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

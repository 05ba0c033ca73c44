//! Is what we publish today still what we promised, and can every message ever published still be read?
//!
//! `KASSA_UPDATE_SCHEMAS=1` rewrites `schemas/`. Nothing rewrites `samples/`: they are added, never edited.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its own files has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use kassa_events_schema::envelope::BYTES_MAX;
use kassa_events_schema::{
    Aggregate, CATALOGUE, Envelope, EnvelopeError, EventMeta, INTERNAL, PublishedEvent, api, order, schema,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

#[test]
fn the_schema_files_are_what_the_types_say() {
    let folder = folder("schemas");
    let update = std::env::var_os("KASSA_UPDATE_SCHEMAS").is_some_and(|value| value == "1");
    let mut generated = BTreeSet::new();
    for document in schema::documents() {
        let text = pretty(&document.schema);
        let path = folder.join(&document.path);
        if update {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is not what the types say: run this test with KASSA_UPDATE_SCHEMAS=1 and read the diff; what breaks a \
             reader needs a new version",
            document.path
        );
        generated.insert(document.path);
    }
    let expected: BTreeSet<_> = catalogued()
        .into_iter()
        .chain(asked_and_answered())
        .chain(["envelope.v1.json".to_owned()])
        .collect();
    assert_eq!(generated, expected, "schemas and catalogue differ");
    assert_eq!(
        files(&folder),
        expected,
        "a schema file has no entry in the catalogue"
    );
}

#[test]
fn every_type_and_version_has_a_golden_sample() {
    let expected: BTreeSet<_> = catalogued().into_iter().chain(asked_and_answered()).collect();
    assert_eq!(files(&folder("samples")), expected);
}

#[test]
fn every_sample_ever_published_is_read_and_written_back_byte_for_byte() {
    for (path, text) in samples() {
        let envelope = Envelope::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let meta = envelope.meta();
        assert_eq!(
            path,
            format!(
                "{}/{}.v{}.json",
                meta.aggregate,
                envelope.event(),
                envelope.version()
            )
        );
        assert_eq!(pretty(&serde_json::to_value(&envelope).unwrap()), text, "{path}");
        let compact = envelope.to_json().unwrap();
        assert_eq!(Envelope::parse(&compact).unwrap(), envelope, "{path}");
        let decoded = envelope
            .decode()
            .unwrap_or_else(|error| panic!("{path}: {error:?}"));
        if envelope.is_internal() {
            assert_eq!((decoded, envelope.data()), (None, None), "{path}");
            assert_eq!(Envelope::internal(meta.clone()).unwrap(), envelope, "{path}");
        } else {
            let event = decoded.unwrap_or_else(|| panic!("{path} is of no known type"));
            assert_eq!(
                pretty(&event.data()),
                pretty(&data_of(&text)),
                "{path}: a field was lost or moved"
            );
            assert_eq!(
                Envelope::published(meta.clone(), &event).unwrap(),
                envelope,
                "{path}"
            );
        }
    }
}

#[test]
fn every_body_and_every_answer_is_read_and_written_back_byte_for_byte() {
    fn check<T: Serialize + DeserializeOwned>(path: &str) {
        let text = fs::read_to_string(folder("samples").join(path)).unwrap();
        let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(pretty(&serde_json::to_value(&read).unwrap()), text, "{path}");
    }
    check::<api::CreateOrder>("commands/create_order.v1.json");
    check::<api::OrderAnswer>("commands/create_order_answer.v1.json");
    check::<api::StartPayment>("commands/start_payment.v1.json");
    check::<api::PaymentAnswer>("commands/start_payment_answer.v1.json");
    check::<api::CancelOrder>("commands/cancel_order.v1.json");
    check::<api::OrderAnswer>("commands/cancel_order_answer.v1.json");
    check::<api::GetOrder>("queries/get_order.v1.json");
    check::<api::OrderView>("queries/get_order_answer.v1.json");
    check::<api::ListOrders>("queries/list_orders.v1.json");
    check::<api::OrderList>("queries/list_orders_answer.v1.json");
    check::<api::GetOrderEvents>("queries/get_order_events.v1.json");
    check::<api::OrderEvents>("queries/get_order_events_answer.v1.json");
    check::<api::ExplainOrder>("queries/explain_order.v1.json");
    check::<api::Explanation>("queries/explain_order_answer.v1.json");
    check::<api::ListMethods>("queries/list_methods.v1.json");
    check::<api::MethodList>("queries/list_methods_answer.v1.json");
    check::<api::Problem>("problem.v1.json");
}

#[test]
fn every_body_and_every_answer_is_valid_by_its_schema() {
    let schemas = validators();
    for path in asked_and_answered() {
        let text = fs::read_to_string(folder("samples").join(&path)).unwrap();
        assert_valid(&schemas[&path], &serde_json::from_str(&text).unwrap(), &path);
    }
}

/// What is refused at the door is refused by the published schema too, so that a caller can know before.
#[test]
fn a_wrong_body_is_refused_by_its_schema() {
    let schemas = validators();
    for (path, pointer, wrong) in [
        ("commands/create_order.v1.json", "/order_reference", json!("A 1")),
        ("commands/create_order.v1.json", "/order_reference", json!("")),
        (
            "commands/create_order.v1.json",
            "/description",
            json!("two\nlines"),
        ),
        ("commands/create_order.v1.json", "/amount", json!([4995, "EUR"])),
        ("commands/create_order.v1.json", "/amount/value", json!(0)),
        (
            "commands/create_order.v1.json",
            "/amount/value",
            json!(2_147_483_648_i64),
        ),
        ("commands/create_order.v1.json", "/amount/value", json!(49.95)),
        ("commands/create_order.v1.json", "/amount/currency", json!("JPY")),
        ("commands/create_order.v1.json", "/country", json!("XK")),
        ("commands/create_order.v1.json", "/shopper/email", json!("nobody")),
        ("commands/create_order.v1.json", "/shopper/email", json!("a@b@c")),
        ("commands/create_order.v1.json", "/shopper/first_name", json!("")),
        (
            "commands/create_order.v1.json",
            "/return_url",
            json!("javascript:alert(1)"),
        ),
        (
            "commands/create_order.v1.json",
            "/metadata",
            json!({"Channel": "web"}),
        ),
        (
            "commands/create_order.v1.json",
            "/metadata",
            json!({"channel": "x".repeat(201)}),
        ),
        (
            "commands/create_order.v1.json",
            "/metadata",
            json!({"channel": 1}),
        ),
        ("commands/start_payment.v1.json", "/order_id", json!("pay_01")),
        ("commands/start_payment.v1.json", "/method", json!("iDEAL")),
        ("commands/cancel_order.v1.json", "/reason", json!("x".repeat(256))),
        ("queries/get_order.v1.json", "/min_position", json!("41993")),
        ("queries/list_orders.v1.json", "/status", json!("lost")),
        ("queries/list_orders.v1.json", "/limit", json!(201)),
        ("queries/list_methods.v1.json", "/country", json!("nl")),
    ] {
        let text = fs::read_to_string(folder("samples").join(path)).unwrap();
        let mut body: Value = serde_json::from_str(&text).unwrap();
        *body.pointer_mut(pointer).unwrap() = wrong.clone();
        assert!(!schemas[path].is_valid(&body), "{path} takes {pointer} = {wrong}");
    }
    for verb in api::VERBS {
        let path = verb.request_path();
        let text = fs::read_to_string(folder("samples").join(&path)).unwrap();
        let mut body: Value = serde_json::from_str(&text).unwrap();
        body["amuont"] = json!(1);
        assert!(!schemas[&path].is_valid(&body), "{path} takes a misspelt field");
    }
    let order = &schemas["queries/get_order.v1.json"];
    assert!(!order.is_valid(&json!({})), "get_order of nothing");
    let both = json!({"order_id": "ord_01", "order_reference": "A-1"});
    assert!(!order.is_valid(&both), "get_order of two things");
}

#[test]
fn every_sample_is_valid_by_the_schemas() {
    let schemas = validators();
    for (path, text) in samples() {
        let message: Value = serde_json::from_str(&text).unwrap();
        assert_valid(&schemas["envelope.v1.json"], &message, &path);
        let schema = message["dataschema"]
            .as_str()
            .unwrap()
            .trim_start_matches("/schemas/");
        assert_eq!(schema, path);
        match message.get("data") {
            Some(data) => assert_valid(&schemas[schema], data, &path),
            None => assert!(path.ends_with("/internal.v1.json"), "{path} has no data"),
        }
    }
}

#[test]
fn a_wrong_message_is_refused_by_the_schemas_and_by_the_reader() {
    let schemas = validators();
    let samples = samples();
    let right: Value = serde_json::from_str(&samples["order/payment_safe.v1.json"]).unwrap();
    let (envelope, data) = (
        &schemas["envelope.v1.json"],
        &schemas["order/payment_safe.v1.json"],
    );
    let verdicts = |message: &Value| {
        let schema =
            envelope.is_valid(message) && message.get("data").is_some_and(|found| data.is_valid(found));
        let text = serde_json::to_vec(message).unwrap();
        let reader = Envelope::parse(&text)
            .and_then(|envelope| envelope.decode())
            .is_ok_and(|event| event.is_some());
        (schema, reader)
    };
    assert_eq!(verdicts(&right), (true, true));
    for (pointer, wrong) in [
        ("/specversion", json!("0.3")),
        ("/id", json!("7")),
        ("/source", json!("/kassa/00/brekz-nl")),
        ("/source", json!("/kassa/0/Brekz")),
        ("/type", json!("kassa.order.payment_safe")),
        ("/type", json!("kassa.order.payment_safe.v01")),
        ("/subject", json!("order/BRZ-2026-100234")),
        ("/time", json!("yesterday")),
        ("/sequence", json!("42")),
        ("/sequence", json!(42)),
        ("/aggregateversion", json!(0)),
        ("/causationid", json!("")),
        ("/livemode", json!("no")),
        ("/data/order_id", json!("ord_!")),
        ("/data/order_id", json!("pay_5k3m01kb2m905wj3cgy8a2p1mztg")),
        ("/data/epoch", json!(0)),
        ("/data/epoch", json!(1.5)),
        ("/data/amount", json!(4995)),
        ("/data/amount/value", json!(49.95)),
        ("/data/amount/value", json!("4995")),
        ("/data/amount/currency", json!("euro")),
        ("/data/evidence/tolerance_minor", json!(-1)),
        ("/data/evidence/counted/value", json!(9_007_199_254_740_992_i64)),
        ("/data/evidence/payments", json!({})),
        (
            "/data/evidence/payments/0/payment_id",
            json!("ord_5k3m01kb2m8x4r7fezd9t6hqnvsg"),
        ),
        ("/data/evidence", json!({})),
        ("/data", json!([])),
    ] {
        let mut message = right.clone();
        *message.pointer_mut(pointer).unwrap() = wrong.clone();
        assert_eq!(verdicts(&message), (false, false), "{pointer} = {wrong}");
    }
    for required in right.as_object().unwrap().keys() {
        let mut message = right.clone();
        message.as_object_mut().unwrap().remove(required);
        assert_eq!(verdicts(&message), (false, false), "without {required}");
    }
    for required in right["data"].as_object().unwrap().keys() {
        let mut message = right.clone();
        message["data"].as_object_mut().unwrap().remove(required);
        assert_eq!(verdicts(&message), (false, false), "without data.{required}");
    }
}

/// What no schema of one document can say: that attributes, and the data, agree with each other.
#[test]
fn a_message_that_contradicts_itself_is_refused() {
    let right: Value = serde_json::from_str(&samples()["order/payment_safe.v1.json"]).unwrap();
    for (pointer, wrong) in [
        ("/partitionkey", "ord_5k3m01kb2m8x4r7fezd9t6hqnvs0"),
        ("/subject", "order/ord_5k3m01kb2m8x4r7fezd9t6hqnvs0"),
        ("/subject", "payment/ord_5k3m01kb2m8x4r7fezd9t6hqnvsg"),
        ("/dataschema", "/schemas/order/paid.v1.json"),
        ("/type", "kassa.order.paid.v1"),
        ("/type", "kassa.order.internal.v1"),
        ("/data/order_id", "ord_5k3m01kb2m8x4r7fezd9t6hqnvs0"),
    ] {
        let mut message = right.clone();
        *message.pointer_mut(pointer).unwrap() = json!(wrong);
        let text = serde_json::to_vec(&message).unwrap();
        let read = Envelope::parse(&text).and_then(|envelope| envelope.decode());
        assert!(read.is_err(), "{pointer} = {wrong} was read as {read:?}");
    }
    let twice = right
        .to_string()
        .replacen('{', r#"{"sequence":"00000000000000000001","#, 1);
    assert!(
        matches!(
            Envelope::parse(twice.as_bytes()),
            Err(EnvelopeError::Unreadable(_))
        ),
        "an attribute came twice"
    );
}

#[test]
fn a_reader_survives_what_was_added_later() {
    let mut message: Value = serde_json::from_str(&samples()["order/payment_safe.v1.json"]).unwrap();
    message["traceparent"] = json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    message["authtype"] = json!("robot");
    message["data"]["gift_wrap"] = json!(true);
    message["data"]["amount"]["exponent"] = json!(2);
    message["data"]["evidence"]["level"] = json!("safer");
    message["data"]["evidence"]["route"] = json!("pledged");
    let envelope = Envelope::parse(&serde_json::to_vec(&message).unwrap()).unwrap();
    let Some(PublishedEvent::OrderPaymentSafe(safe)) = envelope.decode().unwrap() else {
        panic!("not read as payment_safe")
    };
    assert_eq!(safe.evidence.level.as_str(), "safer");
    assert_eq!(safe.amount.value, 4995);

    message["type"] = json!("kassa.order.payment_safe.v2");
    message["dataschema"] = json!("/schemas/order/payment_safe.v2.json");
    let later = Envelope::parse(&serde_json::to_vec(&message).unwrap()).unwrap();
    assert_eq!(later.decode().unwrap(), None);
    assert!(!later.is_internal());
}

#[test]
fn an_envelope_is_about_the_order_that_its_row_is_about() {
    let (meta, event) = payment_safe();
    let other_order = EventMeta {
        aggregate_id: "ord_01".to_owned(),
        ..meta.clone()
    };
    let payment = EventMeta {
        aggregate: Aggregate::Payment,
        aggregate_id: "pay_01".to_owned(),
        ..meta.clone()
    };
    let unknown_shop = EventMeta {
        shop: "Brekz BV".to_owned(),
        ..meta.clone()
    };
    assert!(Envelope::published(meta.clone(), &event).is_ok());
    for wrong in [other_order, payment, unknown_shop] {
        assert!(Envelope::published(wrong.clone(), &event).is_err(), "{wrong:?}");
    }
    for wrong in [
        EventMeta {
            event_id: "1".to_owned(),
            ..meta.clone()
        },
        EventMeta {
            position: 0,
            ..meta.clone()
        },
        EventMeta {
            aggregate_version: 0,
            ..meta.clone()
        },
        EventMeta {
            auth_id: String::new(),
            ..meta.clone()
        },
        EventMeta {
            causation_id: "two words".to_owned(),
            ..meta
        },
    ] {
        assert!(matches!(
            Envelope::published(wrong, &event),
            Err(EnvelopeError::Attribute { .. })
        ));
    }
}

#[test]
fn an_envelope_larger_than_64_kib_is_neither_sent_nor_read() {
    let (meta, PublishedEvent::OrderPaymentSafe(mut safe)) = payment_safe() else {
        unreachable!("made below")
    };
    let payment = safe.evidence.payments[0].clone();
    let wrap = |safe: &order::PaymentSafe| Envelope::published(meta.clone(), &safe.clone().into()).unwrap();
    while serde_json::to_vec(&wrap(&safe)).unwrap().len() <= BYTES_MAX {
        assert!(wrap(&safe).to_json().is_ok());
        safe.evidence
            .payments
            .extend(std::iter::repeat_n(payment.clone(), 50));
    }
    assert!(matches!(
        wrap(&safe).to_json(),
        Err(EnvelopeError::TooLarge { .. })
    ));
    let text = serde_json::to_vec(&wrap(&safe)).unwrap();
    assert!(matches!(
        Envelope::parse(&text),
        Err(EnvelopeError::TooLarge { .. })
    ));
}

#[test]
fn headers_repeat_the_envelope() {
    let (meta, event) = payment_safe();
    let envelope = Envelope::published(meta, &event).unwrap();
    let headers = BTreeMap::from(envelope.headers());
    let body = serde_json::to_value(&envelope).unwrap();
    for (header, attribute) in [
        ("Nats-Msg-Id", "id"),
        ("ce-id", "id"),
        ("ce-type", "type"),
        ("ce-source", "source"),
        ("ce-subject", "subject"),
        ("ce-time", "time"),
    ] {
        assert_eq!(
            Some(headers[header].as_str()),
            body[attribute].as_str(),
            "{header}"
        );
    }
    assert_eq!(
        headers["Content-Type"],
        "application/cloudevents+json; charset=utf-8"
    );
    assert_eq!(
        envelope.nats_subject().to_string(),
        "kassa.evt.0.brekz-nl.order.ord_5k3m01kb2m8x4r7fezd9t6hqnvsg.payment_safe"
    );
}

fn payment_safe() -> (EventMeta, PublishedEvent) {
    let envelope = Envelope::parse(samples()["order/payment_safe.v1.json"].as_bytes()).unwrap();
    (envelope.meta().clone(), envelope.decode().unwrap().unwrap())
}

#[test]
fn every_refusal_in_the_code_is_registered_and_has_the_registrys_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = BTreeSet::new();
    for part in ["events-schema/src", "services"] {
        let part = root.join(part);
        for path in files(&part).into_iter().filter(|path| path.ends_with(".rs")) {
            let text = fs::read_to_string(part.join(&path)).unwrap();
            for made in text.split("::of(").skip(1) {
                // Where a variable is given, its value stands elsewhere: `Problem::of` itself looks at it.
                let Some(code) = made.trim_start().strip_prefix('"') else {
                    continue;
                };
                let code = code.split('"').next().unwrap_or_default();
                assert!(
                    api::problems::problem_type(code).is_some(),
                    "{path}: {code} is not in the registry of problems"
                );
                named.insert(code.to_owned());
            }
            for own in ["problem.title = ", "problem.status = ", "problem.code = "] {
                assert!(!text.contains(own), "{path}: {own}… is the registry's to say");
            }
        }
    }
    assert!(named.len() > 15, "the places were not found: {named:?}");
    for known in api::PROBLEMS {
        let problem = api::Problem::of(known.code, "detail", "hint");
        assert_eq!(
            (problem.status, problem.title.as_str()),
            (known.status, known.title)
        );
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Files below a folder, as `order/paid.v1.json`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// What must have a file: each catalogue entry, and `internal` per family.
fn catalogued() -> BTreeSet<String> {
    let published = CATALOGUE
        .iter()
        .map(|entry| format!("{}/{}.v{}.json", entry.aggregate, entry.token, entry.version));
    let internal = Aggregate::KNOWN
        .iter()
        .map(|aggregate| format!("{aggregate}/{INTERNAL}.v1.json"));
    published.chain(internal).collect()
}

/// Body and answer of every verb, and the problem document.
fn asked_and_answered() -> BTreeSet<String> {
    api::VERBS
        .iter()
        .flat_map(|verb| [verb.request_path(), verb.answer_path()])
        .chain(["problem.v1.json".to_owned()])
        .collect()
}

/// Of events.
fn samples() -> BTreeMap<String, String> {
    let folder = folder("samples");
    let asked = asked_and_answered();
    files(&folder)
        .into_iter()
        .filter(|path| !asked.contains(path))
        .map(|path| (path.clone(), fs::read_to_string(folder.join(path)).unwrap()))
        .collect()
}

fn data_of(sample: &str) -> Value {
    serde_json::from_str::<Value>(sample).unwrap()["data"].take()
}

/// By the generated schemas, which the drift test holds equal to the files (and may be rewriting right now).
fn validators() -> BTreeMap<String, Validator> {
    let build = |document: schema::Document| {
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        let validator = options
            .build(&document.schema)
            .unwrap_or_else(|error| panic!("{}: {error}", document.path));
        (document.path, validator)
    };
    schema::documents().into_iter().map(build).collect()
}

fn assert_valid(schema: &Validator, value: &Value, what: &str) {
    let errors: Vec<_> = schema
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

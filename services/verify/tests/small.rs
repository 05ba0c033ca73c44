//! What does the checker say of an export that has little in it? (Whole runs are checked in `tests/`, by `verify.rs`.)

use std::path::Path;

use kassa_verify::{TABLE, check, compare, economy};
use serde_json::{Value, json};

const ORDER: &str = "ord_p6rg29pzj1vn6a4282w39drs9b20";
const STREAM: &str = "b1b1b1b1-0000-5000-8000-000000000001";

/// An order that was made, `version` being what its row says.
fn created(version: i64) -> Value {
    json!({
        "part": 0, "position": version, "stream_id": STREAM, "version": version,
        "event_id": format!("b1b1b1b1-0000-5000-8000-0000000001{version:02}"), "shop": "demo-shop",
        "aggregate_type": "order", "aggregate_id": ORDER, "event_type": "OrderCreated", "schema_version": 1,
        "recorded_at": "2026-11-24T10:00:00.000001Z",
        "payload": { "OrderCreated": {
            "order_id": ORDER, "shop": "demo-shop", "order_reference": "A-1", "description": "Dog food",
            "amount": { "value": 4995, "currency": "EUR" }, "country": "NL", "language": "nl",
            "shopper_id": "shp_p6rg29pzj1vn6a4282w39drs9b20", "return_url": "https://shop.example/return",
        } },
        "metadata": {
            "command_id": "fdbe31c3-ad31-5ddc-8194-855ee3e510ce", "causation_id": "fdbe31c3-ad31-5ddc-8194-855ee3e510ce",
            "correlation_id": ORDER, "auth_type": "api_key", "auth_id": "demo-shop",
        },
    })
}

fn canceled() -> Value {
    let mut event = created(2);
    event["event_type"] = json!("OrderCanceled");
    event["payload"] = json!({ "OrderCanceled": { "at": "2026-11-24T10:01:00Z" } });
    event
}

fn export(dir: &Path, events: &[Value]) {
    let meta = json!({ "format": 1, "exported_at": "2026-11-24T11:00:00Z", "quiescent": true });
    std::fs::write(dir.join("meta.json"), meta.to_string()).expect("it can be written");
    let text: String = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(dir.join("events.ndjson"), text).expect("it can be written");
}

#[test]
fn what_is_missing_is_told_and_what_has_no_facts_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    export(dir.path(), &[created(1)]);
    let report = check(dir.path()).expect("an export");
    assert!(!report.failed(), "{}", report.to_table());
    assert_eq!(report.checked.len() + report.not_checked.len(), TABLE.len());
    let facts = |id: &str| {
        report
            .checked
            .iter()
            .find(|one| one.id == id)
            .map(|one| one.facts)
    };
    assert_eq!(
        (facts("I-30"), facts("I-51"), facts("I-11")),
        (Some(1), Some(0), None)
    );
    let reason = report.not_checked.iter().find(|not| not.id == "I-11");
    assert!(reason.is_some_and(|not| not.reason.starts_with("ledger.ndjson is missing")));
}

#[test]
fn a_gap_is_told_with_its_row_and_fails_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    export(dir.path(), &[created(2)]);
    let report = check(dir.path()).expect("an export");
    assert!(report.failed());
    assert_eq!(report.violated(), ["I-30"]);
    assert_eq!(report.violations[0].evidence, ["events.ndjson:1"]);
}

#[test]
fn a_folder_that_is_no_export_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = check(dir.path()).expect_err("nothing is there");
    assert!(
        error
            .to_string()
            .contains("give a folder that kassa export wrote"),
        "{error}"
    );
    export(dir.path(), &[json!({ "part": 0 })]);
    let error = check(dir.path()).expect_err("a line is not an event");
    assert!(error.to_string().contains("events.ndjson line 1"), "{error}");
    std::fs::write(
        dir.path().join("meta.json"),
        r#"{"format":2,"exported_at":"2026-11-24T11:00:00Z"}"#,
    )
    .expect("it can be written");
    let error = check(dir.path()).expect_err("of the future");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn two_runs_are_compared_order_by_order() {
    let [left, right, less] = std::array::from_fn(|_| tempfile::tempdir().expect("a folder"));
    export(left.path(), &[created(1)]);
    export(right.path(), &[created(1), canceled()]);
    export(less.path(), &[]);
    let of = |dir: &tempfile::TempDir| economy(dir.path()).expect("an export");
    let told: Vec<_> = compare(&of(&left), &of(&right))
        .into_iter()
        .map(|one| (one.order, one.field, one.left, one.right))
        .collect();
    let text = ToOwned::to_owned;
    assert_eq!(
        told,
        [(text("demo-shop/A-1"), "status", text("open"), text("canceled"))]
    );
    assert_eq!(compare(&of(&left), &of(&less))[0].right, "missing");
    assert_eq!(compare(&of(&left), &of(&left)), []);
}

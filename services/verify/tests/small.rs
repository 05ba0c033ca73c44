//! What does the checker say of an export that has little in it? (Whole runs are checked in `tests/`, by `verify.rs`.)

use std::path::Path;

use kassa_verify::{TABLE, Yardstick, check, check_by, compare, economy};
use serde_json::{Value, json};

const ORDER: &str = "ord_p6rg29pzj1vn6a4282w39drs9b20";
const STREAM: &str = "b1b1b1b1-0000-5000-8000-000000000001";
const PAYMENT: &str = "pay_p6rg29pzj1vn6a4282w39drs9b20";
const ITS_STREAM: &str = "b1b1b1b1-0000-5000-8000-000000000002";

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
    export_as(dir, json!({}), events);
}

/// With more in its `meta.json`.
fn export_as(dir: &Path, more: Value, events: &[Value]) {
    let mut meta = json!({ "format": 1, "exported_at": "2026-11-24T11:00:00Z", "quiescent": true });
    let (known, more) = (meta.as_object_mut(), more.as_object().cloned());
    known.expect("an object").extend(more.expect("an object"));
    std::fs::write(dir.join("meta.json"), meta.to_string()).expect("it can be written");
    rows(dir, "events.ndjson", events);
}

fn rows(dir: &Path, file: &str, rows: &[Value]) {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(dir.join(file), text).expect("it can be written");
}

/// An order with one attempt, with these facts of the one and the other, in the order in which they were stored.
fn story(facts: &[(&str, Value)]) -> Vec<Value> {
    let opened = [
        (
            "order",
            json!({ "AttemptOpened": { "payment_id": PAYMENT, "method": "ideal", "number": 1 } }),
        ),
        (
            "payment",
            json!({ "PaymentStarted": {
                "payment_id": PAYMENT, "order_id": ORDER, "shop": "demo-shop", "method": "ideal",
                "amount": { "value": 4995, "currency": "EUR" }, "number": 1, "expires_at": "2026-11-24T10:15:00Z",
            } }),
        ),
    ];
    let mut events = vec![created(1)];
    let mut versions = [1, 0];
    for (aggregate, payload) in opened.iter().chain(facts) {
        let of_order = *aggregate == "order";
        let version = &mut versions[usize::from(!of_order)];
        *version += 1;
        let position = events.len() + 1;
        let mut event = created(1);
        event["position"] = json!(position);
        event["version"] = json!(*version);
        event["event_id"] = json!(format!("b1b1b1b1-0000-5000-8000-0000000002{position:02}"));
        event["aggregate_type"] = json!(aggregate);
        event["aggregate_id"] = json!(if of_order { ORDER } else { PAYMENT });
        event["stream_id"] = json!(if of_order { STREAM } else { ITS_STREAM });
        event["recorded_at"] = json!(format!("2026-11-24T10:00:{position:02}Z"));
        let kind = payload.as_object().and_then(|payload| payload.keys().next());
        event["event_type"] = json!(kind.expect("one kind"));
        event["payload"] = payload.clone();
        events.push(event);
    }
    events
}

/// An order was asked for, and its answer did not come; another was, and its answer did.
fn two_creates() -> Vec<(&'static str, Value)> {
    let asked = |attempt: u32, reference: &str| {
        json!({ "ProviderCallAttempted": {
            "operation": "create_order", "attempt": attempt, "reference": reference, "deadline": "2026-11-24T10:01:00Z",
        } })
    };
    vec![
        ("payment", asked(1, "A-1")),
        (
            "payment",
            json!({ "ProviderOutcomeUnknown": {
                "operation": "create_order", "attempt": 1, "class": "worker_lost", "deadline": "2026-11-24T10:01:00Z",
            } }),
        ),
        ("payment", asked(2, "A-1~1.2")),
        (
            "payment",
            json!({ "ProviderOutcomeResolved": {
                "operation": "create_order", "attempt": 2, "resolution": "happened", "provider_payment_id": null,
            } }),
        ),
    ]
}

/// The late answer to the first.
fn registered_first() -> (&'static str, Value) {
    (
        "order",
        json!({ "ProviderOrderRegistered": { "order_key": "KEY1", "menu_url": "https://cm.example/menu", "reference": "A-1" } }),
    )
}

fn ledger_row(n: u64, op: &str, reference: &str, key: &str) -> Value {
    json!({ "n": n, "t": format!("2026-11-24T10:00:{:02}Z", n + 10), "kind": "effect", "op": op,
        "reference": reference, "order_key": key })
}

/// The violated invariants of a run with two creates.
fn violated(facts: &[(&str, Value)], more: &[Value]) -> Vec<&'static str> {
    let dir = tempfile::tempdir().expect("a folder");
    export(dir.path(), &story(facts));
    let mut ledger = vec![
        ledger_row(1, "create", "A-1", "KEY1"),
        ledger_row(2, "create", "A-1~1.2", "KEY2"),
    ];
    ledger.extend_from_slice(more);
    rows(dir.path(), "ledger.ndjson", &ledger);
    let report = check(dir.path()).expect("an export");
    report.violated()
}

#[test]
fn an_order_that_was_told_too_late_is_a_ghost_and_one_that_nobody_took_is_not() {
    let facts = two_creates();
    assert_eq!(violated(&facts, &[]), ["I-53"], "no key at all");
    let mut beaten = facts.clone();
    beaten.insert(3, registered_first());
    assert_eq!(violated(&beaten, &[]), Vec::<&str>::new());
    let mut late = facts;
    late.push(registered_first());
    assert_eq!(violated(&late, &[]), ["I-53"], "nothing was there to take first");
    let haunted = ledger_row(3, "menu_start", "A-1~1.2", "KEY2");
    assert_eq!(violated(&beaten, &[haunted]), ["I-01", "I-53"]);
}

#[test]
fn the_judged_has_no_say_in_what_it_is_judged_by() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = json!({ "tolerance_minor": 100, "safe_levels": ["FAST", "SAFE"] });
    export_as(dir.path(), own, &[created(1)]);
    assert_eq!(check(dir.path()).expect("an export").violated(), ["I-12", "I-14"]);
    let agreed = Yardstick {
        tolerance_minor: 100,
        safe_levels: vec!["SAFE".to_owned(), "FAST".to_owned()],
    };
    let report = check_by(dir.path(), None, agreed).expect("an export");
    assert_eq!(report.violated(), Vec::<&str>::new());
}

#[test]
fn what_nothing_was_held_against_is_no_pass() {
    let dir = tempfile::tempdir().expect("a folder");
    export(dir.path(), &[created(1)]);
    let report = check(dir.path()).expect("an export");
    assert_eq!(report.unproven(&["I-30", "I-51", "I-11"]), ["I-51", "I-11"]);
    let table = report.to_table();
    let last = table.lines().last().expect("a verdict");
    let proven = report.checked.iter().filter(|one| one.facts > 0).count();
    let told = format!("no S1 and no S2 in {proven} of {} invariants; ", TABLE.len());
    assert!(last.starts_with(&told) && last.ends_with("of them S1)"), "{last}");
}

#[test]
fn an_export_that_was_cut_or_not_finished_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    export_as(
        dir.path(),
        json!({ "rows": { "events.ndjson": 2 } }),
        &[created(1), canceled()],
    );
    assert!(!check(dir.path()).expect("an export").failed());
    rows(dir.path(), "events.ndjson", &[created(1)]);
    let told = |dir: &Path| check(dir).expect_err("it is not whole").to_string();
    let why = told(dir.path());
    assert!(
        why.starts_with("events.ndjson has 1 rows and 2 were exported"),
        "{why}"
    );
    rows(dir.path(), "events.ndjson", &[]);
    assert!(told(dir.path()).contains("has 0 rows"));
    export_as(dir.path(), json!({ "rows": { "bus.ndjson": 0 } }), &[created(1)]);
    assert!(told(dir.path()).starts_with("bus.ndjson was exported, and is not there"));
    std::fs::remove_file(dir.path().join("meta.json")).expect("it was there");
    assert!(told(dir.path()).contains("the export was not finished"));
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

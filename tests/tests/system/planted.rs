//! What does each kind of wrong look like in an export? One or more plants an invariant, put into a copy of a healthy run; each
//! leaves everything else as it was, so that exactly that invariant is violated, or those that say the same of it.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

/// The files of an export, a row a value.
#[derive(Clone)]
pub(crate) struct Export(BTreeMap<String, Vec<Value>>);

pub(crate) type PlantFn = fn(&mut Export);

impl Export {
    pub(crate) fn read(dir: &Path) -> Self {
        let files = std::fs::read_dir(dir).expect("it was exported");
        let files = files.map(|entry| {
            let entry = entry.expect("it can be read");
            let text = std::fs::read_to_string(entry.path()).expect("text");
            let rows = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
            (entry.file_name().to_string_lossy().into_owned(), rows.collect())
        });
        Self(files.collect())
    }

    /// As if it had been exported like this: no file is shorter than it was written.
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::create_dir(dir).expect("it is not there yet");
        let mut files = self.0.clone();
        let lengths: BTreeMap<_, _> = files
            .iter()
            .map(|(name, rows)| (name.clone(), rows.len()))
            .collect();
        let meta = &mut files.get_mut("meta.json").expect("it was finished")[0];
        for (name, rows) in meta["rows"].as_object_mut().expect("the export counts its rows") {
            *rows = json!(lengths[name]);
        }
        for (name, rows) in &files {
            let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
            std::fs::write(dir.join(name), text).expect("it can be written");
        }
    }

    fn file(&mut self, name: &str) -> &mut Vec<Value> {
        self.0.get_mut(name).expect("the healthy run has this file")
    }

    fn rows(&self, name: &str) -> &[Value] {
        &self.0[name]
    }

    /// The id of a story's order.
    fn order(&self, scenario: &str) -> String {
        let reference = format!("V-{}", scenario.replace('/', "-"));
        let created = self
            .rows("events.ndjson")
            .iter()
            .find(|event| event["payload"]["OrderCreated"]["order_reference"].as_str() == Some(&reference));
        text(&created.expect("the story was played")["aggregate_id"])
    }

    /// What CM calls it.
    fn key(&self, scenario: &str) -> String {
        let order = self.order(scenario);
        let registered = self.rows("events.ndjson").iter().find(|event| {
            event["aggregate_id"] == *order && event["event_type"] == "ProviderOrderRegistered"
        });
        text(&registered.expect("it was paid")["payload"]["ProviderOrderRegistered"]["order_key"])
    }

    /// Changes the first event that fits, in the earlier export too: it was so from the beginning.
    fn event(&mut self, fits: impl Fn(&Value) -> bool, change: impl Fn(&mut Value)) {
        let found = self.file("events.ndjson").iter_mut().find(|event| fits(event));
        let event = found.expect("the healthy run has such an event");
        let id = event["event_id"].clone();
        change(event);
        let earlier = self.file("events.earlier.ndjson").iter_mut();
        earlier.filter(|event| event["event_id"] == id).for_each(change);
    }

    /// Changes an event of an order or of its payment.
    fn event_of(&mut self, scenario: &str, kind: &str, change: impl Fn(&mut Value)) {
        let order = self.order(scenario);
        let of_it =
            move |event: &Value| event["event_type"] == kind && event["metadata"]["correlation_id"] == *order;
        self.event(of_it, change);
    }

    /// Changes everything that the provider ever said or held of an order, and what was stored of it and its payments: a lie that
    /// everybody believes.
    fn everywhere(&mut self, scenario: &str, shows: impl Fn(&mut Value), stored: impl Fn(&mut Value)) {
        let (order, key) = (self.order(scenario), self.key(scenario));
        let rows = self.file("ledger.ndjson").iter_mut();
        for row in rows.filter(|row| row["order_key"] == *key && row["shows"].is_object()) {
            shows(&mut row["shows"]);
        }
        for file in ["events.ndjson", "events.earlier.ndjson"] {
            let rows = self.file(file).iter_mut();
            for event in rows.filter(|event| event["metadata"]["correlation_id"] == *order) {
                stored(&mut event["payload"]);
            }
        }
    }

    /// A ledger row of an order, to be changed and put at the end.
    fn ledger_row(&self, scenario: &str, kind: &str, op: &str) -> Value {
        let key = self.key(scenario);
        let row = self
            .rows("ledger.ndjson")
            .iter()
            .find(|row| row["order_key"] == *key && row["kind"] == kind && row["op"] == op);
        row.unwrap_or_else(|| panic!("the healthy run has a row {kind} {op}"))
            .clone()
    }

    /// Puts a read before the one that this is the answer to: answered as well, by what `answer` shows.
    fn read_before(&mut self, mut answer: Value) {
        let rows = self.file("ledger.ndjson");
        let place = rows.iter().position(|row| row["n"] == answer["request"]);
        let place = place.expect("it was asked for");
        let asked = rows[place].clone();
        answer["n"] = asked["n"].clone();
        rows.splice(place..place, [asked, answer]);
    }

    /// Puts a row at the end of the ledger; its moment stays, unless it is given.
    fn push(&mut self, mut row: Value) {
        let rows = self.file("ledger.ndjson");
        row["n"] = json!(rows.len() + 1);
        rows.push(row);
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn without_what_it_shows(mut row: Value) -> Value {
    row.as_object_mut().expect("a row").remove("shows");
    row
}

const PAID: &str = "ideal/success";
/// Canceled, and then paid: more than one report was taken in.
const SECOND_TRY: &str = "ideal/cancel";

/// By invariant, at least one each; where it is as wrong by another, both.
pub(crate) const PLANTS: &[(&str, PlantFn)] = &[
    // The order whose key was lost is paid in the menu after all.
    ("I-01 I-53", |export| {
        let known = export.key("any/create_timeout_after_effect");
        let reference = "V-any-create_timeout_after_effect";
        let ghost = export.rows("ledger.ndjson").iter().find(|row| {
            row["kind"] == "effect"
                && row["op"] == "create"
                && row["reference"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(reference))
                && row["order_key"] != *known
        });
        let mut row = without_what_it_shows(ghost.expect("its answer was lost").clone());
        row["op"] = json!("menu_start");
        export.push(row);
    }),
    ("I-02", |export| {
        let mut row = without_what_it_shows(export.ledger_row(PAID, "effect", "start"));
        row["payment_id"] = json!("pid4999999999t");
        export.push(row);
    }),
    ("I-03", |export| {
        export.event_of(PAID, "AttemptOpened", |event| {
            event["recorded_at"] = json!("2199-01-01T00:00:00Z");
        });
    }),
    // The first try may still bring money, and a second was begun.
    ("I-03 I-34", |export| {
        export.event_of(SECOND_TRY, "AttemptClosed", |event| {
            event["payload"]["AttemptClosed"]["closing"] = json!("authorized");
        });
    }),
    ("I-04", |export| {
        let row = export.ledger_row(PAID, "request", "start");
        export.push(row);
    }),
    // A report of another order was believed.
    ("I-06", |export| {
        export.event_of(PAID, "ProviderReportObserved", |event| {
            event["payload"]["ProviderReportObserved"]["report"]["reference"] = json!("somebody-elses");
        });
    }),
    ("I-10", |export| {
        let rows = export.file("shipment.ndjson");
        let release = rows
            .iter()
            .find(|row| row["what"] == "release")
            .expect("one")
            .clone();
        rows.push(release);
    }),
    // Safe at the provider, and forgotten.
    ("I-10", |export| {
        let order = export.order(PAID);
        let rows = export.file("shipment.ndjson");
        rows.retain(|row| row["what"] != "release" || row["order_id"] != *order);
    }),
    ("I-11", |export| {
        let order = export.order("any/level_fast");
        let rows = export.file("shipment.ndjson");
        let mut release = rows
            .iter()
            .find(|row| row["what"] == "release")
            .expect("one")
            .clone();
        release["order_id"] = json!(order);
        release["event_id"] = json!("00000000-0000-5000-8000-000000000001");
        rows.push(release);
    }),
    ("I-11", |export| {
        export.everywhere(
            PAID,
            |shows| shows["level"] = Value::Null,
            |stored| {
                if let Some(report) = stored.pointer_mut("/ProviderReportObserved/report") {
                    report["considered_safe"] = Value::Null;
                }
            },
        );
    }),
    // The provider held it safe, and did not say so when it was asked by the read that is cited.
    ("I-11", |export| {
        let key = export.key(PAID);
        let rows = export.file("ledger.ndjson");
        let says = |row: &Value| row["order_key"] == *key && row["kind"] == "answer" && row["op"] == "status";
        let safe = rows
            .iter()
            .find(|row| says(row) && row["shows"]["level"].is_string());
        let safe = safe.expect("it was held safe").clone();
        for row in rows.iter_mut().filter(|row| says(row)) {
            row["shows"]["level"] = Value::Null;
        }
        export.read_before(safe);
        let order = export.order(PAID);
        for file in ["events.ndjson", "events.earlier.ndjson"] {
            let rows = export.file(file).iter_mut();
            for event in rows.filter(|event| event["aggregate_id"] == *order) {
                if let Some(report) = event.pointer_mut("/payload/ProviderReportObserved/report") {
                    report["considered_safe"] = Value::Null;
                }
            }
        }
    }),
    ("I-12", |export| {
        let rows = export.file("shipment.ndjson").iter_mut();
        let mut releases = rows.filter(|row| row["what"] == "release");
        releases.next().expect("one")["amount"]["value"] = json!(4_900);
    }),
    // Eleven cents too many.
    ("I-12", |export| {
        export.everywhere(
            PAID,
            |shows| payments(shows, "/payments", |payment| payment["amount"] = json!(5_006)),
            |stored| {
                payments(stored, "/ProviderReportObserved/report/payments", |payment| {
                    payment["amount"]["value"] = json!(5_006);
                });
                for told in ["/OrderPaid/paid", "/PaymentAuthorized/amount"] {
                    if let Some(amount) = stored.pointer_mut(told) {
                        amount["value"] = json!(5_006);
                    }
                }
            },
        );
    }),
    // The installation takes more for the same than was agreed.
    ("I-12", |export| {
        export.file("meta.json")[0]["tolerance_minor"] = json!(11)
    }),
    ("I-14", |export| {
        export.file("meta.json")[0]["safe_levels"] = json!(["SAFE", "SAFEST", "FAST"]);
    }),
    // Dollars came on top.
    ("I-13", |export| {
        fn with_another(payments: Option<&mut Value>, dollars: impl Fn(&mut Value)) {
            let payments = payments.and_then(Value::as_array_mut);
            let Some(payments) = payments.filter(|payments| !payments.is_empty()) else {
                return;
            };
            let mut another = payments[0].clone();
            another["id"] = json!("pid4999999998t");
            dollars(&mut another);
            payments.push(another);
        }
        export.everywhere(
            PAID,
            |shows| {
                with_another(shows.pointer_mut("/payments"), |payment| {
                    payment["currency"] = json!("USD");
                });
            },
            |stored| {
                let payments = "/ProviderReportObserved/report/payments";
                with_another(stored.pointer_mut(payments), |payment| {
                    payment["amount"]["currency"] = json!("USD");
                });
            },
        );
    }),
    ("I-14", |export| {
        export.everywhere(
            PAID,
            |shows| {
                if shows["level"].is_string() {
                    shows["level"] = json!("FAST");
                }
            },
            |stored| {
                if let Some(safe) = stored.pointer_mut("/ProviderReportObserved/report/considered_safe")
                    && safe.is_object()
                {
                    safe["level"] = json!("FAST");
                }
            },
        );
    }),
    // The money went back before it was released.
    ("I-15", |export| {
        export.everywhere(
            PAID,
            |shows| {
                if shows["level"].is_string() {
                    payments(shows, "/payments", |payment| payment["returned"] = json!(4_995));
                }
            },
            |stored| {
                let at = "/ProviderReportObserved/report";
                if stored
                    .pointer(at)
                    .is_some_and(|report| report["considered_safe"].is_object())
                {
                    payments(stored, &format!("{at}/payments"), |payment| {
                        payment["chargebacks"] =
                            json!([{ "amount": { "value": 4_995, "currency": "EUR" }, "state": "CHARGED" }]);
                    });
                }
            },
        );
    }),
    // It was taken back, and the provider went on holding it safe. That it had not done so before it was paid is no reason.
    ("I-15", |export| {
        const REVERSED: &str = "any/safe_then_reversed";
        let (order, key) = (export.order(REVERSED), export.key(REVERSED));
        let mut safe = None;
        let rows = export.file("ledger.ndjson").iter_mut();
        for row in rows.filter(|row| row["order_key"] == *key && row["shows"].is_object()) {
            if row["shows"]["level"].is_string() {
                safe.get_or_insert_with(|| row["shows"].clone());
            }
            if let Some(safe) = &safe {
                row["shows"] = safe.clone();
            }
        }
        for file in ["events.ndjson", "events.earlier.ndjson"] {
            let mut safe = None;
            let rows = export.file(file).iter_mut();
            for event in rows.filter(|event| event["aggregate_id"] == *order) {
                let Some(report) = event.pointer_mut("/payload/ProviderReportObserved/report") else {
                    continue;
                };
                if report["considered_safe"].is_object() {
                    safe.get_or_insert_with(|| report.clone());
                }
                if let Some(safe) = &safe {
                    *report = safe.clone();
                }
            }
        }
        let mut unpaid = export.ledger_row(REVERSED, "answer", "status");
        unpaid["shows"] = export.ledger_row(REVERSED, "effect", "start")["shows"].clone();
        export.read_before(unpaid);
    }),
    // The shipment service was never told.
    ("I-15", |export| {
        export.file("shipment.ndjson").retain(|row| row["what"] != "hold");
    }),
    ("I-16", |export| {
        let order = export.order(PAID);
        let rows = export.file("shipment.ndjson").iter_mut();
        for row in rows.filter(|row| row["what"] == "delivery" && row["order_id"] == *order) {
            let at: jiff::Timestamp = text(&row["at"]).parse().expect("a moment");
            row["at"] = json!(at + jiff::SignedDuration::from_hours(3));
        }
    }),
    ("I-30", |export| {
        export.event_of(PAID, "OrderPaid", |event| event["version"] = json!(99));
    }),
    ("I-31", |export| {
        let rows = export.file("answers.ndjson").iter_mut();
        let mut accepted = rows.filter(|row| row["status"] == "accepted");
        accepted.next().expect("one")["key"] = json!("a-key-that-was-never-decided");
    }),
    // No was said of what was decided on as accepted.
    ("I-31", |export| {
        let rows = export.file("answers.ndjson").iter_mut();
        let mut accepted = rows.filter(|row| row["status"] == "accepted" && row["verb"] == "start_payment");
        let answer = accepted.next().expect("one");
        answer["status"] = json!("refused");
        answer["code"] = json!("order_not_payable");
    }),
    // A repeat that is told of another payment.
    ("I-31", |export| {
        let order = export.order(PAID);
        let payment = export.rows("events.ndjson").iter().find(|event| {
            event["event_type"] == "PaymentStarted" && event["metadata"]["correlation_id"] == *order
        });
        let payment = payment.expect("it was paid")["aggregate_id"].clone();
        let rows = export.file("answers.ndjson").iter_mut();
        let repeats = rows.filter(|row| row["key"] == "a-key" && row["status"] == "accepted");
        repeats.last().expect("two")["answer"]["payment_id"] = payment;
    }),
    ("I-32", |export| {
        export.file("events.earlier.ndjson")[3]["recorded_at"] = json!("2026-01-01T00:00:00Z");
    }),
    ("I-33", |export| {
        let rows = export.file("projections.ndjson").iter_mut();
        // A row less, in every build: the position was skipped, not lost.
        for row in rows.filter(|row| row["projection"] == "shipping") {
            row["rows"] = json!(row["rows"].as_u64().expect("a number") - 1);
        }
    }),
    ("I-34", |export| {
        let order = export.order(PAID);
        let started = export.rows("events.ndjson").iter().find(|event| {
            event["event_type"] == "PaymentStarted" && event["metadata"]["correlation_id"] == *order
        });
        let payload = started.expect("it was paid")["payload"].clone();
        export.event_of(PAID, "PaymentAuthorized", |event| {
            event["event_type"] = json!("PaymentStarted");
            event["payload"] = payload.clone();
        });
    }),
    ("I-35", |export| {
        let rows = export.file("bus.ndjson").iter_mut();
        let mut paid = rows.filter(|row| row["data"]["type"] == "kassa.order.paid.v1");
        paid.next().expect("one")["data"]["data"]["paid"]["value"] = json!("4995");
    }),
    ("I-35", |export| {
        export.event_of(PAID, "OrderPaid", |event| event["schema_version"] = json!(2));
    }),
    // Another run, in which the second payment was authorized the other way.
    ("I-36", |export| {
        export.event_of("ideal/cancel", "PaymentCanceled", |event| {
            event["event_type"] = json!("PaymentExpired");
            event["payload"] = json!("PaymentExpired");
        });
    }),
    ("I-37", |export| {
        export.event_of(PAID, "OrderPaid", |event| {
            event["metadata"]["causation_id"] = json!("00000000-0000-5000-8000-000000000002");
        });
    }),
    ("I-38", |export| {
        export.file("bus.ndjson").remove(4);
    }),
    // The beginning is gone.
    ("I-38", |export| {
        export.file("bus.ndjson").drain(..2);
    }),
    ("I-40", |export| {
        let rows = export.file("projections.ndjson").iter_mut();
        let mut rebuilt = rows.filter(|row| row["generation"] == "rebuilt");
        rebuilt.next().expect("one")["sha256"] = json!("00");
    }),
    ("I-41", |export| {
        let rows = export.file("projections.ndjson").iter_mut();
        let mut again = rows.filter(|row| row["generation"] == "redelivered");
        again.next().expect("one")["sha256"] = json!("00");
    }),
    // The provider was called while a projection was built anew.
    ("I-42", |export| {
        let start = export.ledger_row(PAID, "request", "start");
        export.file("replays.ndjson")[0]["from"] = start["t"].clone();
    }),
    ("I-50", |export| {
        let mut row = export.ledger_row(PAID, "request", "start");
        row["op"] = json!("create");
        row["order_key"] = Value::Null;
        row["reference"] = json!("V-nobody-meant-this");
        export.push(row);
    }),
    ("I-51", |export| {
        export.event_of(
            "any/psp_timeout_after_effect",
            "ProviderOutcomeUnknown",
            |event| {
                let at: jiff::Timestamp = text(&event["recorded_at"]).parse().expect("a moment");
                event["recorded_at"] = json!(at - jiff::SignedDuration::from_mins(16));
            },
        );
    }),
    ("I-53", |export| {
        let mut row = export.ledger_row(PAID, "effect", "create");
        row["order_key"] = json!("0123456789ABCDEF0123456789ABCDEF");
        row["reference"] = json!("V-nobody-knows-this");
        export.push(row);
    }),
    // What changed the order was no report: a notification, say.
    ("I-60", |export| {
        export.event_of(SECOND_TRY, "ProviderReportObserved", |event| {
            let payments = "/payload/ProviderReportObserved/report/payments";
            payments_of(event, payments, |payment| {
                payment["state"] = json!("AUTHENTICATED")
            });
        });
    }),
    // A cent more than the provider ever showed.
    ("I-60", |export| {
        export.event_of(PAID, "OrderPaid", |event| {
            event["payload"]["OrderPaid"]["paid"]["value"] = json!(4_996);
        });
    }),
    ("I-60", |export| {
        export.event_of(PAID, "PaymentAuthorized", |event| {
            event["payload"]["PaymentAuthorized"]["amount"]["value"] = json!(4_996);
        });
    }),
    // Little money, and called enough.
    ("I-60", |export| {
        export.event_of("any/amount_short_11", "OrderPartiallyPaid", |event| {
            let paid = event["payload"]["OrderPartiallyPaid"].clone();
            event["event_type"] = json!("OrderPaid");
            event["payload"] = json!({ "OrderPaid": paid });
        });
    }),
    // It is said to have been given up, and the provider showed nothing of it.
    ("I-60", |export| {
        export.event_of(SECOND_TRY, "PaymentCanceled", |event| {
            event["event_type"] = json!("PaymentFailed");
            event["payload"] = json!({ "PaymentFailed": { "reason": "authorization_failed" } });
        });
    }),
    ("I-61", |export| {
        let order = export.order(SECOND_TRY);
        let safe = move |event: &Value| {
            event["aggregate_id"] == *order
                && event["payload"]["ProviderReportObserved"]["report"]["considered_safe"].is_object()
        };
        export.event(safe, |event| {
            event["payload"]["ProviderReportObserved"]["read_no"] = json!(0);
        });
        export.event_of(SECOND_TRY, "ConfidenceReachedSafe", |event| {
            event["payload"]["ConfidenceReachedSafe"]["evidence"]["read_no"] = json!(0);
        });
    }),
    ("I-62", |export| {
        let last = export.rows("ledger.ndjson").last().expect("there are rows")["t"].clone();
        let last: jiff::Timestamp = text(&last).parse().expect("a moment");
        let exported = text(&export.rows("meta.json")[0]["exported_at"]);
        let mut row = export.ledger_row(PAID, "notification", "bank");
        row["t"] = json!(last + jiff::SignedDuration::from_secs(10));
        // The row after which it was sent would say that a read came since.
        row["request"] = Value::Null;
        export.push(row);
        let later: jiff::Timestamp = exported.parse().expect("a moment");
        export.file("meta.json")[0]["exported_at"] = json!(later + jiff::SignedDuration::from_mins(1));
    }),
    // Sent a moment after the last read began.
    ("I-62", |export| {
        let key = export.key(PAID);
        let rows = export.rows("ledger.ndjson").iter().rev();
        let mut reads = rows.filter(|row| row["order_key"] == *key && row["op"] == "status");
        let at = reads.next().expect("it was read")["t"].clone();
        let at: jiff::Timestamp = text(&at).parse().expect("a moment");
        let mut row = export.ledger_row(PAID, "notification", "bank");
        row["t"] = json!(at + jiff::SignedDuration::from_millis(200));
        row["request"] = json!(export.rows("ledger.ndjson").len());
        export.push(row);
    }),
    ("I-63", |export| {
        let mut row = export.ledger_row(PAID, "request", "status");
        row["order_key"] = Value::Null;
        export.push(row);
    }),
    // Every notification came before the order was registered, and nobody looked after that.
    ("I-64", |export| {
        let last = export.rows("ledger.ndjson").last().expect("there are rows")["t"].clone();
        let last: jiff::Timestamp = text(&last).parse().expect("a moment");
        export.event_of(PAID, "ProviderOrderRegistered", move |event| {
            event["recorded_at"] = json!(last + jiff::SignedDuration::from_secs(10));
        });
    }),
    ("I-81", |export| {
        export.file("processes.ndjson")[0]["code"] = json!(101);
    }),
    // Accepted, and not there any more.
    ("I-81", |export| {
        let rows = export.file("answers.ndjson").iter_mut();
        let mut accepted = rows.filter(|row| row["status"] == "accepted" && row["key"] != "a-key");
        accepted.next().expect("one")["answer"]["order_id"] = json!("ord_00000000000000000000000000");
    }),
];

fn payments(value: &mut Value, at: &str, change: impl Fn(&mut Value)) {
    payments_of(value, at, change);
}

fn payments_of(value: &mut Value, at: &str, change: impl Fn(&mut Value)) {
    let payments = value.pointer_mut(at).and_then(Value::as_array_mut);
    payments.into_iter().flatten().for_each(change);
}

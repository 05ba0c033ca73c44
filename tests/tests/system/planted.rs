//! What does each kind of wrong look like in an export? One or more plants an invariant, put into a copy of a healthy run; each
//! leaves everything else as it was, so that exactly that invariant is violated.

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

    pub(crate) fn write(&self, dir: &Path) {
        std::fs::create_dir(dir).expect("it is not there yet");
        for (name, rows) in &self.0 {
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

    /// Changes everything that the provider ever said or held of an order, and what was stored of it: a lie that everybody
    /// believes.
    fn everywhere(&mut self, scenario: &str, shows: impl Fn(&mut Value), stored: impl Fn(&mut Value)) {
        let (order, key) = (self.order(scenario), self.key(scenario));
        let rows = self.file("ledger.ndjson").iter_mut();
        for row in rows.filter(|row| row["order_key"] == *key && row["shows"].is_object()) {
            shows(&mut row["shows"]);
        }
        for file in ["events.ndjson", "events.earlier.ndjson"] {
            let rows = self.file(file).iter_mut();
            for event in rows.filter(|event| event["aggregate_id"] == *order) {
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

/// By invariant, at least one each.
pub(crate) const PLANTS: &[(&str, PlantFn)] =
    &[
        // The order whose key was lost is paid in the menu after all.
        ("I-01", |export| {
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
        ("I-12", |export| {
            let rows = export.file("shipment.ndjson").iter_mut();
            let mut releases = rows.filter(|row| row["what"] == "release");
            releases.next().expect("one")["amount"]["value"] = json!(4_900);
        }),
        ("I-12", |export| {
            export.everywhere(
                PAID,
                |shows| payments(shows, "/payments", |payment| payment["amount"] = json!(4_984)),
                |stored| {
                    payments(stored, "/ProviderReportObserved/report/payments", |payment| {
                        payment["amount"]["value"] = json!(4_984);
                    });
                },
            );
        }),
        ("I-13", |export| {
            export.everywhere(
                PAID,
                |shows| payments(shows, "/payments", |payment| payment["currency"] = json!("USD")),
                |stored| {
                    payments(stored, "/ProviderReportObserved/report/payments", |payment| {
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
                if stored.pointer(at).is_some_and(|report| report["considered_safe"].is_object()) {
                    payments(stored, &format!("{at}/payments"), |payment| {
                        payment["chargebacks"] =
                            json!([{ "amount": { "value": 4_995, "currency": "EUR" }, "state": "CHARGED" }]);
                    });
                }
            },
        );
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
                row["at"] = json!(at + jiff::SignedDuration::from_mins(30));
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
        ("I-61", |export| {
            let order = export.order(SECOND_TRY);
            let safe = move |event: &Value| {
                event["aggregate_id"] == *order
                    && event["payload"]["ProviderReportObserved"]["report"]["considered_safe"].is_object()
            };
            export.event(safe, |event| {
                event["payload"]["ProviderReportObserved"]["read_no"] = json!(0);
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

//! Who reads the log? A person at a terminal gets text, everything else gets JSON. Always on stderr: stdout is for answers.
//!
//! A line of JSON has `ts`, `level`, `target` and `msg`; `trace_id` and `span_id` of the work that it is about; `shop`,
//! `order_id`, `event_id` and the like where they are known. Only what code names as a field is ever written: nothing is
//! serialised whole, and secrets have types that print as `[REDACTED]`.

use std::{fmt, io::IsTerminal as _};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{config::LogFormat, trace};

/// What a span knows and every line in it repeats: attributes of the span, by their names in the log.
const FROM_SPAN: [(&str, &str); 3] = [
    ("kassa.shop", "shop"),
    ("kassa.order.id", "order_id"),
    ("cloudevents.event_id", "event_id"),
];

/// Starts logging for this process; `RUST_LOG` wins over `default_filter`. A second call does nothing.
pub fn init(format: LogFormat, default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if json {
        builder.event_format(Lines).try_init()
    } else {
        builder.try_init()
    };
}

/// One JSON object a line.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = line(event);
        writeln!(writer, "{}", Value::Object(line))
    }
}

fn line(event: &Event<'_>) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let mut given = fields.0;
    let meta = event.metadata();
    let mut line = Map::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a log line tells the machine's time, whatever a drill says"
    )]
    let now = jiff::Timestamp::now();
    line.insert("ts".to_owned(), format!("{now:.6}").into());
    line.insert("level".to_owned(), meta.level().as_str().into());
    line.insert("target".to_owned(), meta.target().into());
    line.insert("msg".to_owned(), given.remove("message").unwrap_or_default());
    trace::with_current(|span| {
        line.insert("trace_id".to_owned(), span.context.trace_id().into());
        line.insert(
            "span_id".to_owned(),
            format!("{:016x}", span.context.span_id).into(),
        );
        for (attribute, name) in FROM_SPAN {
            if let Some(value) = span.attribute(attribute) {
                line.insert(name.to_owned(), value.into());
            }
        }
    });
    for (name, value) in given {
        // `order.id` in the code; dots are awkward in the query languages that read these lines.
        let name = name.replace('.', "_");
        if line.get(&name) == Some(&value) {
            continue;
        }
        // What a line is and where it belongs is not for a field to say; which order it is about is.
        let taken = ["ts", "level", "target", "msg", "trace_id", "span_id"].contains(&name.as_str())
            && line.contains_key(&name);
        line.insert(if taken { format!("field_{name}") } else { name }, value);
    }
    line
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.0.insert(field.name().to_owned(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Layer, layer::SubscriberExt as _};

    use super::*;
    use crate::trace::Span;

    struct Kept(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0
                .lock()
                .expect("one thread")
                .push(Value::Object(line(event)));
        }
    }

    #[tokio::test]
    async fn a_line_names_its_trace_its_shop_and_its_order() {
        let kept = Arc::new(Mutex::new(vec![]));
        let subscriber = tracing_subscriber::registry().with(Kept(kept.clone()));
        let _here = tracing::subscriber::set_default(subscriber);
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .ok();
        Span::server("create_order", given)
            .with("kassa.shop", "demo-shop")
            .run(async {
                let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
                tracing::info!(order.id = "ord_1", level = "x", trace_id, "done {}", 1);
            })
            .await;
        let lines = kept.lock().expect("one thread");
        let line = &lines[0];
        assert_eq!(line["msg"], "done 1");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["field_level"], "x");
        assert_eq!(line["shop"], "demo-shop");
        assert_eq!(line["order_id"], "ord_1");
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(line["field_trace_id"].is_null(), "said once: {line}");
        assert_eq!(line["span_id"].as_str().map(str::len), Some(16));
        assert!(
            line["ts"]
                .as_str()
                .is_some_and(|ts| ts.ends_with('Z') && ts.len() == 27),
            "{line}"
        );
    }
}

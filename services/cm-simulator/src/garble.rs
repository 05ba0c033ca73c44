//! In which ways is an answer no answer? What proxies, caches and hostile servers make of one that was right.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::Reply;

/// Bytes of an answer that is too large: well above what any client should read.
const HUGE: usize = 8 * 1024 * 1024;
/// Lists in lists.
const NESTED: usize = 100_000;
/// Between two bytes of an answer that trickles: never idle for long, and never done in time.
const DRIP: Duration = Duration::from_millis(50);

/// What becomes of the answer to a call that has done its work. Whoever gets one knows nothing of the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Garble {
    /// A page of a proxy, with 200.
    Html,
    /// The right body, called a text.
    WrongContentType,
    /// UTF-16, and says so.
    Utf16,
    /// Says UTF-8, and is Latin-1.
    CharsetLies,
    /// Says gzip, which nobody asked for.
    Gzip,
    /// Eight megabytes.
    Huge,
    /// A byte now and then, for ever.
    Trickle,
    /// As fast as it goes, for ever.
    Endless,
    /// The head and half of the body, then the connection breaks.
    Cut,
    /// In a list.
    List,
    /// A hundred thousand lists in each other.
    Nested,
    /// The right body, and something after its end.
    Trailing,
    /// 200 with nothing in it.
    Empty,
    /// 204.
    NoContent,
    /// CM's error document, with 200.
    ErrorWith200,
    /// The right body, with an error in it.
    SuccessAndError,
    /// 500 with the right body.
    SuccessWith500,
    /// 500 with CM's error document.
    ErrorWith500,
    /// The order key in lower case.
    LowerCaseKey,
    /// The order key without its first letter.
    ShortKey,
    /// A link that is a script.
    ScriptUrl,
    /// A link with a line break and a header in it.
    ControlCharacters,
    /// A link to another host.
    OtherHost,
    /// Amounts with a point.
    PointedAmount,
    /// Of another order: its reference, its key, its payment.
    OtherOrder,
}

impl Garble {
    /// What leaves in place of `reply`, and whether it has an end. The ledger has the digest of what was meant.
    pub(crate) fn response(self, reply: Reply) -> Response {
        let json = HeaderValue::from_static("application/json");
        let status = reply.status;
        match self {
            Self::Html => as_type(
                StatusCode::OK,
                HeaderValue::from_static("text/html; charset=utf-8"),
                "<html><body>Please wait</body></html>".into(),
            ),
            Self::WrongContentType => {
                as_type(status, HeaderValue::from_static("text/plain"), reply.body.into())
            }
            Self::Utf16 => {
                let bytes: Vec<u8> = reply.body.encode_utf16().flat_map(u16::to_be_bytes).collect();
                as_type(
                    status,
                    HeaderValue::from_static("application/json; charset=utf-16"),
                    bytes.into(),
                )
            }
            Self::CharsetLies => {
                let mut bytes = reply.body.into_bytes();
                // An e with an acute accent in Latin-1, in the first text there is.
                if let Some(quote) = bytes.iter().position(|byte| *byte == b'"') {
                    bytes.insert(quote + 1, 0xE9);
                }
                as_type(
                    status,
                    HeaderValue::from_static("application/json; charset=utf-8"),
                    bytes.into(),
                )
            }
            Self::Gzip => {
                let mut response = as_type(status, json, reply.body.into());
                response
                    .headers_mut()
                    .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                response
            }
            Self::Huge => {
                let mut body = vec![b' '; HUGE];
                body.extend_from_slice(reply.body.as_bytes());
                as_type(status, json, body.into())
            }
            Self::Trickle => {
                let drops = stream::unfold((), async |()| {
                    tokio::time::sleep(DRIP).await;
                    Some((Ok::<_, io::Error>(Bytes::from_static(b" ")), ()))
                });
                streamed(status, json, drops)
            }
            Self::Endless => {
                let flood =
                    stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 16 * 1024])));
                streamed(status, json, flood)
            }
            Self::Cut => {
                let half = Bytes::copy_from_slice(&reply.body.as_bytes()[..reply.body.len() / 2]);
                let broken = stream::once(async move { Ok(half) }).chain(stream::once(async {
                    Err(io::Error::other("the scenario breaks the answer off"))
                }));
                streamed(status, json, broken)
            }
            Self::List => as_type(status, json, format!("[{}]", reply.body).into()),
            Self::Nested => as_type(status, json, "[".repeat(NESTED).into()),
            Self::Trailing => as_type(status, json, format!("{} {{}}", reply.body).into()),
            Self::Empty => as_type(StatusCode::OK, json, Body::empty()),
            Self::NoContent => StatusCode::NO_CONTENT.into_response(),
            Self::ErrorWith200 => Reply::messages(StatusCode::OK, [TROUBLE]).into_response(),
            Self::ErrorWith500 => {
                Reply::messages(StatusCode::INTERNAL_SERVER_ERROR, [TROUBLE]).into_response()
            }
            Self::SuccessWith500 => as_type(StatusCode::INTERNAL_SERVER_ERROR, json, reply.body.into()),
            Self::SuccessAndError => changed(reply, |body| body["messages"] = json!([TROUBLE])),
            Self::LowerCaseKey => changed(reply, |body| {
                each_text(body, "order_key", |key| key.to_lowercase());
            }),
            Self::ShortKey => changed(reply, |body| {
                each_text(body, "order_key", |key| key.chars().skip(1).collect());
            }),
            Self::ScriptUrl => changed(reply, |body| {
                each_text(body, "url", |_| "javascript:alert(1)".into())
            }),
            Self::ControlCharacters => changed(reply, |body| {
                each_text(body, "url", |url| format!("{url}\r\nSet-Cookie: a=b"));
            }),
            Self::OtherHost => changed(reply, |body| {
                each_text(body, "url", |_| "ftp://elsewhere.example/".into());
            }),
            Self::PointedAmount => changed(reply, |body| body["amount"] = json!(49.95)),
            Self::OtherOrder => changed(reply, |body| {
                each_text(body, "order_reference", |_| "another-shoppers-order".into());
                each_text(body, "id", |_| "pid4900000000t".into());
            }),
        }
    }
}

const TROUBLE: &str = "Something went wrong.";

fn as_type(status: StatusCode, kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn streamed(
    status: StatusCode,
    kind: HeaderValue,
    body: impl futures::Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
) -> Response {
    as_type(status, kind, Body::from_stream(body))
}

/// The body with something in it changed.
fn changed(mut reply: Reply, change: impl FnOnce(&mut Value)) -> Response {
    if let Ok(mut body) = serde_json::from_str(&reply.body) {
        change(&mut body);
        reply.body = body.to_string();
    }
    reply.into_response()
}

/// Changes every text of that name, however deep.
fn each_text(value: &mut Value, name: &str, change: impl Fn(&str) -> String + Copy) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(text) if field == name => *text = change(text),
                    value => each_text(value, name, change),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, name, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_changed_however_deep_and_nothing_else_is() {
        let mut body = json!({ "id": "a", "urls": [{ "url": "x", "order": 1 }], "url": "y" });
        each_text(&mut body, "url", |url| format!("{url}!"));
        assert_eq!(
            body,
            json!({ "id": "a", "urls": [{ "url": "x!", "order": 1 }], "url": "y!" })
        );
    }
}

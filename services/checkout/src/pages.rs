//! What can be read without a key? What each problem means, the schemas, and the contract, for people and for programs.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    extract::Path,
    http::header,
    response::{Html, IntoResponse, Response},
};
use kassa_chassis::problem::Problem;
use kassa_events_schema::api::{PROBLEMS, ProblemType};
use serde_json::Value;

use crate::refusal::Refused;

/// Schemas by path, generated as the files in the repository are.
static SCHEMAS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let documents = kassa_events_schema::schema::documents();
    documents
        .into_iter()
        .map(|document| (document.path, document.schema.to_string()))
        .collect()
});

pub(crate) static OPENAPI: &str = include_str!("../../../events-schema/openapi.json");

pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// The same contract on NATS.
pub(crate) async fn asyncapi() -> impl IntoResponse {
    static ASYNCAPI: &str = include_str!("../../../events-schema/asyncapi.json");
    ([(header::CONTENT_TYPE, "application/json")], ASYNCAPI)
}

/// The HTTP API's document, to be read.
pub(crate) async fn api() -> Html<&'static str> {
    static PAGE: LazyLock<String> =
        LazyLock::new(|| reader(&serde_json::from_str(OPENAPI).unwrap_or_default()));
    Html(&PAGE)
}

pub(crate) async fn schema(Path(path): Path<String>) -> Result<Response, Refused> {
    let text = SCHEMAS.get(&path).ok_or_else(|| no_such("schema"))?;
    Ok(([(header::CONTENT_TYPE, "application/schema+json")], text.as_str()).into_response())
}

pub(crate) async fn problem(Path(code): Path<String>) -> Result<Html<String>, Refused> {
    let known = PROBLEMS.iter().find(|problem| problem.code == code);
    Ok(Html(explained(known.ok_or_else(|| no_such("problem"))?)))
}

fn no_such(what: &str) -> Problem {
    Problem::of(
        "not_found",
        format!("there is no such {what}"),
        "see /openapi.json for what there is",
    )
}

fn explained(problem: &ProblemType) -> String {
    let again = if problem.retry {
        "The same request may succeed later; with the same Idempotency-Key it is safe to send it again."
    } else {
        "The same request will not succeed, however often it is sent."
    };
    let body = format!(
        "<p><strong>{}</strong> – status {}</p><h2>When</h2><p>{}</p><h2>What to do</h2><p>{}</p><p>{again}</p>",
        escaped(problem.title),
        problem.status,
        escaped(problem.when),
        escaped(problem.hint),
    );
    page(problem.code, &body)
}

/// One section an address and method: what it does, what it takes, what it answers.
fn reader(document: &Value) -> String {
    let mut body =
        String::from("<p>As a document for programs: <a href=\"/openapi.json\">/openapi.json</a></p>");
    let none = serde_json::Map::new();
    for (path, operations) in document["paths"].as_object().unwrap_or(&none) {
        for (method, operation) in operations.as_object().unwrap_or(&none) {
            let Some(responses) = operation["responses"].as_object() else {
                continue;
            };
            let text = |field: &str| escaped(operation[field].as_str().unwrap_or_default());
            body.push_str(&format!(
                "<h2 id=\"{}\"><code>{} {}</code></h2><p>{}</p><p>{}</p>",
                // Where discovery and others point at.
                text("operationId"),
                method.to_uppercase(),
                escaped(path),
                text("summary"),
                text("description")
            ));
            let parameters: Vec<String> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|parameter| parameter_row(resolved(document, parameter)))
                .collect();
            if !parameters.is_empty() {
                body.push_str(&format!("<dl>{}</dl>", parameters.concat()));
            }
            let answers: Vec<String> = responses
                .iter()
                .map(|(status, answer)| {
                    let told = resolved(document, answer)["description"]
                        .as_str()
                        .unwrap_or_default();
                    format!("<li><code>{}</code> {}</li>", escaped(status), escaped(told))
                })
                .collect();
            body.push_str(&format!("<ul>{}</ul>", answers.concat()));
        }
    }
    page("HTTP API", &body)
}

fn parameter_row(parameter: &Value) -> String {
    let text = |field: &str| escaped(parameter[field].as_str().unwrap_or_default());
    format!(
        "<dt><code>{}</code> ({})</dt><dd>{}</dd>",
        text("name"),
        text("in"),
        text("description")
    )
}

/// What a reference inside the document points at.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    value["$ref"]
        .as_str()
        .and_then(|reference| document.pointer(reference.strip_prefix('#')?))
        .unwrap_or(value)
}

fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} – kassa</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use kassa_events_schema::api::VERBS;

    use super::*;

    #[test]
    fn every_problem_has_a_page_that_says_when_and_what_to_do() {
        for problem in PROBLEMS {
            let page = explained(problem);
            assert!(
                page.contains(problem.code) && page.contains("What to do"),
                "{page}"
            );
        }
    }

    #[test]
    fn the_reader_shows_every_operation_of_the_document() {
        let document: Value = serde_json::from_str(OPENAPI).expect("the contract is JSON");
        let page = reader(&document);
        for path in document["paths"].as_object().expect("paths").keys() {
            assert!(page.contains(&escaped(path)), "{path}");
        }
        assert!(!page.contains("<script"));
        for verb in VERBS {
            assert!(
                page.contains(&format!("<h2 id=\"{}\">", verb.name)),
                "discovery leads to #{} and there is no such section",
                verb.name
            );
        }
    }
}

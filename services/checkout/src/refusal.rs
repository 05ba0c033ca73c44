//! How does a problem become a response? Handlers return it as it is; on the way out it gets the path and the trace of its
//! request. Whatever else is not a success on its way out becomes a problem as well, so that there is one form for all.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use kassa_chassis::{
    http::{self, TraceId},
    problem::{FieldError, Problem},
};

/// A problem on its way to the edge.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) Box<Problem>);

impl From<Box<Problem>> for Refused {
    fn from(problem: Box<Problem>) -> Self {
        Self(problem)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer.
pub(crate) async fn at_the_edge(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let trace = request
        .extensions()
        .get::<TraceId>()
        .cloned()
        .unwrap_or_else(|| TraceId(String::new()));
    let mut response = next.run(request).await;
    let status = response.status();
    if status.is_success() {
        return response;
    }
    let refused = match response.extensions_mut().remove::<Refused>() {
        Some(Refused(problem)) => *problem,
        // The router's own: a path that is no text, a method that the address does not take.
        None => of_status(status),
    };
    let mut written = http::problem(&refused, &path, &trace);
    for name in [
        &header::ALLOW,
        &header::HeaderName::from_static("kassa-position"),
        &header::HeaderName::from_static("idempotent-replayed"),
        &header::HeaderName::from_static("preference-applied"),
    ] {
        if let Some(value) = response.headers().get(name) {
            written.headers_mut().insert(name.clone(), value.clone());
        }
    }
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        written.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    written
}

fn of_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(),
        StatusCode::NOT_FOUND => no_such_route(),
        StatusCode::BAD_REQUEST => Problem::validation(vec![FieldError::new(
            "",
            "malformed",
            "the path must be UTF-8 after decoding",
        )]),
        _ => {
            let mut problem = Problem::store_unavailable();
            problem.detail = "the request could not be answered".to_owned();
            problem
        }
    }
}

pub(crate) fn no_such_route() -> Problem {
    Problem::of(
        "not_found",
        "there is no such address",
        "see /openapi.json for what there is",
    )
}

pub(crate) fn method_not_allowed() -> Problem {
    Problem::of(
        "method_not_allowed",
        "the address exists and takes other methods",
        "use one of the methods in the header Allow",
    )
}

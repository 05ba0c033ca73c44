//! How does a page look, and how does nothing from outside become part of its markup?

use std::fmt::Write as _;

use axum::http::{HeaderValue, StatusCode, header};

use crate::app::Reply;

/// Text that is safe between tags and inside double-quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A whole page; `title` is escaped here, `body` is markup.
pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Reply {
    let title = escape(title);
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>body{{font:1rem/1.5 sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}\
         button{{font:inherit;padding:.5rem 1rem;margin:.2rem 0}}td,th{{text-align:left;padding-right:1rem}}\
         .note{{color:#555}}</style>\n</head>\n<body>\n<p class=\"note\">Simulated: no money moves here.</p>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    );
    Reply {
        status,
        headers: vec![
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            ),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            // The order key stands in the URL; the shop has no use for the page's address.
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (
                header::CONTENT_SECURITY_POLICY,
                // No form-action: browsers apply it to the redirect after a form too, and that leads to the shop.
                HeaderValue::from_static(
                    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
                ),
            ),
        ],
        body: html,
    }
}

/// Sends a browser on with a GET, also after a POST.
pub(crate) fn see_other(url: &str) -> Reply {
    match HeaderValue::from_str(url) {
        Ok(location) => Reply {
            status: StatusCode::SEE_OTHER,
            headers: vec![
                (header::LOCATION, location),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            ],
            body: String::new(),
        },
        // URLs are parsed and written anew before they are kept, so this one was never kept.
        Err(_) => done(),
    }
}

/// Where a shopper ends whose shop gave no return URL.
pub(crate) fn done() -> Reply {
    page(
        StatusCode::OK,
        "Done",
        "<p>This is the end of the payment. You can close this page.</p>\n",
    )
}

/// For every order or payment that is not there; it does not say what was looked for.
pub(crate) fn not_found() -> Reply {
    page(
        StatusCode::NOT_FOUND,
        "Not found",
        "<p>There is nothing to pay at this address.</p>\n",
    )
}

/// `49.95 EUR`. Minor units are taken as hundredths, which only matters to the eye.
pub(crate) fn money(amount_minor: i64, currency: &str) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{}.{:02} {}",
        amount_minor / 100,
        amount_minor % 100,
        escape(currency)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_from_outside_is_text() {
        assert_eq!(
            escape("<b a=\"x\" c='y'>&"),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;"
        );
    }

    #[test]
    fn cents_are_always_two_digits() {
        assert_eq!(money(4_905, "EUR"), "49.05 EUR");
        assert_eq!(money(7, "EUR"), "0.07 EUR");
    }
}

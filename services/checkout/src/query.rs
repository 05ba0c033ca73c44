//! What stands behind the question mark? Known names, each once, as strictly as fields of a body; as a JSON object for
//! whoever answers.

use kassa_chassis::problem::{FieldError, Problem};
use serde_json::{Map, Value};

/// Longer than any question; a reference of 240 characters, percent-encoded, fits three times.
const LENGTH_MAX: usize = 4 * 1024;

/// Names and values, decoded; each of `known` at most once.
///
/// # Errors
/// 400 `validation`, with each name that is unknown or given twice.
pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Vec<(String, String)>, Box<Problem>> {
    let query = query.unwrap_or_default();
    if query.len() > LENGTH_MAX {
        return Err(Box::new(Problem::of(
            "uri_too_long",
            format!(
                "the query has {} bytes, at most {LENGTH_MAX} are taken",
                query.len()
            ),
            "ask for less at once",
        )));
    }
    let mut given: Vec<(String, String)> = Vec::new();
    let mut wrong = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            let detail = format!("unknown parameter (known: {})", known.join(", "));
            // Anybody's text is shown only where it is a plain word.
            let plain = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let pointer = if plain { name.as_ref() } else { "" };
            wrong.push(FieldError::new(pointer, "unknown_field", detail));
        } else if given.iter().any(|(other, _)| *other == name) {
            wrong.push(FieldError::new(name, "duplicate", "must be given once"));
        } else if value.contains(char::REPLACEMENT_CHARACTER) {
            wrong.push(FieldError::new(name, "invalid", "must be UTF-8"));
        } else {
            given.push((name.into_owned(), value.into_owned()));
        }
    }
    if wrong.is_empty() {
        Ok(given)
    } else {
        let mut problem = Problem::validation(wrong);
        kassa_read_models::ASK_AGAIN.clone_into(&mut problem.hint);
        Err(Box::new(problem))
    }
}

/// The same as a body: names in `numbers` as numbers where they are written as such.
pub(crate) fn as_body(given: Vec<(String, String)>, numbers: &[&str]) -> Map<String, Value> {
    given
        .into_iter()
        .map(|(name, text)| {
            let number = numbers
                .contains(&name.as_str())
                .then(|| text.parse::<i64>().ok())
                .flatten();
            let canonical = number.filter(|number| number.to_string() == text);
            let value = canonical.map_or(Value::String(text), Value::from);
            (name, value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_strictly_as_fields() {
        let codes = |query| match parse(Some(query), &["limit", "status"]) {
            Ok(_) => vec![],
            Err(problem) => problem.errors.iter().map(|error| error.code.clone()).collect(),
        };
        assert!(codes("limit=1&status=paid").is_empty() && codes("").is_empty());
        assert_eq!(codes("limt=1"), ["unknown_field"]);
        assert_eq!(codes("limit=1&limit=2"), ["duplicate"]);
        assert_eq!(codes("status=%ff"), ["invalid"]);
        let body = as_body(
            parse(Some("limit=1&status=7"), &["limit", "status"]).expect("good"),
            &["limit"],
        );
        assert_eq!((&body["limit"], &body["status"]), (&1.into(), &"7".into()));
        let odd = as_body(parse(Some("limit=%2B1"), &["limit"]).expect("good"), &["limit"]);
        assert_eq!(odd["limit"], "+1", "only plain digits are a number");
    }
}

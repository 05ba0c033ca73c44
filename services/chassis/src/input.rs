//! What is refused at the door? Everything that is not exactly as it should be, with the field and the rule, and never
//! with the value that was sent: it may be personal or secret.

pub use kassa_events_schema::api::strict::Object;
use serde::de::DeserializeOwned;

use crate::problem::{FieldError, Problem};

/// A command is a page of JSON at most; what is longer is a mistake or an attack.
pub const BODY_MAX: usize = 64 * 1024;
/// Decodes a body, strictly: UTF-8, one JSON object, known fields, each once. `rule` tells what may stand at a pointer.
///
/// # Errors
/// 413 for size, 422 for card data, 400 with the pointer for the rest.
pub fn decode<T: DeserializeOwned>(body: &[u8], rule: fn(&str) -> &'static str) -> Result<T, Box<Problem>> {
    if body.len() > BODY_MAX {
        return Err(Box::new(Problem::of(
            "payload_too_large",
            format!("the body has {} bytes, at most {BODY_MAX} are taken", body.len()),
            "send less: long texts do not belong in a command",
        )));
    }
    let text = std::str::from_utf8(body).map_err(|_| unreadable(body, "the body must be JSON in UTF-8"))?;
    if text.starts_with('\u{feff}') {
        return Err(unreadable(
            body,
            "the body must start with {, without a byte order mark",
        ));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let Object(decoded) =
        serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong_field(text, &error, rule))?;
    reader
        .end()
        .map_err(|_| unreadable(body, "the body must be one JSON object and nothing after it"))?;
    refuse_cards(text)?;
    Ok(decoded)
}

/// What cannot be read is refused for a card number first: a caller may keep what is only malformed.
fn unreadable(body: &[u8], detail: &str) -> Box<Problem> {
    if has_card(&String::from_utf8_lossy(body)) {
        card_refused(String::new())
    } else {
        malformed(detail)
    }
}

fn malformed(detail: &str) -> Box<Problem> {
    Box::new(Problem::validation(vec![FieldError::new(
        "",
        "malformed",
        detail,
    )]))
}

fn wrong_field(
    text: &str,
    error: &serde_path_to_error::Error<serde_json::Error>,
    rule: fn(&str) -> &'static str,
) -> Box<Problem> {
    if let Err(card) = refuse_cards(text) {
        return card;
    }
    if error.inner().classify() != serde_json::error::Category::Data {
        return malformed("the body must be one JSON object: it ends early, nests too deeply or is not JSON");
    }
    let mut pointer = pointer(error.path());
    let message = error.inner().to_string();
    let (code, detail) = if let Some(name) = between(&message, "unknown field `") {
        // The path ends with the unknown name itself or with its parent, depending on where serde noticed.
        if !pointer.ends_with(&format!("/{name}")) {
            pointer = format!("{pointer}/{}", escaped(name));
        }
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let nearest = known
            .iter()
            .copied()
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let suggestion = nearest
            .filter(|near| strsim::jaro_winkler(near, name) > 0.8)
            .map_or_else(String::new, |near| format!("; did you mean {near}?"));
        (
            "unknown_field",
            format!("unknown field{suggestion} (known: {})", known.join(", ")),
        )
    } else if let Some(name) = between(&message, "missing field `") {
        pointer = format!("{pointer}/{name}");
        ("required", rule(&pointer).to_owned())
    } else if let Some(name) = between(&message, "duplicate field `") {
        if !pointer.ends_with(&format!("/{name}")) {
            pointer = format!("{pointer}/{}", escaped(name));
        }
        ("duplicate", "must be given once".to_owned())
    } else {
        ("invalid", rule(&pointer).to_owned())
    };
    Box::new(Problem::validation(vec![FieldError::new(pointer, code, detail)]))
}

fn between<'m>(message: &'m str, before: &str) -> Option<&'m str> {
    message.strip_prefix(before)?.split('`').next()
}

fn escaped(name: &str) -> String {
    name.chars()
        .take(64)
        .collect::<String>()
        .escape_default()
        .to_string()
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escaped(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// Refuses card numbers in any text but references and ids, which may look like one by chance.
fn refuse_cards(text: &str) -> Result<(), Box<Problem>> {
    let spared = |key: &str| matches!(key, "order_reference" | "order_id");
    let found = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => card_in(&value, "", &spared),
        // Not JSON: it is refused anyway, but its text may not reach an error.
        Err(_) => has_card(text).then(String::new),
    };
    found.map_or(Ok(()), |pointer| Err(card_refused(pointer)))
}

fn card_refused(pointer: String) -> Box<Problem> {
    Box::new(
        Problem::of(
            "card_data_refused",
            "a field holds what looks like a card number; it was not stored and not logged",
            "remove it: cards are entered at the provider, and only there",
        )
        .with_errors(vec![FieldError::new(
            pointer,
            "card_data",
            "must not hold a card number",
        )]),
    )
}

/// Whether a body holds a card number, where [`decode`] would refuse one, or anywhere when it is not JSON.
pub fn holds_card(body: &[u8]) -> bool {
    match std::str::from_utf8(body) {
        Ok(text) => refuse_cards(text).is_err(),
        Err(_) => has_card(&String::from_utf8_lossy(body)),
    }
}

fn card_in(value: &serde_json::Value, pointer: &str, spared: &impl Fn(&str) -> bool) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::String(text) => has_card(text).then(|| pointer.to_owned()),
        Value::Number(number) => has_card(&number.to_string()).then(|| pointer.to_owned()),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(n, item)| card_in(item, &format!("{pointer}/{n}"), spared)),
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| !spared(key))
            .find_map(|(key, item)| {
                // The name itself may be the number: then it does not go into the pointer.
                if has_card(key) {
                    return Some(pointer.to_owned());
                }
                card_in(item, &format!("{pointer}/{}", escaped(key)), spared)
            }),
        Value::Null | Value::Bool(_) => None,
    }
}

/// Whether a text holds a card number: a known brand's prefix, that brand's length, and a Luhn sum that fits.
/// Digits may be parted by single spaces or hyphens. Digits inside a UUID or a long hexadecimal token are not one.
pub fn has_card(text: &str) -> bool {
    let mut run = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut parted = false;
    for (at, c) in text.char_indices().chain([(text.len(), '\0')]) {
        match c {
            '0'..='9' => {
                if run.is_empty() {
                    start = at;
                }
                run.push(c as u8 - b'0');
                end = at + 1;
                parted = false;
            }
            ' ' | '-' if !run.is_empty() && !parted => parted = true,
            _ => {
                if card_within(&run) && !is_within_id(text, start, end) {
                    return true;
                }
                run.clear();
                parted = false;
            }
        }
    }
    false
}

/// Whether the digits at these bytes are part of a UUID, or of a hexadecimal token of at least 32 digits with a letter
/// among them: one UUID in some ten thousand holds what looks like a card, and addresses and metadata are full of them.
fn is_within_id(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let stands_alone = |from: usize, to: usize| {
        let touches = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        !touches(from.checked_sub(1).and_then(|at| bytes.get(at))) && !touches(bytes.get(to))
    };
    let in_uuid = (end.saturating_sub(UUID_LEN)..=start).any(|from| {
        text.get(from..from + UUID_LEN)
            .is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
            && stands_alone(from, from + UUID_LEN)
    });
    let in_token = || {
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric();
        let from = start - bytes[..start].iter().rev().take_while(is_part).count();
        let to = end + bytes[end..].iter().take_while(is_part).count();
        let token = &bytes[from..to];
        token.len() >= 32
            && token.iter().all(u8::is_ascii_hexdigit)
            && token.iter().any(u8::is_ascii_alphabetic)
    };
    in_uuid || in_token()
}

/// Of a UUID with its hyphens.
const UUID_LEN: usize = 36;

/// A run of digits is a card only as a whole: a window inside a longer number is chance.
fn card_within(digits: &[u8]) -> bool {
    is_brand(digits) && luhn(digits)
}

fn is_brand(digits: &[u8]) -> bool {
    let prefix = |n: usize| {
        digits
            .iter()
            .take(n)
            .fold(0_u32, |sum, d| sum * 10 + u32::from(*d))
    };
    match digits.len() {
        15 => matches!(prefix(2), 34 | 37),
        13 | 19 => prefix(1) == 4 || matches!(prefix(2), 50 | 56..=58 | 62 | 63 | 67),
        16 => {
            prefix(1) == 4
                || matches!(prefix(2), 50..=58 | 60 | 62..=65 | 67)
                || matches!(prefix(4), 2221..=2720)
        }
        14 => matches!(prefix(2), 36 | 38 | 39) || matches!(prefix(3), 300..=305),
        17 | 18 => matches!(prefix(2), 50 | 56..=58 | 62 | 63 | 67),
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, digit)| {
            let digit = u32::from(*digit);
            match (n % 2, digit * 2) {
                (0, _) => digit,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_number_is_refused_as_one_however_unreadable_the_body_is() {
        let card = "4111 1111 1111 1111";
        for body in [
            format!("{{\"a\": \"{card}\""),
            format!("{{}} {card}"),
            format!("\u{feff}{{\"a\": \"{card}\"}}"),
            format!("{{\"a\": \"{card}\"}}"),
        ]
        .map(String::into_bytes)
        .into_iter()
        .chain([[card.as_bytes(), b"\xff"].concat()])
        {
            let refused = decode::<serde_json::Map<String, serde_json::Value>>(&body, |_| "").unwrap_err();
            assert_eq!(refused.code, "card_data_refused", "{}", body.escape_ascii());
            assert!(holds_card(&body), "{}", body.escape_ascii());
        }
        for body in [&b"{} {}"[..], "\u{feff}{}".as_bytes(), b"{\"a\": \"\xff\"}"] {
            let refused = decode::<serde_json::Map<String, serde_json::Value>>(body, |_| "").unwrap_err();
            assert_eq!(refused.errors[0].code, "malformed", "{}", body.escape_ascii());
            assert!(!holds_card(body), "{}", body.escape_ascii());
        }
        // It may look like one by chance.
        assert!(!holds_card(br#"{"order_reference": "4111111111111111"}"#));
    }

    #[test]
    fn test_card_numbers_are_found_and_references_are_not() {
        for card in [
            "4111 1111 1111 1111",
            "card 5100-0000-0000-0008!",
            "341111111111111",
            "67030500034017105",
            "67030500052353002",
        ] {
            assert!(has_card(card), "{card}");
        }
        for plain in [
            "4111111111111112",
            "order 20261124000017",
            "1700000000000",
            "+31612345678",
            "12 34 56",
        ] {
            assert!(!has_card(plain), "{plain}");
        }
    }

    #[test]
    fn ids_are_never_taken_for_cards_and_cards_beside_ids_are_found() {
        let mut looked_like_one = 0;
        for n in 0..60_000_u128 {
            let id = uuid::Builder::from_random_bytes(
                (n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_le_bytes(),
            )
            .into_uuid();
            for text in [
                format!("https://shop.example/thanks?key={id}"),
                format!("cart-{id}"),
                format!("sha:{}", id.simple()),
            ] {
                assert!(!has_card(&text), "{text}");
            }
            // The sign before it makes it no id: what is left is chance, and it is not rare.
            looked_like_one += u32::from(has_card(&format!("x{id}")));
        }
        assert!(
            looked_like_one > 2,
            "the ids of this test hold nothing to spare: {looked_like_one}"
        );
        for card in [
            "018f7a3e-6c1b-4d2a-9e55-0a1b2c3d4e5f 4111111111111111",
            "4111-1111-1111-1111, 018f7a3e-6c1b-4d2a-9e55-0a1b2c3d4e5f",
            "token4111111111111111",
            "ab4111111111111111cd",
        ] {
            assert!(has_card(card), "{card}");
        }
    }
}

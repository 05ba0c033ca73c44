//! What becomes of a message that no repeat will settle? It is copied, as it came, into a stream for people, with who gave
//! up on it and why; then it is taken off the consumer that gave up. Of a command that could not be read, and of what holds a
//! card number, the body stays out: the letter tells how long it was.
//!
//! ```text
//! kassa.dlq.{consumer}.{shop}.{aggregate}.{id}    stream KASSA_DLQ; aggregate `command` and the verb for a command
//! ```

/// The stream.
pub const STREAM: &str = "KASSA_DLQ";
/// Everything in it.
pub const FILTER: &str = "kassa.dlq.>";

/// The consumer that gave up.
pub const CONSUMER: &str = "Kassa-Consumer";
/// The last error, for a person; never a value that was sent.
pub const ERROR: &str = "Kassa-Error";
/// How often it was delivered.
pub const DELIVERIES: &str = "Kassa-Deliveries";
/// The stream that it came from.
pub const ORIGIN_STREAM: &str = "Kassa-Stream";
/// Its sequence there.
pub const ORIGIN_SEQUENCE: &str = "Kassa-Sequence";
/// Its subject there.
pub const ORIGIN_SUBJECT: &str = "Kassa-Subject";
/// When that stream took it, in seconds since 1970.
pub const ORIGIN_TIME: &str = "Kassa-Time";

/// Of a letter whose body was not kept: how long it was. A body that could not be read may hold a card number or an address.
pub const BODY_BYTES: &str = "Kassa-Body-Bytes";
/// And its SHA-256 in hexadecimal, to know it again; not of one that held a card number, which could be found by trying.
pub const BODY_SHA256: &str = "Kassa-Body-Sha256";

/// A header is one line, and an error may hold a chain of causes.
const ERROR_CHARS_MAX: usize = 500;

/// A message that is given up.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// The durable's name.
    pub consumer: &'a str,
    /// What went wrong the last time.
    pub error: &'a str,
    /// How often it was delivered.
    pub deliveries: i64,
    /// Where it is stored.
    pub stream: &'a str,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there.
    pub subject: &'a str,
    /// When it was stored, in seconds since 1970.
    pub time: i64,
}

impl DeadLetter<'_> {
    /// Under which subject it is kept: [`subject`].
    #[must_use]
    pub fn dead_subject(&self) -> String {
        subject(self.consumer, self.subject)
    }

    /// All headers of the letter: those of the message that go with it, and ours. `Nats-Msg-Id` makes a repeat within the
    /// stream's window one letter.
    #[must_use]
    pub fn headers<'h>(
        &self,
        message: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Vec<(String, String)> {
        let line = |c: char| if c.is_control() { ' ' } else { c };
        let error: String = self.error.chars().map(line).take(ERROR_CHARS_MAX).collect();
        // With the time: a stream that was lost counts from one again.
        let id = format!(
            "{}:{}:{}:{}",
            self.consumer, self.stream, self.sequence, self.time
        );
        let ours = [
            (crate::headers::MSG_ID, id),
            (CONSUMER, self.consumer.to_owned()),
            (ERROR, error),
            (DELIVERIES, self.deliveries.to_string()),
            (ORIGIN_STREAM, self.stream.to_owned()),
            (ORIGIN_SEQUENCE, self.sequence.to_string()),
            (ORIGIN_SUBJECT, self.subject.to_owned()),
            (ORIGIN_TIME, self.time.to_string()),
        ];
        message
            .into_iter()
            .filter(|(name, _)| Self::keeps(name))
            .map(|(name, value)| (name, value.to_owned()))
            .chain(ours)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Whether a header of the message goes with it: what the server reads as an instruction does not.
    #[must_use]
    pub fn keeps(header: &str) -> bool {
        let header = header.to_ascii_lowercase();
        let ours = [
            CONSUMER,
            ERROR,
            DELIVERIES,
            ORIGIN_STREAM,
            ORIGIN_SEQUENCE,
            ORIGIN_SUBJECT,
            ORIGIN_TIME,
            BODY_BYTES,
            BODY_SHA256,
        ];
        !header.starts_with("nats-") && !ours.iter().any(|own| own.eq_ignore_ascii_case(&header))
    }
}

/// Under which subject a message that came under `origin` is kept, when `consumer` gave it up. A subject of a form that is not
/// known here becomes `unknown`.
#[must_use]
pub fn subject(consumer: &str, origin: &str) -> String {
    let tokens: Vec<&str> = origin.split('.').collect();
    let [shop, aggregate, id] = match tokens.as_slice() {
        ["kassa", "evt", _, shop, aggregate, id, ..] => [*shop, *aggregate, *id],
        ["kassa", "inbox", shop, verb] => [*shop, "command", *verb],
        _ => ["unknown"; 3],
    };
    format!("kassa.dlq.{consumer}.{shop}.{aggregate}.{id}")
}

/// Where the owner of a consumer hears that a message is to be done again. The body is a [`Redeliver`].
#[must_use]
pub fn redeliver_subject(consumer: &str, stream: &str) -> String {
    format!("kassa.redeliver.{consumer}.{stream}")
}

/// A message to be done again, by its place: the owner reads it there, so that whoever asks cannot make one up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Redeliver {
    /// In the stream that the subject names.
    pub sequence: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Redelivered {
    /// Settled: the dead letter may go.
    pub settled: bool,
    /// In a sentence.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(subject: &str) -> DeadLetter<'_> {
        DeadLetter {
            consumer: "ship-a",
            error: "line one\nline two",
            deliveries: 3,
            stream: "KASSA_EVENTS",
            sequence: 17,
            subject,
            time: 1_795_520_603,
        }
    }

    #[test]
    fn a_dead_letter_is_found_by_shop_and_by_what_it_is_about() {
        for (subject, kept) in [
            (
                "kassa.evt.0.brekz-nl.order.ord_01.payment_safe",
                "kassa.dlq.ship-a.brekz-nl.order.ord_01",
            ),
            (
                "kassa.inbox.brekz-nl.create_order",
                "kassa.dlq.ship-a.brekz-nl.command.create_order",
            ),
            ("something.else", "kassa.dlq.ship-a.unknown.unknown.unknown"),
        ] {
            assert_eq!(letter(subject).dead_subject(), kept);
        }
    }

    #[test]
    fn an_error_is_one_line() {
        let headers = letter("x").headers([]);
        assert!(headers.contains(&(ERROR.to_owned(), "line one line two".to_owned())));
    }

    #[test]
    fn the_message_s_own_headers_go_with_it_and_cannot_speak_for_ours() {
        let of_message = [
            ("traceparent", "00-a-b-01"),
            ("X-Two", "1"),
            ("X-Two", "2"),
            ("Nats-Rollup", "all"),
            ("kassa-consumer", "forged"),
            ("Kassa-Body-Bytes", "0"),
        ];
        let headers = letter("x").headers(of_message);
        let values = |wanted: &str| -> Vec<&str> {
            headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.as_str())
                .collect()
        };
        assert_eq!(values("traceparent"), ["00-a-b-01"]);
        assert_eq!(values("X-Two"), ["1", "2"]);
        assert_eq!(values(CONSUMER), ["ship-a"]);
        assert!(values("Nats-Rollup").is_empty() && values(BODY_BYTES).is_empty());
    }

    #[test]
    fn instructions_to_the_server_are_not_kept() {
        assert!(!DeadLetter::keeps("Nats-Expected-Last-Sequence") && !DeadLetter::keeps("nats-rollup"));
        assert!(DeadLetter::keeps("Idempotency-Key") && DeadLetter::keeps("traceparent"));
    }
}

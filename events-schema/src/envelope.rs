//! In what envelope does an event travel?
//!
//! CloudEvents 1.0 in structured mode: one JSON document, attributes first and `data` last, always in the same order.
//! Attribute names are lower-case alphanumeric because that specification says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};

use crate::event::{DecodeError, INTERNAL, PublishedEvent};
use crate::headers;
use crate::subject::{EventSubject, SubjectError, parse_part};
use crate::time::UtcTime;
use crate::words::{Aggregate, AuthType, WORD, shown};

/// Largest envelope in bytes: what CloudEvents obliges intermediaries to forward.
pub const BYTES_MAX: usize = 64 * 1024;

/// `CloudEvents` integers have 32 bits; no order or payment comes near.
const AGGREGATE_VERSION_MAX: u32 = i32::MAX.unsigned_abs();

/// Longest free text among the attributes (`correlationid`, `causationid`, `authid`), in bytes: they hold ids.
const ATTRIBUTE_MAX: usize = 128;

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/json";

/// What the store knows about an event besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMeta {
    /// The stored id, a UUID in lower case with hyphens; the same after a crash and a resend.
    pub event_id: String,
    /// Log partition.
    pub part: u32,
    /// Position in that part, which is also the sequence in its stream.
    pub position: u64,
    /// The shop's token.
    pub shop: String,
    /// What the event is about.
    pub aggregate: Aggregate,
    /// Id of the order or payment.
    pub aggregate_id: String,
    /// 1, 2, 3, … per order or payment; a reader sees gaps by it.
    pub aggregate_version: u32,
    /// When it happened; the provider's time if it gave one.
    pub time: UtcTime,
    /// When it was stored.
    pub recorded_time: UtcTime,
    /// The flow that it belongs to: the order's id.
    pub correlation_id: String,
    /// Id of the command or event that caused it.
    pub causation_id: String,
    /// Who made it happen.
    pub auth_type: AuthType,
    /// Which of them; never personal data.
    pub auth_id: String,
    /// False for the provider's test mode and for the simulator.
    pub livemode: bool,
}

/// An event as others see it. Consistent by construction: whether built or read, all its attributes agree.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Envelope {
    meta: EventMeta,
    subject: EventSubject,
    version: u16,
    data: Option<Map<String, Value>>,
    trace: Trace,
}

/// In which trace it was made: the distributed tracing extension. Empty where nobody traced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// W3C trace context at creation; that of the message's own hop is in its headers.
    pub traceparent: Option<String>,
    /// What others put beside it; not read by kassa.
    pub tracestate: Option<String>,
}

/// An envelope that cannot be sent, or cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Larger than [`BYTES_MAX`].
    #[error("envelope has {bytes} bytes, the most is 65536: keep large values out of events")]
    TooLarge {
        /// Size as JSON.
        bytes: usize,
    },
    /// Not JSON, or an attribute is missing or of another kind.
    #[error("envelope cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// An attribute has a value that it cannot have, or that another one contradicts.
    #[error("attribute {attribute} is {found:?}, expected {expected}")]
    Attribute {
        /// Name on the wire.
        attribute: &'static str,
        /// Its value, shortened.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A shop, id or event that cannot be in a subject.
    #[error("envelope names something that has no subject")]
    Subject(#[from] SubjectError),
    /// A published event without data.
    #[error("event {aggregate}.{event} has no data, only internal ones may have none")]
    DataMissing {
        /// Token of the family.
        aggregate: String,
        /// Token of the event.
        event: String,
    },
    /// An internal event with data.
    #[error("event {0}.internal has data, internal ones may have none")]
    DataUnexpected(String),
    /// The data is not what the type promises.
    #[error(transparent)]
    Data(#[from] DecodeError),
}

fn wrong(attribute: &'static str, found: &str, expected: impl Into<String>) -> EnvelopeError {
    EnvelopeError::Attribute {
        attribute,
        found: shown(found).into_owned(),
        expected: expected.into(),
    }
}

impl Envelope {
    /// Wraps a published event.
    ///
    /// # Errors
    /// [`EnvelopeError::Attribute`] or [`EnvelopeError::Subject`] when the row holds what an envelope cannot, or is
    /// about another order or payment than the event.
    pub fn published(meta: EventMeta, event: &PublishedEvent) -> Result<Self, EnvelopeError> {
        if meta.aggregate != event.aggregate() {
            return Err(wrong("type", event.aggregate().as_str(), meta.aggregate.as_str()));
        }
        check_id(event, &meta.aggregate_id)?;
        let Value::Object(data) = event.data() else {
            unreachable!("the data of every published event is a struct");
        };
        Self::new(meta, event.token(), event.version(), Some(data))
    }

    /// Wraps a stored event that is not published: no `data`, and the token `internal`.
    ///
    /// # Errors
    /// As [`Envelope::published`].
    pub fn internal(meta: EventMeta) -> Result<Self, EnvelopeError> {
        Self::new(meta, INTERNAL, 1, None)
    }

    fn new(
        meta: EventMeta,
        event: &str,
        version: u16,
        data: Option<Map<String, Value>>,
    ) -> Result<Self, EnvelopeError> {
        let subject = EventSubject::new(
            meta.part,
            meta.shop.as_str(),
            meta.aggregate.clone(),
            meta.aggregate_id.as_str(),
            event,
        )?;
        if !is_uuid(&meta.event_id) {
            return Err(wrong("id", &meta.event_id, "a uuid in lower case with hyphens"));
        }
        if meta.position == 0 {
            return Err(wrong("sequence", "0", "a position, from 1"));
        }
        if !(1..=AGGREGATE_VERSION_MAX).contains(&meta.aggregate_version) {
            let found = meta.aggregate_version.to_string();
            return Err(wrong("aggregateversion", &found, "a number from 1 to 2147483647"));
        }
        if version == 0 {
            return Err(wrong("type", "v0", "a major version, from 1"));
        }
        for (attribute, text) in [
            ("correlationid", &meta.correlation_id),
            ("causationid", &meta.causation_id),
            ("authid", &meta.auth_id),
        ] {
            if text.is_empty()
                || text.len() > ATTRIBUTE_MAX
                || !text.bytes().all(|byte| byte.is_ascii_graphic())
            {
                return Err(wrong(
                    attribute,
                    text,
                    "1 to 128 printable ascii characters without spaces",
                ));
            }
        }
        match (&data, event) {
            (Some(_), INTERNAL) => return Err(EnvelopeError::DataUnexpected(meta.aggregate.to_string())),
            (None, event) if event != INTERNAL => {
                let aggregate = meta.aggregate.to_string();
                return Err(EnvelopeError::DataMissing {
                    aggregate,
                    event: event.to_owned(),
                });
            }
            _ => {}
        }
        Ok(Self {
            meta,
            subject,
            version,
            data,
            trace: Trace::default(),
        })
    }

    /// Says in which trace it was made.
    #[must_use]
    pub fn traced(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    /// In which trace it was made.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Reads an envelope. Attributes that are not known here are ignored; a type that is not known is fine.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is too large, not readable, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self, EnvelopeError> {
        if json.len() > BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: json.len() });
        }
        serde_json::from_slice::<Wire>(json)
            .map_err(EnvelopeError::Unreadable)?
            .try_into()
    }

    /// The body of the message, compact.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`].
    pub fn to_json(&self) -> Result<Vec<u8>, EnvelopeError> {
        let json = serde_json::to_vec(self).map_err(EnvelopeError::Unreadable)?;
        if json.len() > BYTES_MAX {
            Err(EnvelopeError::TooLarge { bytes: json.len() })
        } else {
            Ok(json)
        }
    }

    /// What was published; `None` when the type or its version is not known here, and for an internal event (see
    /// [`Envelope::is_internal`], which a reader asks first when it counts the unknown).
    ///
    /// # Errors
    /// [`EnvelopeError::Data`] when the data is not what the type promises, [`EnvelopeError::Attribute`] when it is
    /// about another order or payment than the envelope.
    pub fn decode(&self) -> Result<Option<PublishedEvent>, EnvelopeError> {
        let Some(data) = &self.data else { return Ok(None) };
        // Deserializing by reference needs a `Value`; the copy is of one event, at most 64 KiB.
        let data = Value::Object(data.clone());
        let event = PublishedEvent::decode(self.meta.aggregate.as_str(), self.event(), self.version, &data)?;
        if let Some(event) = &event {
            check_id(event, &self.meta.aggregate_id)?;
        }
        Ok(event)
    }

    /// What the store knew about it.
    #[must_use]
    pub fn meta(&self) -> &EventMeta {
        &self.meta
    }

    /// Token of the event.
    #[must_use]
    pub fn event(&self) -> &str {
        self.subject.event()
    }

    /// Major version of its data.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The data as it came; `None` for an internal event.
    #[must_use]
    pub fn data(&self) -> Option<&Map<String, Value>> {
        self.data.as_ref()
    }

    /// Whether it only stands for a stored event that is not published.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.event() == INTERNAL
    }

    /// The NATS subject that it travels under. A reader compares it with where the message came from.
    #[must_use]
    pub fn nats_subject(&self) -> &EventSubject {
        &self.subject
    }

    /// `type` on the wire: `kassa.order.payment_safe.v1`.
    #[must_use]
    pub fn event_type(&self) -> String {
        format!("kassa.{}.{}.v{}", self.meta.aggregate, self.event(), self.version)
    }

    /// The headers of its message, without those of a trace or a fence.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 7] {
        [
            (headers::CONTENT_TYPE, headers::EVENT_CONTENT_TYPE.to_owned()),
            (headers::MSG_ID, self.meta.event_id.clone()),
            (headers::CE_ID, self.meta.event_id.clone()),
            (headers::CE_TYPE, self.event_type()),
            (headers::CE_SOURCE, self.source()),
            (headers::CE_SUBJECT, self.ce_subject()),
            (headers::CE_TIME, self.meta.time.to_string()),
        ]
    }

    fn source(&self) -> String {
        format!("/kassa/{}/{}", self.meta.part, self.meta.shop)
    }

    fn ce_subject(&self) -> String {
        format!("{}/{}", self.meta.aggregate, self.meta.aggregate_id)
    }
}

/// Relative URL of the schema of an event's data.
#[must_use]
pub fn schema_path(aggregate: &str, event: &str, version: u16) -> String {
    format!("/schemas/{aggregate}/{event}.v{version}.json")
}

fn check_id(event: &PublishedEvent, id: &str) -> Result<(), EnvelopeError> {
    if event.id() == id {
        Ok(())
    } else {
        Err(wrong("subject", id, format!("{}, as in data", event.id())))
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Envelope of every published event: CloudEvents 1.0, structured mode, at most 64 KiB. Readers ignore attributes and
/// fields that they do not know.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Envelope")]
pub(crate) struct Wire {
    /// Version of the CloudEvents specification.
    #[schemars(extend("const" = SPEC_VERSION))]
    specversion: String,
    /// Id of the event, also `Nats-Msg-Id`: the same after a crash and a resend.
    #[schemars(regex(pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    id: String,
    /// `/kassa/{part}/{shop}`: `sequence` can be compared between events of the same part.
    #[schemars(regex(pattern = "^/kassa/(0|[1-9][0-9]*)/[a-z0-9-]{1,32}$"))]
    source: String,
    /// `kassa.{aggregate}.{event}.v{major}`.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = r"^kassa\.[a-z][a-z0-9_]{0,63}\.[a-z][a-z0-9_]{0,63}\.v[1-9][0-9]*$"))]
    kind: String,
    /// `{aggregate}/{id}`.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_]{0,63}/[a-z]{3}_[0-9a-hjkmnp-tv-z]{1,40}$"))]
    subject: String,
    /// When it happened; the provider's time if it gave one.
    time: UtcTime,
    /// Kind of `data`.
    #[schemars(extend("const" = CONTENT_TYPE))]
    datacontenttype: String,
    /// Relative URL of the JSON Schema of `data`.
    #[schemars(regex(
        pattern = r"^/schemas/[a-z][a-z0-9_]{0,63}/[a-z][a-z0-9_]{0,63}\.v[1-9][0-9]*\.json$"
    ))]
    dataschema: String,
    /// When it was stored.
    recordedtime: UtcTime,
    /// Position in its part, 20 digits: the order of the texts is the order of the events, without a gap.
    #[schemars(regex(pattern = "^[0-9]{20}$"))]
    sequence: String,
    /// 1, 2, 3, … per order or payment.
    #[schemars(range(min = 1, max = AGGREGATE_VERSION_MAX))]
    aggregateversion: u32,
    /// The flow that it belongs to: the order's id.
    #[schemars(regex(pattern = "^[!-~]{1,128}$"))]
    correlationid: String,
    /// Id of the command or event that caused it.
    #[schemars(regex(pattern = "^[!-~]{1,128}$"))]
    causationid: String,
    /// Id of the order or payment.
    #[schemars(regex(pattern = "^[a-z]{3}_[0-9a-hjkmnp-tv-z]{1,40}$"))]
    partitionkey: String,
    /// Who made it happen.
    #[schemars(regex(pattern = WORD))]
    authtype: AuthType,
    /// Which of them; never personal data.
    #[schemars(regex(pattern = "^[!-~]{1,128}$"))]
    authid: String,
    /// False for the provider's test mode and for the simulator.
    livemode: bool,
    /// W3C trace context in which it was made; absent where nobody traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))]
    traceparent: Option<String>,
    /// W3C trace state beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    /// What happened, of the shape that `dataschema` names. Absent on events of type `internal`, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Map<String, Value>>,
}

/// The fields of [`Wire`] in their order, without a copy of the event: a replay writes millions of them. Every sample is
/// written back by it, byte for byte.
impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let meta = &self.meta;
        let (aggregate, event, version) = (meta.aggregate.as_str(), self.event(), self.version);
        let mut wire = serializer.serialize_map(None)?;
        wire.serialize_entry("specversion", SPEC_VERSION)?;
        wire.serialize_entry("id", &meta.event_id)?;
        wire.serialize_entry("source", &format_args!("/kassa/{}/{}", meta.part, meta.shop))?;
        wire.serialize_entry("type", &format_args!("kassa.{aggregate}.{event}.v{version}"))?;
        wire.serialize_entry("subject", &format_args!("{aggregate}/{}", meta.aggregate_id))?;
        wire.serialize_entry("time", &meta.time)?;
        wire.serialize_entry("datacontenttype", CONTENT_TYPE)?;
        wire.serialize_entry(
            "dataschema",
            &format_args!("/schemas/{aggregate}/{event}.v{version}.json"),
        )?;
        wire.serialize_entry("recordedtime", &meta.recorded_time)?;
        wire.serialize_entry("sequence", &format_args!("{:020}", meta.position))?;
        wire.serialize_entry("aggregateversion", &meta.aggregate_version)?;
        wire.serialize_entry("correlationid", &meta.correlation_id)?;
        wire.serialize_entry("causationid", &meta.causation_id)?;
        wire.serialize_entry("partitionkey", &meta.aggregate_id)?;
        wire.serialize_entry("authtype", &meta.auth_type)?;
        wire.serialize_entry("authid", &meta.auth_id)?;
        wire.serialize_entry("livemode", &meta.livemode)?;
        if let Some(traceparent) = &self.trace.traceparent {
            wire.serialize_entry("traceparent", traceparent)?;
        }
        if let Some(tracestate) = &self.trace.tracestate {
            wire.serialize_entry("tracestate", tracestate)?;
        }
        if let Some(data) = &self.data {
            wire.serialize_entry("data", data)?;
        }
        wire.end()
    }
}

impl TryFrom<Wire> for Envelope {
    type Error = EnvelopeError;

    fn try_from(wire: Wire) -> Result<Self, EnvelopeError> {
        if wire.specversion != SPEC_VERSION {
            return Err(wrong("specversion", &wire.specversion, SPEC_VERSION));
        }
        if wire.datacontenttype != CONTENT_TYPE {
            return Err(wrong("datacontenttype", &wire.datacontenttype, CONTENT_TYPE));
        }
        let (part, shop) = parse_source(&wire.source)?;
        let (aggregate, event, version) = parse_type(&wire.kind)?;
        let id = match wire.subject.split_once('/') {
            Some((of, id)) if of == aggregate => id,
            _ => {
                return Err(wrong(
                    "subject",
                    &wire.subject,
                    format!("{aggregate}/{{id}}, as in type"),
                ));
            }
        };
        if wire.partitionkey != id {
            return Err(wrong(
                "partitionkey",
                &wire.partitionkey,
                format!("{}, as in subject", shown(id)),
            ));
        }
        let dataschema = schema_path(aggregate, event, version);
        if wire.dataschema != dataschema {
            return Err(wrong("dataschema", &wire.dataschema, dataschema));
        }
        let meta = EventMeta {
            event_id: wire.id,
            part,
            position: parse_sequence(&wire.sequence)?,
            shop: shop.to_owned(),
            aggregate: aggregate.into(),
            aggregate_id: id.to_owned(),
            aggregate_version: wire.aggregateversion,
            time: wire.time,
            recorded_time: wire.recordedtime,
            correlation_id: wire.correlationid,
            causation_id: wire.causationid,
            auth_type: wire.authtype,
            auth_id: wire.authid,
            livemode: wire.livemode,
        };
        let trace = Trace {
            traceparent: wire.traceparent,
            tracestate: wire.tracestate,
        };
        Ok(Self::new(meta, event, version, wire.data)?.traced(trace))
    }
}

fn parse_source(source: &str) -> Result<(u32, &str), EnvelopeError> {
    let parts = source
        .strip_prefix("/kassa/")
        .and_then(|rest| rest.split_once('/'));
    let (part, shop) = parts.ok_or_else(|| wrong("source", source, "/kassa/{part}/{shop}"))?;
    Ok((parse_part(part)?, shop))
}

fn parse_type(kind: &str) -> Result<(&str, &str, u16), EnvelopeError> {
    let wrong = || wrong("type", kind, "kassa.{aggregate}.{event}.v{major}");
    let mut tokens = kind.split('.');
    let mut next = || tokens.next();
    let (Some("kassa"), Some(aggregate), Some(event), Some(major), None) =
        (next(), next(), next(), next(), next())
    else {
        return Err(wrong());
    };
    // One spelling per version: neither `v01` nor `v+1`, which would parse as a number.
    let digits = major
        .strip_prefix('v')
        .filter(|digits| !digits.starts_with(['0', '+']));
    let version = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    Ok((aggregate, event, version))
}

fn parse_sequence(sequence: &str) -> Result<u64, EnvelopeError> {
    let digits = sequence.len() == 20 && sequence.bytes().all(|byte| byte.is_ascii_digit());
    let position = if digits { sequence.parse().ok() } else { None };
    position.ok_or_else(|| {
        wrong(
            "sequence",
            sequence,
            "a position, as 20 digits with leading zeros",
        )
    })
}

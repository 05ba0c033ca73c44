//! What is wrong with CM for everybody, until so many calls have felt it?

use serde::{Deserialize, Serialize};

use crate::{clock::parse_duration, garble::Garble, ledger::Op, scenario::CallFault};

/// Faults that wait at one time: each is looked at on every call.
pub(crate) const FAULTS_MAX: usize = 20;
/// Calls that one fault can hit: an outage, not the end of the program's use.
const COUNT_MAX: u32 = 100_000;
/// Longest latency, in milliseconds: as long as calls that are never answered are held.
const LATENCY_MS_MAX: i128 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// 503, and nothing happened.
    #[serde(rename = "psp_503", alias = "psp_503_before_effect")]
    Psp503,
    /// 503, although it happened.
    #[serde(rename = "psp_503_after_effect")]
    Psp503AfterEffect,
    /// No answer, and nothing happened.
    #[serde(alias = "psp_timeout_before_effect")]
    PspTimeout,
    /// No answer, although it happened.
    PspTimeoutAfterEffect,
    /// 401, in CM's own document: nothing happened.
    #[serde(rename = "psp_401")]
    Psp401,
    /// 403, in CM's own document: nothing happened.
    #[serde(rename = "psp_403")]
    Psp403,
    /// 429, in CM's own document: nothing happened.
    #[serde(rename = "psp_429")]
    Psp429,
    /// Refused with 422 and an error code that is new: nothing happened.
    #[serde(rename = "psp_422")]
    Psp422,
    /// An order is made, and the answer says that its reference is taken. Only a create feels it.
    ReferenceTaken,
    /// An order is made, and the answer has the key of the one before it. Only a create feels it.
    SameKey,
    /// The right answer, later.
    Latency,
    /// It happened, and the answer is none: `html`, `cut`, `endless`, ….
    #[serde(untagged)]
    Garbled(Garble),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Create,
    Start,
    Status,
    Any,
}

/// Hits the next `left` calls of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) fault: What,
    pub(crate) operation: Operation,
    pub(crate) left: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<u64>,
    /// What a 429 or 503 says of when to come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_s: Option<u64>,
}

/// `POST /sim/faults`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// `latency` when left out and a latency is given.
    fault: Option<What>,
    operation: Option<Operation>,
    count: Option<u32>,
    latency: Option<String>,
    /// With `psp_429` and `psp_503`: in how many whole seconds to come again.
    retry_after: Option<u64>,
}

impl Asked {
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn check(self) -> Result<Fault, String> {
        let latency_ms = self
            .latency
            .map(|text| {
                let ms = parse_duration(&text)
                    .map_err(|why| format!("latency: {why}"))?
                    .as_millis();
                if ms > LATENCY_MS_MAX {
                    return Err("latency: at most 60s".to_owned());
                }
                Ok(u64::try_from(ms).unwrap_or(0))
            })
            .transpose()?;
        let fault = match (self.fault, latency_ms) {
            (Some(What::Latency), None) => return Err("latency: say how long, such as 2s".to_owned()),
            (Some(fault), _) => fault,
            (None, Some(_)) => What::Latency,
            (None, None) => return Err(
                "fault: one of psp_503, psp_503_after_effect, psp_timeout, psp_timeout_after_effect, psp_401, psp_403, \
                 psp_429, psp_422, reference_taken, same_key, latency, or how an answer is spoilt, such as html"
                    .to_owned(),
            ),
        };
        if self.retry_after.is_some()
            && !matches!(fault, What::Psp429 | What::Psp503 | What::Psp503AfterEffect)
        {
            return Err("retry_after: only with psp_429, psp_503 and psp_503_after_effect".to_owned());
        }
        let left = self.count.unwrap_or(1);
        if !(1..=COUNT_MAX).contains(&left) {
            return Err(format!("count: 1 to {COUNT_MAX}"));
        }
        Ok(Fault {
            fault,
            operation: self.operation.unwrap_or(Operation::Any),
            left,
            latency_ms,
            retry_after_s: self.retry_after,
        })
    }
}

/// What one call feels.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Felt {
    pub(crate) fault: Option<CallFault>,
    pub(crate) latency_ms: u64,
    pub(crate) retry_after_s: Option<u64>,
}

/// Takes one call's share out of the first fault that fits its operation.
pub(crate) fn take(faults: &mut Vec<Fault>, op: Op) -> Option<Felt> {
    let operation = match op {
        Op::Create => Operation::Create,
        Op::Start => Operation::Start,
        Op::Status => Operation::Status,
        Op::List | Op::MenuStart | Op::Bank | Op::Provider | Op::Notify | Op::Restart => return None,
    };
    let index = faults
        .iter()
        .position(|fault| fault.operation == operation || fault.operation == Operation::Any)?;
    let fault = &mut faults[index];
    let felt = Felt {
        fault: match fault.fault {
            What::Psp503 => Some(CallFault::Answer503WithoutEffect),
            What::Psp503AfterEffect => Some(CallFault::Answer503),
            What::PspTimeout => Some(CallFault::NeverAnswerWithoutEffect),
            What::PspTimeoutAfterEffect => Some(CallFault::NeverAnswer),
            What::Psp401 => Some(CallFault::TurnedAway(401)),
            What::Psp403 => Some(CallFault::TurnedAway(403)),
            What::Psp429 => Some(CallFault::TurnedAway(429)),
            What::Psp422 => Some(CallFault::Refused(422)),
            What::ReferenceTaken => Some(CallFault::ReferenceTaken),
            What::SameKey => Some(CallFault::SameKey),
            What::Garbled(garble) => Some(CallFault::Garbled(garble)),
            What::Latency => None,
        },
        latency_ms: fault.latency_ms.unwrap_or(0),
        retry_after_s: fault.retry_after_s,
    };
    fault.left -= 1;
    if fault.left == 0 {
        faults.remove(index);
    }
    Some(felt)
}

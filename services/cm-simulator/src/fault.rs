//! What is wrong with CM for everybody, until so many calls have felt it?

use serde::{Deserialize, Serialize};

use crate::{clock::parse_duration, ledger::Op, scenario::StartFault};

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
    /// The right answer, later.
    Latency,
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
                "fault: one of psp_503, psp_503_after_effect, psp_timeout, psp_timeout_after_effect, latency"
                    .to_owned(),
            ),
        };
        let left = self.count.unwrap_or(1);
        if !(1..=COUNT_MAX).contains(&left) {
            return Err(format!("count: 1 to {COUNT_MAX}"));
        }
        Ok(Fault {
            fault,
            operation: self.operation.unwrap_or(Operation::Any),
            left,
            latency_ms,
        })
    }
}

/// What one call feels.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Felt {
    pub(crate) fault: Option<StartFault>,
    pub(crate) latency_ms: u64,
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
            What::Psp503 => Some(StartFault::Answer503WithoutEffect),
            What::Psp503AfterEffect => Some(StartFault::Answer503),
            What::PspTimeout => Some(StartFault::NeverAnswerWithoutEffect),
            What::PspTimeoutAfterEffect => Some(StartFault::NeverAnswer),
            What::Latency => None,
        },
        latency_ms: fault.latency_ms.unwrap_or(0),
    };
    fault.left -= 1;
    if fault.left == 0 {
        faults.remove(index);
    }
    Some(felt)
}

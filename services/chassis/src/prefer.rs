//! How long is a caller willing to wait, and for what? `Prefer: wait=N; for=safe|final|change` (RFC 7240), the same on HTTP
//! and NATS.

use std::time::Duration;

use crate::problem::{FieldError, Problem};

/// What an order is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It is safe to ship, or it is certain that this will not come by itself.
    Safe,
    /// It is paid, canceled or expired.
    Final,
    /// Anything has happened to it.
    Change,
}

/// One `Prefer` header, as far as we follow it; other preferences are ignored, as the RFC asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preference {
    pub wait: Option<Duration>,
    pub until: Option<Until>,
}

impl Until {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Final => "final",
            Self::Change => "change",
        }
    }
}

impl Preference {
    /// Reads the header; waits above `max_s` are cut to it, and `Preference-Applied` says so.
    ///
    /// # Errors
    /// 400 `validation` when `wait` is no number of seconds, or `for` is no word that we know.
    pub fn parse(header: &str, max_s: u64) -> Result<Self, Box<Problem>> {
        let mut preference = Self::default();
        for token in header.split([';', ',']) {
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                // The first one counts, as the RFC says.
                "wait" if preference.wait.is_none() => {
                    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                    let seconds = digits.then(|| value.parse::<u64>().unwrap_or(max_s));
                    let seconds = seconds
                        .ok_or_else(|| wrong("wait must be whole seconds, such as wait=10".to_owned()))?;
                    preference.wait = Some(Duration::from_secs(seconds.min(max_s)));
                }
                "for" if preference.until.is_none() => {
                    preference.until = Some(match value {
                        "safe" => Until::Safe,
                        "final" => Until::Final,
                        "change" => Until::Change,
                        _ => return Err(wrong("for must be safe, final or change".to_owned())),
                    });
                }
                _ => {}
            }
        }
        Ok(preference)
    }
}

fn wrong(detail: String) -> Box<Problem> {
    Box::new(Problem::validation(vec![FieldError::new(
        "Prefer", "invalid", detail,
    )]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_cut_and_may_name_what_is_waited_for() {
        let parsed = |text| Preference::parse(text, 25).map_err(|problem| problem.errors[0].pointer.clone());
        let of = |wait: u64, until| {
            Ok(Preference {
                wait: Some(Duration::from_secs(wait)),
                until,
            })
        };
        assert_eq!(parsed("wait=10"), of(10, None));
        assert_eq!(
            parsed("respond-async, Wait=90; for=safe"),
            of(25, Some(Until::Safe))
        );
        assert_eq!(
            parsed("wait = \"3\" ; for=\"change\""),
            of(3, Some(Until::Change))
        );
        assert_eq!(parsed("wait=1, wait=9"), of(1, None));
        assert_eq!(parsed("wait=99999999999999999999999"), of(25, None));
        assert_eq!(parsed("return=minimal"), Ok(Preference::default()));
        for refused in ["wait=soon", "wait=", "wait=-1", "wait=1.5", "wait=1; for=ever"] {
            assert_eq!(parsed(refused), Err("Prefer".to_owned()), "{refused}");
        }
    }
}

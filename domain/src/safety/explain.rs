//! Why is an order safe to ship, or what is missing? The verdict in sentences, for people, beside codes for programs.

use serde_json::{Map, Value};

use super::NotSafe;
use crate::{
    money::Money,
    order::{Ended, Opened, Safety},
    payment::{AskedOrder, LossClass, Payment},
};

/// The verdict in words.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The whole, in a few sentences.
    pub sentence: String,
    /// Each condition that is not met; empty when the order is safe.
    pub missing: Vec<Missing>,
}

/// One condition that is not met.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    pub code: &'static str,
    pub sentence: String,
    /// The numbers and words that belong to the code.
    pub details: Map<String, Value>,
}

/// `attempt` is the one that is live, or else the last one; `release` is what the newest release counted.
pub fn explain(opened: &Opened, attempt: Option<&Payment>, release: Option<&super::Evidence>) -> Explained {
    if let Safety::Safe { epoch } = opened.safety {
        let counted = release.map_or_else(String::new, |evidence| {
            format!(
                " {} is counted of {}, and CM considers it {}.",
                evidence.counted.told(),
                opened.facts.amount.told(),
                evidence.level
            )
        });
        let again = match epoch {
            1 => String::new(),
            _ => format!(" It became so for the {epoch}th time: the money had been lost before."),
        };
        return Explained {
            sentence: format!("Safe to ship.{counted}{again}"),
            missing: vec![],
        };
    }
    let missing = missing(opened);
    let opening = match opened.safety {
        Safety::Lost { .. } => "Not safe any more: hold what has not left.",
        Safety::No | Safety::Safe { .. } => "Not safe to ship.",
    };
    let mut sentences = vec![opening.to_owned(), where_it_stands(opened, attempt)];
    sentences.extend(missing.iter().map(|missing| missing.sentence.clone()));
    Explained {
        sentence: sentences.join(" "),
        missing,
    }
}

/// What the provider may hold for the order beside what we know, for people to look for there.
pub fn told_of_ghosts(ghosts: &[&AskedOrder]) -> Option<String> {
    let each: Vec<String> = ghosts
        .iter()
        .map(|ghost| format!("{} ({})", ghost.reference, why_lost(ghost.lost)))
        .collect();
    (!each.is_empty()).then(|| {
        format!(
            "CM may hold orders for it that nobody can pay through us: {}.",
            each.join(", ")
        )
    })
}

fn why_lost(lost: Option<LossClass>) -> &'static str {
    match lost {
        Some(LossClass::Timeout) => "no answer in time",
        Some(LossClass::ConnectionLost) => "the connection broke",
        Some(LossClass::ServerError) => "a server error was answered",
        Some(LossClass::Unreadable) => "the answer could not be taken",
        Some(LossClass::WorkerLost) => "whoever asked for it is gone",
        Some(LossClass::ReferenceTaken) => "CM has the reference already",
        None => "another was taken first",
    }
}

fn missing(opened: &Opened) -> Vec<Missing> {
    let told = |reason: &NotSafe| Missing {
        code: reason.code(),
        sentence: sentence(reason),
        details: details(reason),
    };
    if opened.attempts.is_empty() && opened.read_no == 0 && opened.ended.is_none() {
        return vec![Missing {
            code: "no_payment_started",
            sentence: "No payment was started.".to_owned(),
            details: Map::new(),
        }];
    }
    let mut missing: Vec<Missing> = Vec::new();
    // Both hold from the moment they are known, whatever the newest report was judged as.
    if opened.stopped.is_some() {
        missing.push(told(&NotSafe::OrderStopped));
    }
    if opened.is_canceled() {
        missing.push(told(&NotSafe::OrderCanceled));
    }
    if opened.read_no == 0 {
        missing.push(told(&NotSafe::NothingReported));
    }
    for reason in &opened.not_safe {
        if missing.iter().all(|known| known.code != reason.code()) {
            missing.push(told(reason));
        }
    }
    missing
}

fn where_it_stands(opened: &Opened, attempt: Option<&Payment>) -> String {
    let order = match (opened.status(), opened.ended) {
        ("canceled", Some(Ended::Canceled { at })) => format!("The shop canceled the order at {at}."),
        ("expired", Some(Ended::Expired { at })) => format!("The order expired at {at}."),
        (status, _) => format!(
            "The order of {} is {}.",
            opened.facts.amount.told(),
            plain(status)
        ),
    };
    match attempt.and_then(|payment| payment.attempt().map(|facts| (payment, facts))) {
        // Its own status is what became of our asking: redirected, or ended.
        Some((_, facts)) if opened.under_way == Some(facts.payment_id) => format!(
            "{order} Its {} payment is under way at CM and not decided yet.",
            facts.method.as_str()
        ),
        Some((payment, facts)) => format!(
            "{order} Its {} payment is {}.",
            facts.method.as_str(),
            plain(payment.status())
        ),
        None => order,
    }
}

fn sentence(reason: &NotSafe) -> String {
    match reason {
        NotSafe::OrderStopped => {
            "An answer of CM was not about this order: a person must look before anything is released."
                .to_owned()
        }
        NotSafe::OrderCanceled => {
            "The shop canceled it: money that comes is to go back, and releases nothing.".to_owned()
        }
        NotSafe::NothingReported => "CM has not reported on it yet.".to_owned(),
        NotSafe::ProviderDoesNotConsiderSafe => "CM has not yet called it considered safe.".to_owned(),
        NotSafe::LevelNotAccepted { level, accepted } => format!(
            "CM considers it {level}, and this shop ships at {}.",
            accepted.join(" or ")
        ),
        NotSafe::NothingPaid => "No payment counts as paid.".to_owned(),
        NotSafe::MethodHasNoRoute { method } => {
            format!("It is not decided which amount counts for CM's method {method}.")
        }
        NotSafe::OtherCurrency { found, ordered } => {
            format!("{} was found, and the order is in {ordered}.", found.told())
        }
        NotSafe::AmountOutsideTolerance {
            counted,
            ordered,
            tolerance_minor,
        } => format!(
            "{} is counted of {}; the tolerance is {}.",
            counted.told(),
            ordered.told(),
            Money::new(*tolerance_minor, ordered.currency).told()
        ),
        NotSafe::MoneyWentBack {
            refunded_or_charged_back,
        } => format!(
            "{} was refunded or charged back.",
            refunded_or_charged_back.told()
        ),
    }
}

/// The reason's own fields, as they are stored.
fn details(reason: &NotSafe) -> Map<String, Value> {
    match serde_json::to_value(reason) {
        Ok(Value::Object(mut fields)) => {
            fields.remove("reason");
            fields
        }
        // Reasons are objects of plain data.
        Ok(_) | Err(_) => Map::new(),
    }
}

fn plain(word: &str) -> String {
    word.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Currency;

    #[test]
    fn a_ghost_is_told_with_its_reason_and_none_is_not() {
        let asked = |reference: &str, lost| AskedOrder {
            reference: reference.to_owned(),
            lost,
        };
        let (lost, beaten) = (asked("A-1", Some(LossClass::Timeout)), asked("A-1~1.2", None));
        assert_eq!(
            told_of_ghosts(&[&lost, &beaten]).as_deref(),
            Some(
                "CM may hold orders for it that nobody can pay through us: A-1 (no answer in time), \
                 A-1~1.2 (another was taken first)."
            )
        );
        assert_eq!(told_of_ghosts(&[]), None);
    }

    #[test]
    fn every_reason_has_a_sentence_with_its_numbers_and_no_reason_is_told_twice() {
        let eur = |minor| Money::new(minor, Currency::EUR);
        let short = NotSafe::AmountOutsideTolerance {
            counted: eur(4984),
            ordered: eur(4995),
            tolerance_minor: 10,
        };
        assert_eq!(
            sentence(&short),
            "€ 49.84 is counted of € 49.95; the tolerance is € 0.10."
        );
        assert_eq!(details(&short)["counted"]["value"], 4984);
        assert!(!details(&short).contains_key("reason"));
        let level = NotSafe::LevelNotAccepted {
            level: "FAST".to_owned(),
            accepted: vec!["SAFE".to_owned(), "SAFEST".to_owned()],
        };
        assert_eq!(
            sentence(&level),
            "CM considers it FAST, and this shop ships at SAFE or SAFEST."
        );
    }
}

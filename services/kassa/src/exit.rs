//! What does the shell learn? One exit code a kind of ending, and on stderr the reason and the remedy.

use std::{fmt, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

/// Every code, its name where a program reads it, and when it comes.
const CODES: [(u8, &str, &str); 11] = [
    (0, "done", "done"),
    (
        1,
        "refused",
        "refused by the service, or something is wrong: the reason is on stderr",
    ),
    (2, "usage", "the command line is not understood"),
    (
        3,
        "no",
        "waited, and the answer is \"no\": failed, canceled, expired, lost",
    ),
    (4, "timed_out", "timed out: the outcome is not known"),
    (5, "not_found", "there is no such thing, or not in this shop"),
    (
        6,
        "conflict",
        "a conflict: a key or a reference is taken, or an order is paid",
    ),
    (
        69,
        "unreachable",
        "a service cannot be reached, or is shutting down",
    ),
    (77, "no_permission", "the login or the API key may not do this"),
    (
        78,
        "configuration",
        "the configuration is wrong: kassa config check says where",
    ),
    (130, "interrupted", "interrupted by Ctrl-C"),
];

/// Which exit codes there are, and what each means.
#[derive(Debug, Args)]
#[command(long_about = codes(), after_help = "Examples:
  kassa help exit-codes
  kassa orders wait A-1 --for safe; echo $?
  kassa orders show A-1 --format json 2> problem.json || jq .code problem.json")]
pub(crate) struct CodesArgs {}

/// The list, for people.
pub(crate) fn codes() -> String {
    let lines: Vec<String> = CODES
        .iter()
        .map(|(code, name, when)| format!("{code:>4}  {name:14} {when}"))
        .collect();
    format!(
        "Exit codes, the same for every subcommand:\n\n{}\n\nWith --format json the reason is a problem document on stderr.",
        lines.join("\n")
    )
}

/// An ending that is not "done", with the code for it. Anything else that fails is 1.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    pub(crate) message: String,
    hint: Option<String>,
    /// As the service sent it.
    problem: Option<Value>,
}

impl Ended {
    pub(crate) const REFUSED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    /// Waited, and it will not come.
    pub(crate) const NO: u8 = 3;
    /// Waited in vain: the outcome is not known.
    pub(crate) const TIMED_OUT: u8 = 4;
    pub(crate) const NOT_FOUND: u8 = 5;
    pub(crate) const CONFLICT: u8 = 6;
    pub(crate) const UNREACHABLE: u8 = 69;
    pub(crate) const NO_PERMISSION: u8 = 77;
    pub(crate) const CONFIGURATION: u8 = 78;
    pub(crate) const INTERRUPTED: u8 = 130;

    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            problem: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A refusal, as the service sent it: the status and the code decide how the command line ends.
    pub(crate) fn refused(problem: Value) -> Self {
        let code = match (
            problem["code"].as_str().unwrap_or_default(),
            problem["status"].as_u64().unwrap_or_default(),
        ) {
            ("idempotency_key_reused" | "command_id_reused", _) | (_, 409 | 412) => Self::CONFLICT,
            (_, 401 | 403) => Self::NO_PERMISSION,
            (_, 404) => Self::NOT_FOUND,
            // The provider did not answer in time: what it did is not known.
            ("psp_timeout", _) | (_, 504) => Self::TIMED_OUT,
            ("store_unavailable" | "shutting_down", _) => Self::UNREACHABLE,
            _ => Self::REFUSED,
        };
        let text = |field: &str| problem[field].as_str().map(str::to_owned);
        Self {
            code,
            message: text("detail")
                .or_else(|| text("title"))
                .unwrap_or_else(|| "the service refuses".to_owned()),
            hint: text("hint"),
            problem: Some(problem),
        }
    }

    /// What was done before it ended, so that it is neither lost nor done twice.
    #[must_use]
    pub(crate) fn though_there_is(mut self, order_id: &str) -> Self {
        self.message = format!("{}; the order was made: {order_id}", self.message);
        if let Some(problem) = &mut self.problem {
            problem["order_id"] = json!(order_id);
        }
        self
    }

    fn word(&self) -> &'static str {
        CODES
            .iter()
            .find(|(code, ..)| *code == self.code)
            .map_or("refused", |(_, word, _)| word)
    }

    fn for_people(&self) -> String {
        let Some(problem) = &self.problem else {
            let hint = self
                .hint
                .as_ref()
                .map_or(String::new(), |hint| format!("\n  hint: {hint}"));
            return format!("error[{}]: {}{hint}", self.word(), self.message);
        };
        let text = |field: &str| problem[field].as_str().filter(|text| !text.is_empty());
        let mut lines = vec![format!(
            "error[{}]: {}",
            text("code").unwrap_or("refused"),
            self.message
        )];
        for error in problem["errors"].as_array().into_iter().flatten() {
            let part = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
            lines.push(format!("  field: {} {}", part("pointer"), part("detail")));
        }
        if let Some(hint) = &self.hint {
            lines.push(format!("  hint: {hint}"));
        }
        let docs = text("docs").or_else(|| text("type"));
        let trace = text("trace_id").map(|trace| format!("   trace: {trace}"));
        if docs.is_some() || trace.is_some() {
            lines.push(format!(
                "  docs: {}{}",
                docs.unwrap_or("-"),
                trace.unwrap_or_default()
            ));
        }
        lines.join("\n")
    }

    fn for_programs(&self) -> Value {
        self.problem.clone().unwrap_or_else(|| {
            let word = self.word();
            json!({ "type": "about:blank", "title": word, "code": word, "detail": self.message, "hint": self.hint,
                "exit_code": self.code })
        })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

/// Tells a person on stderr what went wrong, or a program in JSON, and the shell by the code.
pub(crate) fn report(error: &anyhow::Error, as_json: bool) -> ExitCode {
    let ended = error.downcast_ref::<Ended>();
    match (ended, as_json) {
        (Some(ended), true) => eprintln!("{}", ended.for_programs()),
        (Some(ended), false) => eprintln!("{}", ended.for_people()),
        (None, true) => eprintln!(
            "{}",
            Ended::new(Ended::REFUSED, format!("{error:#}")).for_programs()
        ),
        (None, false) => eprintln!("error: {error:#}"),
    }
    ExitCode::from(ended.map_or(Ended::REFUSED, |ended| ended.code))
}

/// For those who ask `kassa exit-codes` rather than `kassa help exit-codes`.
pub(crate) fn print() -> ExitCode {
    println!("{}", codes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_with_the_code_of_its_kind() {
        for (status, code, wanted) in [
            (400, "validation", 1),
            (401, "unauthenticated", 77),
            (403, "forbidden", 77),
            (404, "not_found", 5),
            (409, "order_not_payable", 6),
            (422, "idempotency_key_reused", 6),
            (422, "psp_refused", 1),
            (429, "rate_limited", 1),
            (503, "store_unavailable", 69),
            (503, "psp_unavailable", 1),
            (504, "psp_timeout", 4),
        ] {
            let ended = Ended::refused(json!({ "status": status, "code": code, "detail": "d", "hint": "h" }));
            assert_eq!(ended.code, wanted, "{code}");
        }
    }

    #[test]
    fn a_person_is_told_the_sentence_the_fields_the_hint_and_the_page() {
        let problem = json!({ "status": 400, "code": "validation", "detail": "two fields", "hint": "correct them",
            "type": "/problems/validation", "trace_id": "4bf9", "errors": [{ "pointer": "/country", "detail": "two letters" }] });
        assert_eq!(
            Ended::refused(problem).for_people(),
            "error[validation]: two fields\n  field: /country two letters\n  hint: correct them\n  docs: /problems/validation   trace: 4bf9"
        );
        let local = Ended::new(Ended::UNREACHABLE, "nobody answers").hint("start it");
        assert_eq!(
            local.for_people(),
            "error[unreachable]: nobody answers\n  hint: start it"
        );
    }
}

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn row(token: &str) -> Row {
    Row {
        token: token.to_owned(),
        provider_code: "IDEAL".to_owned(),
        names: BTreeMap::from([
            ("en".to_owned(), "iDEAL".to_owned()),
            ("nl".to_owned(), "iDEAL | Wero".to_owned()),
        ]),
        flow: Flow::Redirect,
        issuer: true,
        countries: vec!["NL".to_owned()],
        limits: vec![LimitsRow {
            currency: "EUR".to_owned(),
            min: 100,
            max: 5_000,
        }],
        valid_from: Some(at("2026-01-01T00:00:00Z")),
        valid_to: Some(at("2027-01-01T00:00:00Z")),
        ladder: vec![SignedDuration::from_secs(15)],
    }
}

fn purchase() -> Purchase<'static> {
    Purchase {
        country: "NL",
        currency: Currency::EUR,
        amount: Some(4_995),
        at: at("2026-11-24T12:00:00Z"),
    }
}

fn catalogue() -> Catalogue {
    Catalogue::check(File {
        method: vec![row("ideal")],
    })
    .unwrap()
}

fn excluded(purchase: Purchase<'_>) -> Option<Excluded> {
    catalogue().entry(Method::Ideal).unwrap().check(&purchase).err()
}

#[test]
fn a_method_is_on_offer_where_all_its_rules_hold() {
    let catalogue = catalogue();
    let offered: Vec<_> = catalogue
        .on_offer(&purchase())
        .map(|entry| entry.method)
        .collect();
    assert_eq!(offered, [Method::Ideal]);
    let without_amount = Purchase {
        amount: None,
        ..purchase()
    };
    assert_eq!(excluded(without_amount), None);
}

#[test]
fn the_rule_that_excludes_a_method_is_told_with_its_numbers() {
    let usd = Currency::parse("USD").unwrap();
    let told = |purchase| excluded(purchase).unwrap().to_string();
    assert_eq!(
        told(Purchase {
            country: "DE",
            ..purchase()
        }),
        "it is offered to shoppers in NL"
    );
    assert_eq!(
        told(Purchase {
            currency: usd,
            ..purchase()
        }),
        "it is taken in EUR"
    );
    for (amount, out) in [(99, true), (100, false), (5_000, false), (5_001, true)] {
        let asked = Purchase {
            amount: Some(amount),
            ..purchase()
        };
        assert_eq!(
            matches!(excluded(asked), Some(Excluded::Amount(_))),
            out,
            "{amount}"
        );
    }
    assert_eq!(
        told(Purchase {
            amount: Some(1),
            ..purchase()
        }),
        "it takes 100 to 5000 minor units EUR"
    );
}

#[test]
fn a_method_is_offered_from_its_first_moment_until_its_last_and_not_in_it() {
    for (moment, offered) in [
        ("2025-12-31T23:59:59Z", false),
        ("2026-01-01T00:00:00Z", true),
        ("2026-12-31T23:59:59Z", true),
        ("2027-01-01T00:00:00Z", false),
    ] {
        let asked = Purchase {
            at: at(moment),
            ..purchase()
        };
        assert_eq!(excluded(asked).is_none(), offered, "{moment}");
    }
}

#[test]
fn a_shopper_reads_the_name_in_their_language_or_in_english() {
    let catalogue = catalogue();
    let entry = catalogue.entry(Method::Ideal).unwrap();
    assert_eq!(
        ["nl", "nl-BE", "NL", "fr", ""].map(|language| entry.name(language)),
        ["iDEAL | Wero", "iDEAL | Wero", "iDEAL | Wero", "iDEAL", "iDEAL"]
    );
}

#[test]
fn every_problem_of_a_file_is_told_at_once_with_its_place() {
    let mut wrong = row("ideal");
    wrong.provider_code = "ideal".to_owned();
    wrong.names.remove("en");
    wrong.countries.push("Netherlands".to_owned());
    wrong.limits.push(LimitsRow {
        currency: "JPY".to_owned(),
        min: 0,
        max: 5,
    });
    wrong.valid_to = wrong.valid_from;
    wrong.ladder.clear();
    let mut unreachable = row("teleport");
    unreachable.limits.clear();
    let problems = Catalogue::check(File {
        method: vec![row("ideal"), wrong, unreachable],
    })
    .unwrap_err();
    for part in [
        "method 2 (ideal): provider_code",
        "method 2 (ideal): names: en",
        "method 2 (ideal): countries",
        "method 2 (ideal): limits: JPY is no currency",
        "method 2 (ideal): limits: JPY: min",
        "method 2 (ideal): valid_to",
        "method 2 (ideal): ladder",
        "method 2 (ideal): token: given twice",
        "method 3 (teleport): token: one of ideal, paypal",
        "method 3 (teleport): limits",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(part)),
            "{part} is missing in {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 10, "{problems:#?}");
}

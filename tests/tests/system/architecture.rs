//! Does the code hang together as it says it does?

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

/// Direct dependencies of each of our crates, as cargo knows them.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().expect("a list").clone();
        all.iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(name)
            .collect()
    };
    let packages = metadata["packages"].as_array().expect("a list");
    packages
        .iter()
        .map(|package| (name(package), normal(package)))
        .collect()
}

#[test]
fn dependencies_point_at_the_domain_and_the_contract_and_never_back() {
    let all = dependencies();
    let ours = |crate_name: &str| -> Vec<&str> {
        all[crate_name]
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("kassa"))
            .collect()
    };
    for pure in ["kassa-domain", "kassa-events-schema", "kassa-migrations"] {
        assert_eq!(
            ours(pure),
            Vec::<&str>::new(),
            "{pure} depends on nothing of ours"
        );
    }
    // A shop links it: it may know the wire and nothing else.
    assert_eq!(ours("kassa-shipment"), ["kassa-events-schema"]);
    for (name, direct) in &all {
        let writes = direct.iter().any(|dependency| dependency == "kassa-engine");
        let may_write = ["kassa-checkout", "kassa-cm-gateway", "kassa"].contains(&name.as_str());
        assert!(!writes || may_write, "{name} links the only crate that writes");
    }
}

#[test]
fn the_domain_links_nothing_that_does_io() {
    let all = dependencies();
    let allowed = [
        "cqrs-es",
        "data-encoding",
        "iso_currency",
        "jiff",
        "serde",
        "serde_json",
        "sha2",
        "thiserror",
        "uuid",
    ];
    for dependency in &all["kassa-domain"] {
        assert!(
            allowed.contains(&dependency.as_str()),
            "{dependency} in the domain"
        );
    }
}

#[test]
fn every_folder_tells_what_question_it_answers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<_> = [
        "domain",
        "events-schema",
        "migrations",
        "infra",
        "infra/examples",
        "tests",
    ]
    .map(|f| root.join(f))
    .to_vec();
    folders.extend(
        std::fs::read_dir(root.join("services"))
            .expect("it is there")
            .flatten()
            .map(|entry| entry.path()),
    );
    for folder in folders {
        let readme = std::fs::read_to_string(folder.join("README.md"));
        assert!(
            readme.is_ok_and(|text| text.contains('?')),
            "{} has no README with its question",
            folder.display()
        );
    }
}

/// Every source file that can refuse something: of the services, and of what they share with their callers.
fn sources() -> Vec<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("services"), root.join("events-schema/src/api")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_problem_has_a_code_of_the_registry_with_the_status_that_stands_there() {
    let mut found = 0;
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        // Tests make up what they like.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in text.split("Problem::new(").skip(1) {
            let (status, rest) = call.split_once(',').expect("two arguments at least");
            let code = rest.trim_start().split(',').next().unwrap_or_default().trim();
            let status: u16 = status
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("{}: the status must be a number: {status}", file.display()));
            for code in codes(text, code) {
                let known = kassa_events_schema::api::problems::problem_type(code)
                    .unwrap_or_else(|| panic!("{}: {code} is not in the registry", file.display()));
                assert_eq!(known.status, status, "{}: {code}", file.display());
                found += 1;
            }
        }
    }
    assert!(
        found > 20,
        "only {found} problems were found: are they made in another way?"
    );
}

/// The codes that one call can give: the literal that stands there or, for a variable `code`, those that its file's
/// `let (code, …) = match` chooses from, each the first text of a tuple.
fn codes<'t>(text: &'t str, code: &'t str) -> Vec<&'t str> {
    if let Some(literal) = code.strip_prefix('"') {
        return vec![literal.trim_end_matches('"')];
    }
    assert_eq!(
        code, "code",
        "a code must be a text, or chosen by a match into `code`"
    );
    let choice = text
        .split("let (code, ")
        .nth(1)
        .and_then(|choice| choice.split("};").next())
        .expect("it is chosen by a match");
    let chosen: Vec<_> = choice
        .split("=> (")
        .skip(1)
        .filter_map(|arm| arm.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    assert!(!chosen.is_empty(), "the match into `code` has no texts");
    chosen
}

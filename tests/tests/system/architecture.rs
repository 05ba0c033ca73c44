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
    // A second opinion is none if it asks the first.
    assert_eq!(ours("kassa-verify"), ["kassa-events-schema"]);
    for (name, direct) in &all {
        let writes = direct.iter().any(|dependency| dependency == "kassa-engine");
        // A benchmark has orders decided, on a server of its own.
        let may_write =
            ["kassa-checkout", "kassa-cm-gateway", "kassa", "kassa-bench"].contains(&name.as_str());
        assert!(!writes || may_write, "{name} links the only crate that writes");
    }
}

#[test]
fn a_second_database_client_is_linked_by_the_benches_alone() {
    for (name, direct) in dependencies() {
        let strangers = direct.iter().any(|d| d == "sqlx" || d == "postgres-es");
        assert_eq!(
            strangers,
            name == "kassa-bench",
            "{name} links sqlx or postgres-es"
        );
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
fn the_domain_and_the_contract_mean_the_same_by_a_shop() {
    for text in [
        "a",
        "demo-shop",
        "0",
        "-",
        &"x".repeat(32),
        "",
        &"x".repeat(33),
        "Shop",
        "a_b",
        "a.b",
        "*",
        ">",
        "a b",
        "é",
    ] {
        assert_eq!(
            kassa_domain::ids::Shop::parse(text).is_ok(),
            kassa_events_schema::subject::check_shop(text).is_ok(),
            "{text:?}"
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

#[test]
fn the_readme_names_every_file_of_these_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("a README");
    for file in std::fs::read_dir(root.join("tests/system")).expect("a folder") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        if name != "main.rs" {
            assert!(readme.contains(&format!("`{name}`")), "tests/README.md: {name}");
        }
    }
}

//! Can every mutation still be made? Each patch in `tests/mutations` takes one guarantee away, and names the test that
//! notices; `tests/mutations/run` tries them. Here it is only seen that code and patches have not grown apart.

use std::path::{Path, PathBuf};

/// Without these, nobody would know that money is safe: they stay, under these names.
const WANTED: [&str; 8] = [
    "relay-fence",
    "store-expected-version",
    "shipment-inbox",
    "gateway-intent",
    "store-command-log",
    "order-read-number",
    "echo-reference",
    "nats-permission",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Name and text of each.
fn patches() -> Vec<(String, String)> {
    let folder = root().join("tests/mutations");
    let mut patches: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a patch is text"))
        })
        .collect();
    patches.sort();
    patches
}

/// What the head of a patch says under a name, once.
fn said<'p>(patch: &'p str, field: &str) -> &'p str {
    let prefix = format!("# {field}: ");
    let mut found = patch.lines().filter_map(|line| line.strip_prefix(&prefix));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("there is no line '{prefix}…'"));
    assert!(found.next().is_none(), "{field} is said twice");
    value
}

/// The lines that a hunk expects and those that it leaves, with the file that it is about.
struct Hunk<'p> {
    file: &'p str,
    /// How many lines there are to be of either, by the hunk's own head.
    counted: (usize, usize),
    before: Vec<&'p str>,
    after: Vec<&'p str>,
}

fn hunks(patch: &str) -> Vec<Hunk<'_>> {
    let mut hunks: Vec<Hunk<'_>> = Vec::new();
    let mut file = "";
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("+++ b/") {
            file = name;
        } else if let Some(head) = line.strip_prefix("@@ -") {
            let counts: Vec<usize> = head
                .split([' ', '+'])
                .filter_map(|range| range.split_once(',')?.1.parse().ok())
                .collect();
            let [before, after] = counts[..] else {
                panic!("{line}: not two ranges")
            };
            hunks.push(Hunk {
                file,
                counted: (before, after),
                before: vec![],
                after: vec![],
            });
        } else if line.starts_with("--- a/") {
            file = "";
        } else if let Some(hunk) = hunks.last_mut() {
            let (kind, text) = line.split_at_checked(1).unwrap_or((" ", ""));
            if kind == " " || kind == "-" {
                hunk.before.push(text);
            }
            if kind == " " || kind == "+" {
                hunk.after.push(text);
            }
        }
    }
    hunks
}

fn places(text: &str, wanted: &[&str]) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(wanted.len())
        .filter(|place| *place == wanted)
        .count()
}

#[test]
fn every_mutation_applies_to_one_place_and_changes_what_is_no_test() {
    let patches = patches();
    for wanted in WANTED {
        assert!(patches.iter().any(|(name, _)| name == wanted), "{wanted} is gone");
    }
    for (name, patch) in &patches {
        let hunks = hunks(patch);
        assert!(!hunks.is_empty(), "{name} changes nothing");
        for hunk in hunks {
            let Hunk {
                file,
                counted,
                before,
                after,
            } = hunk;
            // A patch that was edited by hand: git would not take it.
            assert_eq!(counted, (before.len(), after.len()), "{name}: {file}: lines");
            assert!(
                !file.contains("tests"),
                "{name}: {file} is a test, which may not be what fails by itself"
            );
            assert_ne!(before, after, "{name}: {file}");
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            assert_eq!(
                places(&text, &before),
                1,
                "{name}: make the patch anew, {file} has not exactly one place with\n{}",
                before.join("\n")
            );
        }
    }
}

#[test]
fn every_mutation_names_a_test_that_there_is() {
    for (name, patch) in patches() {
        assert!(!said(&patch, "guarantee").is_empty() && !said(&patch, "says").is_empty());
        let command: Vec<&str> = said(&patch, "test").split(' ').collect();
        let ["cargo", "test", "-p", package, target @ .., test] = &command[..] else {
            panic!("{name}: {command:?} runs no one test")
        };
        assert!(matches!(target, ["--lib"] | ["--test", _]), "{name}: {target:?}");
        let folder = folder_of(package).unwrap_or_else(|| panic!("{name}: there is no crate {package}"));
        let declared = format!("fn {test}(");
        assert!(
            sources(&folder)
                .iter()
                .any(|source| { std::fs::read_to_string(source).is_ok_and(|text| text.contains(&declared)) }),
            "{name}: {package} has no test {test}"
        );
    }
}

fn folder_of(package: &str) -> Option<PathBuf> {
    let declared = format!("name = \"{package}\"");
    let services = std::fs::read_dir(root().join("services")).expect("a folder");
    let services = services.map(|entry| entry.expect("an entry").path());
    let others = [
        "domain",
        "events-schema",
        "infra",
        "migrations",
        "tests",
        "tests/harness",
    ];
    services
        .chain(others.map(|folder| root().join(folder)))
        .find(|folder| {
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml"));
            manifest.is_ok_and(|manifest| manifest.lines().any(|line| line == declared))
        })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

//! Where does each value come from, and what is wrong with any of them, all at once?
//!
//! Defaults < `kassa.toml` < `KASSA_…` < `DATABASE_URL` and `NATS_URL`. Every variable may have `_FILE` behind its name: it
//! then names a file that holds the value. A variable that is set and empty counts as not set. Whoever loses is named in a
//! warning; values never are.

use std::{
    collections::BTreeMap,
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use super::{Config, Mode};

/// More than there are keys: each turn takes one problem out.
const PROBLEMS_MAX: usize = 500;
/// Names that are known beyond kassa.
const WELL_KNOWN: [(&str, &str); 2] = [("DATABASE_URL", "database.url"), ("NATS_URL", "nats.url")];

/// One thing about the configuration that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Otherwise a warning.
    pub is_error: bool,
    /// `kassa.toml:12`, or a variable's name; empty where nothing was set.
    pub place: String,
    pub key: String,
    /// What is wrong, and what is allowed there.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.text)
    }
}

/// A configuration, as far as it could be understood.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub findings: Vec<Finding>,
    /// By key: where its value comes from. What is missing here has its default.
    pub origins: BTreeMap<String, String>,
}

impl Loaded {
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_error)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.is_error)
    }
}

/// Reads everything there is to read, and checks it; never fails, but finds.
pub(super) fn load(file: Option<&Path>, environment: BTreeMap<String, String>) -> Loaded {
    let mut reading = Reading::default();
    reading.file(file);
    reading.environment(environment);
    let config = reading.understand();
    reading.check(&config);
    // In the order of the file, as it is read and mended.
    reading.findings.sort_by_key(|finding| {
        let (file, line) = finding.place.rsplit_once(':').unwrap_or((&finding.place, ""));
        (file.to_owned(), line.parse::<usize>().unwrap_or(0))
    });
    Loaded {
        config,
        findings: reading.findings,
        origins: reading.origins,
    }
}

/// The JSON Schema of the file, also for editors.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    schema["title"] = json!("kassa.toml");
    schema
}

#[derive(Default)]
struct Reading {
    tree: Map<String, Value>,
    origins: BTreeMap<String, String>,
    findings: Vec<Finding>,
    /// Keys that are told already; what follows from them is not.
    broken: Vec<String>,
}

impl Reading {
    fn find(&mut self, is_error: bool, key: &str, text: impl Into<String>) {
        let place = self.place_of(key);
        self.findings.push(Finding {
            is_error,
            place,
            key: key.to_owned(),
            text: text.into(),
        });
    }

    /// Of the key itself or, where it was not set, of what it stands in.
    fn place_of(&self, key: &str) -> String {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin.clone();
            }
            match key.rsplit_once('.') {
                Some((parent, _)) => key = parent,
                None => return String::new(),
            }
        }
    }

    // --- The file ---

    fn file(&mut self, file: Option<&Path>) {
        let path = file.unwrap_or(Path::new("kassa.toml"));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.findings.push(Finding {
                    is_error: true,
                    place: path.display().to_string(),
                    key: String::new(),
                    text: format!("cannot be read: {error}"),
                });
                return;
            }
        };
        let name = path.display().to_string();
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            self.findings.push(Finding {
                is_error: true,
                place: format!("{name}:{}", error.span().map_or(1, |span| line(span.start))),
                key: String::new(),
                // The reason alone: the line that a parser quotes may hold a password.
                text: error.message().to_owned(),
            });
        }
        let mut origins = BTreeMap::new();
        let origin = |at: usize| format!("{name}:{}", line(at));
        self.tree = table_to_json(table.get_ref(), "", &origin, &mut origins);
        self.origins.append(&mut origins);
    }

    // --- The environment ---

    fn environment(&mut self, environment: BTreeMap<String, String>) {
        let schema = schema();
        let mut given: Vec<(String, String, String)> = Vec::new();
        for (name, value) in &environment {
            // Every key has a dot, so every name has `__`: KASSA_CACHE_DIR and the like are for others.
            let known = WELL_KNOWN
                .iter()
                .find(|(known, _)| name.strip_suffix("_FILE").unwrap_or(name) == *known);
            let ours = name.strip_prefix("KASSA_").filter(|rest| rest.contains("__"));
            let key = match (known, ours) {
                (Some((_, key)), _) => {
                    let tail = if name.ends_with("_FILE") { "_file" } else { "" };
                    format!("{key}{tail}")
                }
                (None, Some(rest)) => self.key_of(rest),
                (None, None) => continue,
            };
            if value.is_empty() {
                self.findings.push(Finding {
                    is_error: false,
                    place: name.clone(),
                    key,
                    text: "set, but empty: counts as not set".to_owned(),
                });
                continue;
            }
            given.push((name.clone(), key, value.clone()));
        }
        // What comes later wins: files of values, then values, then the names known beyond kassa.
        given.sort_by_key(|(name, key, _)| {
            (
                WELL_KNOWN.iter().any(|(known, _)| name.starts_with(known)),
                !key.ends_with("_file"),
            )
        });
        for (name, key, value) in given {
            let (key, value) = match key.strip_suffix("_file") {
                // `password_file` is a key; `database.url_file` is a file with the value of `database.url`.
                Some(of) if at(&schema, &key).is_none() && at(&schema, of).is_some() => {
                    match std::fs::read_to_string(&value) {
                        Ok(text) => {
                            self.secret_file(of, Path::new(&value), &name);
                            (of.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned())
                        }
                        Err(error) => {
                            self.broken.push(of.to_owned());
                            self.findings.push(Finding {
                                is_error: true,
                                place: name,
                                key: of.to_owned(),
                                text: format!("{value}: {error}"),
                            });
                            continue;
                        }
                    }
                }
                _ => (key, value),
            };
            self.set(&schema, &name, &key, value);
        }
    }

    fn set(&mut self, schema: &Value, name: &str, key: &str, value: String) {
        if let Some(loser) = self.origins.insert(key.to_owned(), name.to_owned()) {
            self.findings.push(Finding {
                is_error: false,
                place: loser,
                key: key.to_owned(),
                text: format!("not used: {name} is set, and wins"),
            });
        }
        let value = typed(value, at(schema, key));
        let mut table = &mut self.tree;
        let mut words = key.split('.').peekable();
        while let Some(word) = words.next() {
            if words.peek().is_none() {
                table.insert(word.to_owned(), value);
                return;
            }
            let inner = table
                .entry(word.to_owned())
                .and_modify(|inner| {
                    if !inner.is_object() {
                        *inner = json!({});
                    }
                })
                .or_insert_with(|| json!({}));
            let Value::Object(inner) = inner else { return };
            table = inner;
        }
    }

    /// `SHOPS__BREKZ_NL__CM__MODE` → `shops.brekz-nl.cm.mode`: a shop has hyphens, which a variable's name cannot have.
    fn key_of(&self, rest: &str) -> String {
        let mut words: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        if let [first, shop, ..] = &mut words[..]
            && first == "shops"
        {
            *shop = shop.replace('_', "-");
        }
        words.join(".")
    }

    // --- Making sense of it ---

    /// Takes out what cannot be understood, one after the other, until the rest can.
    fn understand(&mut self) -> Config {
        let schema = schema();
        for _ in 0..PROBLEMS_MAX {
            let tree = Value::Object(self.tree.clone());
            let error = match serde_path_to_error::deserialize::<_, Config>(&tree) {
                Ok(config) => return config,
                Err(error) => error,
            };
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            let message = error.inner().to_string();
            if let Some(word) = between(&message, "unknown field `") {
                let parent = path
                    .strip_suffix(word)
                    .map_or(path.as_str(), |parent| parent.trim_end_matches('.'));
                let key = joined(parent, word);
                self.find(true, &key, unknown(word, &message));
                self.take_out(&key);
            } else if let Some(word) = between(&message, "missing field `") {
                let key = joined(&path, word);
                self.find(true, &key, "missing: it has no default");
                if !self.put_in(&schema, &key) {
                    self.take_out(&path);
                }
            } else {
                let expected = message
                    .rsplit_once("expected ")
                    .map(|(_, wanted)| wanted.to_owned());
                let text = allowed(at(&schema, &path), expected, &message, found(&tree, &path));
                self.find(true, &path, text);
                if path.is_empty() || !self.take_out(&path) {
                    break;
                }
            }
        }
        Config::default()
    }

    fn take_out(&mut self, key: &str) -> bool {
        self.broken.push(key.to_owned());
        let (parent, word) = key.rsplit_once('.').unwrap_or(("", key));
        // One item of a list cannot be missed: the list goes.
        let word = word.split('[').next().unwrap_or(word);
        let mut table = Some(&mut self.tree);
        for step in parent.split('.').filter(|step| !step.is_empty()) {
            table = table
                .and_then(|table| table.get_mut(step))
                .and_then(Value::as_object_mut);
        }
        table.is_some_and(|table| table.remove(word).is_some())
    }

    /// Something that is understood in place of what is missing; whatever is wrong with it is not told.
    fn put_in(&mut self, schema: &Value, key: &str) -> bool {
        let node = at(schema, key).unwrap_or_default();
        let standing = match node["type"].as_str() {
            Some("array") => json!([]),
            Some("integer" | "number") => json!(1),
            Some("boolean") => json!(false),
            Some("string") | None => json!(""),
            _ => return false,
        };
        self.broken.push(key.to_owned());
        let (parent, word) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = Some(&mut self.tree);
        for step in parent.split('.').filter(|step| !step.is_empty()) {
            table = table
                .and_then(|table| table.get_mut(step))
                .and_then(Value::as_object_mut);
        }
        table.is_some_and(|table| table.insert(word.to_owned(), standing).is_none())
    }

    // --- What the values mean together ---

    fn check(&mut self, config: &Config) {
        for line in config.wrong() {
            let (key, text) = line.split_once(": ").unwrap_or(("", &line));
            let follows = self.broken.iter().any(|broken| {
                key == broken
                    || key.starts_with(&format!("{broken}."))
                    || broken.starts_with(&format!("{key}."))
            });
            if !follows {
                self.find(true, key, text);
            }
        }
        let live = config.shops.values().any(|shop| shop.cm.mode == Mode::Live);
        for (name, shop) in &config.shops {
            let key = format!("shops.{name}.cm");
            let is_live = shop.cm.mode == Mode::Live;
            self.secret(
                &key,
                "password",
                shop.cm.password.is_some(),
                shop.cm.password_file.as_ref(),
                is_live,
            );
        }
        for (key, login) in [
            ("nats.worker", &config.nats.worker),
            ("nats.relay", &config.nats.relay),
        ] {
            self.secret(
                key,
                "password",
                login.password.is_some(),
                login.password_file.as_ref(),
                live,
            );
            if let Err(error) = login.resolve() {
                self.find(true, &format!("{key}.password_file"), error.to_string());
            }
        }
        if !live {
            return;
        }
        let in_file = |origins: &BTreeMap<String, String>, key: &str| {
            origins.get(key).is_some_and(|origin| origin.contains(':'))
        };
        let with_password = |url: &str| url::Url::parse(url).is_ok_and(|url| url.password().is_some());
        if in_file(&self.origins, "database.url") && with_password(config.database.url.expose_secret()) {
            self.find(true, "database.url", "a password in clear, with a shop in mode live: put the URL in a file and its name in DATABASE_URL_FILE");
        }
        if in_file(&self.origins, "nats.url") && with_password(&config.nats.url) {
            self.find(
                true,
                "nats.url",
                "a password in clear, with a shop in mode live: use nats.worker.user and password_file",
            );
        }
        if let Ok(url) = url::Url::parse(&config.nats.url)
            && !matches!(url.scheme(), "tls" | "wss")
            && !is_near(&url)
        {
            self.find(
                true,
                "nats.url",
                "tls://… to another machine, with a shop in mode live",
            );
        }
    }

    fn secret(&mut self, key: &str, name: &str, in_clear: bool, file: Option<&PathBuf>, live: bool) {
        let (clear_key, file_key) = (format!("{key}.{name}"), format!("{key}.{name}_file"));
        if in_clear && file.is_some() {
            self.find(
                false,
                &file_key,
                format!("not used: {clear_key} is set, and wins"),
            );
        }
        if in_clear && live {
            self.find(true, &clear_key, format!("a secret in clear, in mode live: put it in a file that its owner alone can read, and name it in {name}_file"));
        }
        if let Some(path) = file {
            self.secret_file(&file_key, path, "");
        }
    }

    /// A secret that everybody on the machine can read is none.
    fn secret_file(&mut self, key: &str, path: &Path, name: &str) {
        let Ok(about) = std::fs::metadata(path) else {
            // That it cannot be read is told where it is read.
            return;
        };
        if about.permissions().mode() & 0o004 != 0 {
            let place = if name.is_empty() {
                self.place_of(key)
            } else {
                name.to_owned()
            };
            self.findings.push(Finding {
                is_error: true,
                place,
                key: key.to_owned(),
                text: format!(
                    "{} can be read by everybody on this machine: chmod 600 it",
                    path.display()
                ),
            });
        }
    }
}

fn table_to_json(
    table: &DeTable<'_>,
    prefix: &str,
    origin: &impl Fn(usize) -> String,
    origins: &mut BTreeMap<String, String>,
) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in table {
        let key = joined(prefix, name.get_ref());
        origins.insert(key.clone(), origin(name.span().start));
        object.insert(
            name.get_ref().to_string(),
            value_to_json(value.get_ref(), &key, origin, origins),
        );
    }
    object
}

fn value_to_json(
    value: &DeValue<'_>,
    key: &str,
    origin: &impl Fn(usize) -> String,
    origins: &mut BTreeMap<String, String>,
) -> Value {
    match value {
        DeValue::String(text) => json!(text.as_ref()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| json!(number.as_str()), Value::from),
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| json!(number.as_str()), Value::from),
        DeValue::Boolean(yes) => json!(yes),
        DeValue::Datetime(time) => json!(time.to_string()),
        DeValue::Array(items) => {
            // An item's own table is found by the list's line.
            items
                .iter()
                .map(|item| value_to_json(item.get_ref(), key, origin, &mut BTreeMap::new()))
                .collect()
        }
        DeValue::Table(table) => Value::Object(table_to_json(table, key, origin, origins)),
    }
}

/// A variable is text; what it stands for says the schema.
fn typed(text: String, node: Option<Value>) -> Value {
    match node.as_ref().and_then(kind_of) {
        Some("integer") => text
            .trim()
            .parse::<i64>()
            .map_or_else(|_| json!(text), Value::from),
        Some("boolean") => text
            .trim()
            .parse::<bool>()
            .map_or_else(|_| json!(text), Value::from),
        Some("array") => serde_json::from_str(&text)
            .ok()
            .filter(Value::is_array)
            .unwrap_or_else(|| text.split(',').map(|item| json!(item.trim())).collect()),
        _ => json!(text),
    }
}

fn kind_of(node: &Value) -> Option<&str> {
    match &node["type"] {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null"),
        _ => None,
    }
}

/// The schema's node for a key; keys of a map (a shop, a method) are any.
fn at(schema: &Value, key: &str) -> Option<Value> {
    let resolve = |node: &Value| -> Value {
        let mut node = node.clone();
        // `$ref`, alone or in the `anyOf` of something optional; as deep as types are nested.
        for _ in 0..8 {
            let target = node["$ref"].as_str().or_else(|| {
                node["anyOf"]
                    .as_array()?
                    .iter()
                    .find_map(|one| one["$ref"].as_str())
            });
            match target.and_then(|target| schema.pointer(target.strip_prefix('#')?)) {
                Some(found) => node = found.clone(),
                None => break,
            }
        }
        node
    };
    let mut node = resolve(schema);
    for word in key.split('.').filter(|word| !word.is_empty()) {
        let word = word.split('[').next().unwrap_or(word);
        let next = node["properties"]
            .get(word)
            .or_else(|| Some(&node["additionalProperties"]).filter(|any| any.is_object()))?;
        node = resolve(next);
    }
    Some(node)
}

fn found<'t>(tree: &'t Value, key: &str) -> Option<&'t Value> {
    let pointer = key.replace(['.', '['], "/").replace(']', "");
    tree.pointer(&format!("/{pointer}"))
}

/// What may stand there, without what does: that may be a secret in the wrong place.
fn allowed(node: Option<Value>, expected: Option<String>, message: &str, value: Option<&Value>) -> String {
    let node = node.unwrap_or_default();
    if node["format"] == "duration" {
        return "a duration, such as 500ms, 30s or 5m".to_owned();
    }
    // A documented variant stands alone, as a constant; those without words of their own in one list.
    let lists = std::iter::once(&node).chain(node["oneOf"].as_array().into_iter().flatten());
    let words: Vec<String> = lists
        .flat_map(|one| {
            one["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .chain([&one["const"]])
        })
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    if !words.is_empty() {
        return format!(
            "one of {}{}",
            words.join(", "),
            suggestion(value.and_then(Value::as_str).unwrap_or_default(), &words)
        );
    }
    if let Some(expected) = expected {
        let plain = match expected.as_str() {
            "usize" | "u64" | "u32" | "u16" => "a whole number, 0 or more",
            "i64" | "i32" => "a whole number",
            "a string" => "a text",
            "a sequence" => "a list",
            other => other,
        };
        return format!("must be {plain}");
    }
    let quoted = value
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty() && message.contains(text));
    if quoted || node["writeOnly"] == true {
        "is not of the form that it must have".to_owned()
    } else {
        message.to_owned()
    }
}

fn unknown(word: &str, message: &str) -> String {
    let known: Vec<String> = message.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    format!(
        "unknown key{} (known: {})",
        suggestion(word, &known),
        known.join(", ")
    )
}

fn suggestion(word: &str, known: &[String]) -> String {
    let near = |other: &str| strsim::jaro_winkler(other, word);
    known
        .iter()
        .max_by(|a, b| near(a).total_cmp(&near(b)))
        .filter(|best| near(best) > 0.8)
        .map_or_else(String::new, |best| format!("; did you mean {best}?"))
}

fn between<'m>(message: &'m str, before: &str) -> Option<&'m str> {
    message.strip_prefix(before)?.split('`').next()
}

fn joined(parent: &str, word: &str) -> String {
    if parent.is_empty() {
        word.to_owned()
    } else {
        format!("{parent}.{word}")
    }
}

fn is_near(url: &url::Url) -> bool {
    match url.host_str() {
        Some("localhost") | None => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(toml: &str, environment: &[(&str, &str)]) -> Loaded {
        static FILES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kassa-config-{}-{n}.toml", std::process::id()));
        std::fs::write(&path, toml).unwrap();
        let environment = environment
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let loaded = load(Some(&path), environment);
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    fn told(loaded: &Loaded) -> Vec<(String, String)> {
        loaded
            .findings
            .iter()
            .map(|finding| {
                let line = finding.place.rsplit_once(':').map_or("", |(_, line)| line);
                (format!("{line} {}", finding.key), finding.text.clone())
            })
            .collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_line() {
        let toml = "[database]\nurll = 'postgresql:///x'\nmax_connections = 'many'\n\
                    [nats]\nreplicas = 2\n[checkout]\norder_ttl = 'soon'\n\
                    [poll.ladder]\nideal = ['0s']\n\
                    [shops.demo]\nreturn_url_origins = []\n\
                    [shops.demo.cm]\nmode = 'lve'\nrest_url = 'http://127.0.0.1:1'\naccount = 'a'\n\
                    merchant_key = 'm'\npassword_file = '/does/not/exist'\n";
        let loaded = loaded(toml, &[]);
        let told = told(&loaded);
        for (place, words) in [
            ("2 database.urll", "did you mean url?"),
            ("3 database.max_connections", "whole number"),
            ("5 nats.replicas", "1, 3 or 5"),
            ("7 checkout.order_ttl", "a duration"),
            ("9 poll.ladder.ideal", "at least 100ms"),
            ("13 shops.demo.cm.mode", "did you mean live?"),
            ("17 shops.demo.cm.password_file", "No such file"),
            ("1 database.url", "PostgreSQL"),
        ] {
            assert!(
                told.iter().any(|(at, text)| at == place && text.contains(words)),
                "{place} {words} is not in {told:#?}"
            );
        }
        assert_eq!(told.len(), 8, "{told:#?}");
    }

    #[test]
    fn what_is_broken_or_given_twice_is_told_by_line_and_the_rest_is_read() {
        let loaded = loaded(
            "[shops.a]\nx = 1\n[shops.a]\n[database]\nurl = \"post://u:hunter2@h\nmax_connections = 0\n",
            &[],
        );
        let text: String = loaded
            .findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        assert!(text.contains(".toml:3:") && text.contains(".toml:5"), "{text}");
        assert!(
            text.contains("max_connections") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn the_environment_wins_and_the_loser_is_named_but_no_value() {
        let loaded = loaded(
            "[database]\nurl = 'postgresql://u:hunter2@h/x'\n[shops.brekz-nl]\nreturn_url_origins = []\n\
             cm = { rest_url = 'http://127.0.0.1:1', account = 'a', password = 'p', merchant_key = 'm' }\n",
            &[
                ("DATABASE_URL", "postgresql:///y"),
                ("KASSA_DATABASE__MAX_CONNECTIONS", "7"),
                ("KASSA_SHOPS__BREKZ_NL__CM__TIMEOUT", "3s"),
                (
                    "KASSA_SHOPS__BREKZ_NL__RETURN_URL_ORIGINS",
                    "https://a.example, https://b.example",
                ),
                ("KASSA_NATS__URL", ""),
                ("KASSA_CACHE_DIR", "/x"),
            ],
        );
        assert_eq!(loaded.errors().collect::<Vec<_>>(), Vec::<&Finding>::new());
        let config = &loaded.config;
        assert_eq!(config.database.url.expose_secret(), "postgresql:///y");
        assert_eq!(config.database.max_connections, 7);
        let shop = &config.shops["brekz-nl"];
        assert_eq!((shop.cm.timeout.as_secs(), shop.return_url_origins.len()), (3, 2));
        let text: String = loaded.warnings().map(|finding| format!("{finding}\n")).collect();
        assert!(
            text.contains(".toml:2: database.url: not used: DATABASE_URL"),
            "{text}"
        );
        assert!(
            text.contains("KASSA_NATS__URL: nats.url: set, but empty"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(
            loaded.origins["database.max_connections"],
            "KASSA_DATABASE__MAX_CONNECTIONS"
        );
    }

    #[test]
    fn a_live_shop_keeps_its_secrets_in_files_that_are_its_own_and_goes_by_tls() {
        let file = std::env::temp_dir().join(format!("kassa-secret-{}", std::process::id()));
        std::fs::write(&file, "s").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let toml = format!(
            "[database]\nurl = 'postgresql://u:hunter2@h/x'\n[nats]\nurl = 'nats://bus.example:4222'\n\
             relay = {{ user = 'r', password_file = '{}' }}\n[shops.a]\nreturn_url_origins = []\n\
             cm = {{ mode = 'live', rest_url = 'http://cm.example', account = 'a', password = 'hunter2', merchant_key = 'm' }}\n",
            file.display()
        );
        let loaded = loaded(&toml, &[]);
        std::fs::remove_file(&file).unwrap();
        let text: String = loaded.errors().map(|finding| format!("{finding}\n")).collect();
        for named in [
            "database.url: a password in clear",
            "nats.url: tls://",
            "nats.relay.password_file: ",
            "chmod 600",
            "shops.a.cm.password: a secret in clear",
            "shops.a.cm.rest_url: https in mode live",
        ] {
            assert!(text.contains(named), "{named} is missing in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}

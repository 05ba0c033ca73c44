//! What do people and their tools read about the contract? OpenAPI, AsyncAPI and pages, all from the types and tables that
//! the services themselves use. Files in the repository are this module's output, kept equal by a test.

pub mod asyncapi;
pub mod openapi;
pub mod pages;

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::api::{PROBLEMS, Problem, ProblemType, VERBS};
use crate::envelope::Wire;
use crate::schema;

/// The golden messages by their path below `samples/`.
pub type Samples = BTreeMap<String, Value>;

/// The contract's version in documents: the major is that of every `v1` in it.
const VERSION: &str = "1.0.0";
const COMPONENTS: &str = "#/components/schemas/";

/// Schemas by name, for a document that holds them all under `components`.
#[derive(Debug, Default)]
struct Components(Map<String, Value>);

impl Components {
    /// Puts the schema in, with all that it refers to, under its own title; answers the reference.
    fn add(
        &mut self,
        mut generator: SchemaGenerator,
        build: impl FnOnce(&mut SchemaGenerator) -> schemars::Schema,
    ) -> Value {
        let Value::Object(mut root) = build(&mut generator).to_value() else {
            unreachable!("the schema of a struct is an object");
        };
        root.remove("$schema");
        if let Some(Value::Object(definitions)) = root.remove("$defs") {
            for (name, definition) in definitions {
                self.put(name, definition);
            }
        }
        let name = match root.remove("title") {
            Some(Value::String(title)) => title,
            _ => unreachable!("the schema of a struct has its name as title"),
        };
        let reference = reference(&name);
        self.put(name, Value::Object(root));
        reference
    }

    fn put(&mut self, name: String, mut schema: Value) {
        repoint(&mut schema);
        let before = self.0.insert(name.clone(), schema.clone());
        // Two types with one name would silently become one.
        assert!(
            before.is_none_or(|before| before == schema),
            "two schemas are called {name}"
        );
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{COMPONENTS}{name}") })
}

/// From a schema of its own to one among components.
fn repoint(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replacen("#/$defs/", COMPONENTS, 1);
            }
            fields.values_mut().for_each(repoint);
        }
        Value::Array(items) => items.iter_mut().for_each(repoint),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Everything a verb, a problem and an envelope refer to.
fn add_envelope(components: &mut Components) -> Value {
    components.add(schema::generator(), |generator| {
        generator.root_schema_for::<Wire>()
    })
}

fn add_problem(components: &mut Components) -> Value {
    components.add(schema::generator(), |generator| {
        generator.root_schema_for::<Problem>()
    })
}

/// A problem document as it may come, from the registry.
fn example_of(problem: &ProblemType) -> Value {
    let mut example = Problem::of(problem.code, problem.title, problem.hint);
    example.retry_after_s = problem.retry.then_some(1);
    json!(example)
}

/// Registered problems by status, of those named.
fn by_status<'c>(codes: impl Iterator<Item = &'c str>) -> BTreeMap<u16, Vec<&'static ProblemType>> {
    let wanted: Vec<_> = codes.collect();
    let mut found: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for problem in PROBLEMS.iter().filter(|known| wanted.contains(&known.code)) {
        found.entry(problem.status).or_default().push(problem);
    }
    found
}

/// Adds every member of `more`.
fn extend(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}

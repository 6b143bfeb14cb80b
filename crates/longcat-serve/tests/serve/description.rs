//! Answers against `openapi.json`: its paths, statuses, types and JSON schemas.

use std::sync::LazyLock;

use longcat_serve::OPENAPI;
use regex::Regex;
use serde_json::Value;

use crate::client::Reply;

static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(OPENAPI).unwrap_or_else(|error| panic!("openapi.json: {error}"))
});

/// Keywords that say nothing of what is valid.
const NOTES: &[&str] = &["description", "default", "format", "x-events"];

/// Fails unless the description says that a request may be answered so.
pub fn check(method: &str, path: &str, reply: &Reply) {
    let at = format!("{method} {path}: {}", reply.status);
    let paths = &DESCRIPTION["paths"];
    let path = path.split('?').next().unwrap_or_default();
    let template = paths
        .as_object()
        .into_iter()
        .flatten()
        .find(|(template, _)| {
            let same =
                |(part, known): (&str, &str)| part == known || known == "{id}" && !part.is_empty();
            template.split('/').count() == path.split('/').count()
                && path.split('/').zip(template.split('/')).all(same)
        });
    let method = if method == "HEAD" { "GET" } else { method };
    let operation = template.and_then(|(_, item)| item.get(method.to_lowercase()));
    let Some(operation) = operation else {
        // What is not described is not there.
        assert!(matches!(reply.status, 401 | 403 | 404 | 405), "{at}");
        return valid("Error", &reply.json(), &at);
    };
    let answer = &operation["responses"][reply.status.to_string()];
    assert!(
        !answer.is_null(),
        "{at} is not described: {}",
        String::from_utf8_lossy(&reply.body)
    );
    let answer = resolve(answer);
    for (name, _) in answer["headers"].as_object().into_iter().flatten() {
        assert!(reply.header(name).is_some(), "{at} has no {name}");
    }
    let Some(content) = answer["content"].as_object() else {
        return;
    };
    let kind = reply.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let Some(found) = content.get(kind) else {
        panic!("{at}: {kind:?} is not described");
    };
    if kind == "application/json"
        && !reply.body.is_empty()
        && let Err(problem) = validate(&found["schema"], &reply.json())
    {
        panic!("{at}: {problem}");
    }
}

/// Fails unless the data of an event are as the description says.
pub fn check_event(name: &str, data: &Value) {
    let stream = &DESCRIPTION["paths"]["/v1/events"]["get"]["responses"]["200"];
    let schema = &stream["content"]["text/event-stream"]["schema"];
    let events = &stream["content"]["text/event-stream"]["x-events"];
    assert!(
        schema.is_object() && events[name].is_object(),
        "{name} is not described"
    );
    if let Err(problem) = validate(&events[name], data) {
        panic!("event {name}: {problem}");
    }
}

/// Fails unless a value is of this schema.
pub fn valid(schema: &str, value: &Value, at: &str) {
    if let Err(problem) = is_valid(schema, value) {
        panic!("{at}: {problem}");
    }
}

/// Whether a value is of this schema.
pub fn is_valid(schema: &str, value: &Value) -> Result<(), String> {
    validate(&DESCRIPTION["components"]["schemas"][schema], value)
}

fn resolve(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(pointer) => {
            let found = DESCRIPTION.pointer(pointer.trim_start_matches('#'));
            found.unwrap_or_else(|| panic!("{pointer} is not there"))
        }
        None => schema,
    }
}

fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(schema);
    let Some(rules) = schema.as_object() else {
        panic!("{schema} is no schema");
    };
    for (keyword, rule) in rules {
        let holds = match keyword.as_str() {
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "enum" => rule.as_array().is_some_and(|known| known.contains(value)),
            "const" => rule == value,
            "pattern" => value.as_str().is_none_or(|text| {
                let pattern = rule.as_str().map(Regex::new);
                pattern.is_some_and(|pattern| pattern.is_ok_and(|p| p.is_match(text)))
            }),
            "minLength" | "maxLength" => value
                .as_str()
                .is_none_or(|text| compare(keyword, text.chars().count() as f64, rule)),
            "minItems" | "maxItems" => value
                .as_array()
                .is_none_or(|items| compare(keyword, items.len() as f64, rule)),
            "minimum" | "maximum" | "exclusiveMinimum" => value
                .as_f64()
                .is_none_or(|number| compare(keyword, number, rule)),
            "required" => value.as_object().is_none_or(|object| {
                let mut names = rule
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str);
                names.all(|name| object.contains_key(name))
            }),
            "additionalProperties" => value.as_object().is_none_or(|object| {
                assert_eq!(*rule, Value::Bool(false));
                let known = |name: &String| schema["properties"].get(name).is_some();
                object.keys().all(known)
            }),
            "oneOf" => {
                let kinds = rule.as_array().into_iter().flatten();
                kinds.filter(|kind| validate(kind, value).is_ok()).count() == 1
            }
            "properties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = rule.get(name) {
                        validate(schema, member).map_err(|problem| format!("{name}: {problem}"))?;
                    }
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, item).map_err(|problem| format!("[{index}]: {problem}"))?;
                }
                true
            }
            note => {
                assert!(NOTES.contains(&note), "{note} is not understood here");
                true
            }
        };
        if !holds {
            return Err(format!("{value} breaks {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("{other} is no type"),
    }
}

fn compare(keyword: &str, value: f64, bound: &Value) -> bool {
    let bound = bound.as_f64().unwrap_or(f64::NAN);
    match keyword {
        "exclusiveMinimum" => value > bound,
        _ if keyword.starts_with("min") => value >= bound,
        _ => value <= bound,
    }
}

#[test]
fn values_that_break_a_schema_are_found() {
    use serde_json::json;
    for (value, wrong) in [
        (
            json!({"prompt": "a", "seed": 7, "adapters": [{"id": "a"}]}),
            None,
        ),
        (json!({"prompt": 3}), Some("prompt")),
        (json!({"seed": -1}), Some("minimum")),
        (json!({"seed": 1.5}), Some("type")),
        (json!({"mode": "dream"}), Some("enum")),
        (json!({"size": "64"}), Some("pattern")),
        (json!({"prompts": []}), Some("minItems")),
        (json!({"seconds": 0}), Some("oneOf")),
        (json!({"adapters": [{"strength": 1}]}), Some("required")),
        (json!({"colour": "red"}), Some("additionalProperties")),
    ] {
        let found = is_valid("CreateVideo", &value);
        match wrong {
            None => assert_eq!(found, Ok(()), "{value}"),
            Some(word) => assert!(found.is_err_and(|error| error.contains(word)), "{value}"),
        }
    }
}

//! Keys that nothing reads, and what was probably meant.

use serde_json::Value;

use super::concurrency::Placement;
use super::job_type::{Gpu, JobType, PoolOverride};
use super::retention::RetentionOverride;
use super::retry::RetryOverride;
use super::settings::{ApiKey, Config};
use super::shared_code::SharedCode;

/// Stands for any key of a map, and for any element of a list, in a shape.
const ANY: &str = "*";

/// Every key there is, as a value: an empty object allows any key, `*` is any key.
#[derive(Debug, Clone)]
pub(super) struct Shape(Value);

impl Shape {
    pub(super) fn of_config() -> Self {
        let config = Config { api_keys: vec![ApiKey::default()], ..Config::default() };
        let mut shape = json(&config);
        shape["retention"]["tenants"] = serde_json::json!({ ANY: json(&RetentionOverride::default()) });
        shape["job_types"] = serde_json::json!({ ANY: Self::of_job_type().0 });
        Self(shape)
    }

    pub(super) fn of_job_type() -> Self {
        Self(json(&JobType {
            base_image: Some(String::new()),
            gpu: Gpu { count: Some(1), ..Gpu::default() },
            shared_code: Some(SharedCode::Path(std::path::PathBuf::new())),
            pool: Some(PoolOverride::default()),
            retry: Some(RetryOverride::default()),
            retention: Some(RetentionOverride::default()),
            placement: Placement { runtime: Some(String::new()), ..Placement::default() },
            ..JobType::default()
        }))
    }

    /// Takes the keys out of `given` that nothing reads, and those without a value; answers with
    /// the paths of the former and what to say of each.
    pub(super) fn take_unknown(&self, given: &mut Value) -> Vec<(String, String)> {
        let mut found = Vec::new();
        take(given, &self.0, "", &mut found);
        found
    }

    /// Whether the value at a path is text, so that what looks like a number stays text.
    pub(super) fn is_text(&self, path: &[String]) -> bool {
        let mut shape = Some(&self.0);
        for key in path {
            shape = shape.and_then(|shape| shape.get(key).or_else(|| shape.get(ANY)));
        }
        shape.is_some_and(Value::is_string)
    }
}

fn json(value: &impl serde::Serialize) -> Value {
    // These types always serialize; Null would make every key unknown, which the tests see.
    serde_json::to_value(value).unwrap_or_default()
}

fn take(given: &mut Value, shape: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match (given, shape) {
        (Value::Object(given), Value::Object(known)) if !known.is_empty() => {
            given.retain(|key, value| {
                let path = joined(at, key);
                match (known.get(key), known.get(ANY)) {
                    // A section whose every line is commented out reads as null.
                    (Some(_), _) if value.is_null() => false,
                    (Some(shape), _) | (None, Some(shape)) => {
                        take(value, shape, &path, found);
                        true
                    }
                    (None, None) => {
                        found.push((path, unknown(key, known.keys().map(String::as_str))));
                        false
                    }
                }
            });
        }
        (Value::Array(given), Value::Array(known)) => {
            let Some(shape) = known.first() else { return };
            for (index, value) in given.iter_mut().enumerate() {
                take(value, shape, &format!("{at}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// `a.b`, or `b` at the top.
pub(super) fn joined(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

/// Says that a key is unknown, and which known one is near.
pub(super) fn unknown<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(key, candidate), candidate))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(likeness, _)| *likeness > 0.4);
    match nearest {
        Some((_, candidate)) => format!("unknown key; did you mean `{candidate}`?"),
        None => "unknown key".to_owned(),
    }
}

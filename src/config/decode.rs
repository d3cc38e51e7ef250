//! From values of any shape to a typed [`Config`], finding every error on the way.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::bounds::Bounds;
use super::check::check_job_type;
use super::job_type::{self, JobType};
use super::known_keys::Shape;
use super::settings::{Config, Limits};

/// A dotted path, and what is wrong there.
type Found = Vec<(String, String)>;

/// Decodes merged values.
///
/// # Errors
/// Every unknown key, every value of a wrong type, every value out of bounds.
pub(super) fn config(mut given: Value) -> Result<Config, Found> {
    let mut found = Shape::of_config().take_unknown(&mut given);
    complete_job_types(&mut given, &mut found);
    let mut config: Config = typed(&mut given, &mut found);
    for (name, mut job_type) in job_type::built_in() {
        if name == "default" {
            job_type.timeout = config.default_timeout;
        }
        // Nobody wrote these values, so nobody can be told that they exceed the limits.
        let limits = &config.limits;
        job_type.timeout = job_type.timeout.min(limits.max_timeout).max(limits.min_timeout);
        job_type.startup_timeout =
            job_type.startup_timeout.min(limits.max_startup_timeout).max(limits.min_startup_timeout);
        config.job_types.entry(name).or_insert(job_type);
    }
    found.extend(config.check());
    if found.is_empty() { Ok(config) } else { Err(found) }
}

/// Decodes one job type as an administrator gives it, by the same rules as a file's.
///
/// # Errors
/// As [`config`], with paths that begin at the job type.
pub(super) fn job_type(mut given: Value, limits: &Limits) -> Result<JobType, Found> {
    let mut found = Shape::of_job_type().take_unknown(&mut given);
    let job_type: JobType = typed(&mut given, &mut found);
    let mut bounds = Bounds::default();
    check_job_type(&mut bounds, "", &job_type, limits);
    found.extend(bounds.found.into_iter().map(|(key, message)| (key.trim_start_matches('.').to_owned(), message)));
    if found.is_empty() { Ok(job_type) } else { Err(found) }
}

/// Gives each job type the name it is listed under and the general timeout.
fn complete_job_types(given: &mut Value, found: &mut Found) {
    let default_timeout = given.get("default_timeout").filter(|value| value.is_number()).cloned();
    let Some(Value::Object(job_types)) = given.get_mut("job_types") else {
        return;
    };
    for (listed, job_type) in job_types {
        if job_type.is_null() {
            *job_type = Value::Object(serde_json::Map::new());
        }
        let Value::Object(fields) = job_type else {
            continue;
        };
        if let Some(Value::String(name)) = fields.get("name")
            && name != listed
        {
            let message = format!("{name:?} is listed under another name");
            found.push((format!("job_types.{listed}.name"), message));
        }
        fields.insert("name".to_owned(), listed.clone().into());
        if let Some(timeout) = &default_timeout {
            fields.entry("timeout").or_insert_with(|| timeout.clone());
        }
    }
}

/// Decodes, taking out each value that does not decode so that the next error is found too;
/// the default stands in for it.
fn typed<T: DeserializeOwned + Default>(given: &mut Value, found: &mut Found) -> T {
    loop {
        let error = match serde_path_to_error::deserialize(&*given) {
            Ok(value) => return value,
            Err(error) => error,
        };
        found.push((shown(error.path()), error.inner().to_string()));
        if !take_out(given, error.path()) {
            return T::default();
        }
    }
}

fn shown(path: &Path) -> String {
    let path = path.to_string();
    if path == "." { String::new() } else { path }
}

/// Removes the value at a path. An element of a list goes with its list, because the
/// elements behind it would change their paths.
fn take_out(value: &mut Value, path: &Path) -> bool {
    let keys: Vec<&str> = path
        .iter()
        .map_while(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    let Some((last, parents)) = keys.split_last() else {
        return false;
    };
    let mut parent = value;
    for key in parents {
        match parent.get_mut(*key) {
            Some(child) => parent = child,
            None => return false,
        }
    }
    parent.as_object_mut().and_then(|object| object.remove(*last)).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_given_is_the_default() {
        assert_eq!(config(json!({})).unwrap(), Config::default());
    }

    #[test]
    fn every_error_is_found_at_once() {
        let found = config(json!({
            "max_worker": 3,
            "max_workers": "many",
            "max_queue_size": 0,
            "limits": {"max_code_bytes": "lots", "max_codebytes": 1},
            "api_keys": [{"name": 7, "hash": "x"}],
            "job_types": {"mine": {"timeout": "soon", "memry_limit": "1g", "environment": {"A": 1}}},
        }))
        .unwrap_err();
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        for key in [
            "max_worker",
            "max_workers",
            "max_queue_size",
            "limits.max_code_bytes",
            "limits.max_codebytes",
            "api_keys[0].name",
            "api_keys[0].hash",
            "job_types.mine.timeout",
            "job_types.mine.memry_limit",
            "job_types.mine.environment.A",
        ] {
            assert!(keys.contains(&key), "{key} not in {found:#?}");
        }
        assert_eq!(keys.len(), 10, "{found:#?}");
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one() {
        let found = config(json!({"server": {"prot": 1}, "xyzzy": 1})).unwrap_err();
        assert_eq!(found[0], ("server.prot".into(), "unknown key; did you mean `port`?".into()));
        assert_eq!(found[1], ("xyzzy".into(), "unknown key".into()));
    }

    #[test]
    fn a_job_type_without_a_timeout_takes_the_general_one() {
        let config = config(json!({"default_timeout": 7, "job_types": {"a": null, "b": {"timeout": 8}}})).unwrap();
        let seconds = |name: &str| config.job_types[name].timeout.as_secs();
        assert_eq!((seconds("a"), seconds("b"), seconds("default")), (7, 8, 7));
        assert_eq!(config.job_types["a"].name, "a");
    }

    #[test]
    fn built_in_job_types_fit_narrower_limits() {
        let limits = json!({"max_timeout": 60, "max_startup_timeout": 100});
        let config = config(json!({"limits": limits})).unwrap();
        let heavy = &config.job_types["ml-inference"];
        assert_eq!((heavy.timeout.as_secs(), heavy.startup_timeout.as_secs()), (60, 100));
    }

    #[test]
    fn a_section_without_a_line_is_the_default() {
        let given = json!({"server": null, "limits": {"max_files": null}, "job_types": null});
        assert_eq!(config(given).unwrap(), Config::default());
    }

    #[test]
    fn a_python_version_without_quotes_is_refused_and_not_misread() {
        let found = config(json!({"job_types": {"mine": {"python_version": 3.1}}})).unwrap_err();
        assert_eq!(found[0].0, "job_types.mine.python_version");
    }
}

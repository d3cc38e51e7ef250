//! The body of a submission, from JSON to what the intake takes.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::problem::Problem;
use super::secret_uses::{self, SECRETS_FORM};
use crate::actors::submission::{DEFAULT_PRIORITY, FieldFault, Given, Submission};
use crate::domain::{AfterPolicy, FileSource, JsonObject};

/// A submission as it is sent. `null` is the same as absent, because clients write their own
/// absent values so.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SubmitBody {
    code: Option<String>,
    #[serde(deserialize_with = "raw")]
    input_data: Option<Box<RawValue>>,
    /// Seconds.
    timeout: Option<f64>,
    /// Seconds.
    startup_timeout: Option<f64>,
    job_type: Option<String>,
    requirements: Option<Vec<String>>,
    idempotency_key: Option<String>,
    priority: Option<i16>,
    /// RFC 3339.
    not_before: Option<String>,
    max_attempts: Option<u32>,
    /// Name → base64, or `{"from": "<execution id>/<artifact>"}`.
    files: Option<Named<File>>,
    tags: Option<Named<String>>,
    #[serde(deserialize_with = "raw")]
    callback_url: Option<Box<RawValue>>,
    #[serde(deserialize_with = "raw")]
    secrets: Option<Box<RawValue>>,
    concurrency_key: Option<String>,
    concurrency_limit: Option<u32>,
    /// Ids of executions.
    after: Option<Vec<String>>,
    after_policy: Option<String>,
}

/// A raw value of its own accord would take `null` for a value.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Ok(Some(Box::<RawValue>::deserialize(deserializer)?).filter(|raw| raw.get() != "null"))
}

/// Values by name, in order; a repeated name is refused.
#[derive(Debug)]
struct Named<T>(Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut names = BTreeSet::new();
                let mut values = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("the name {name:?} is given twice")));
                    }
                    values.push((name, value));
                }
                Ok(Named(values))
            }
        }
        deserializer.deserialize_map(Values(PhantomData))
    }
}

/// A file as it is sent.
#[derive(Debug)]
enum File {
    Base64(String),
    /// `<execution id>/<artifact>`.
    From(String),
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = File;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of base64, or an object like {\"from\": \"<execution id>/result.json\"}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<File, E> {
                Ok(File::Base64(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<File, E> {
                Ok(File::Base64(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
                let one_key = || A::Error::custom("an object here has the one key \"from\"");
                match map.next_entry::<String, String>()? {
                    Some((key, from)) if key == "from" && map.next_key::<String>()?.is_none() => Ok(File::From(from)),
                    _ => Err(one_key()),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl File {
    /// What the intake takes, or what is wrong.
    fn given(self) -> Result<Given, String> {
        match self {
            Self::Base64(text) => match STANDARD.decode(text.trim_ascii()) {
                Ok(bytes) => Ok(Given::Bytes(Bytes::from(bytes))),
                Err(error) => Err(format!("is not base64: {error}")),
            },
            Self::From(text) => {
                let place = text.split_once('/').filter(|(id, name)| id.len() == 36 && !name.is_empty());
                let place = place.and_then(|(id, name)| Some((Uuid::try_parse(id).ok()?, name.to_owned())));
                let (execution_id, name) = place.ok_or_else(|| {
                    format!("must be from an execution's id, a slash and an artifact's name, not {text:.80?}")
                })?;
                Ok(Given::Artifact(FileSource { execution_id, name }))
            }
        }
    }
}

impl SubmitBody {
    /// # Errors
    /// Invalid, with everything that JSON alone could not tell.
    pub fn submission(self) -> Result<Submission, Problem> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, message: String| {
            faults.push(FieldFault { field: field.to_owned(), message, is_size: false });
        };
        let code = self.code.unwrap_or_else(|| {
            fault("code", "must be given: send the Python source of the job".to_owned());
            String::new()
        });
        let input = match self.input_data.as_deref().map(JsonObject::from_raw) {
            None => JsonObject::empty(),
            Some(Ok(input)) => input,
            Some(Err(error)) => {
                fault("input_data", error.to_string());
                JsonObject::empty()
            }
        };
        let mut seconds = |field: &str, value: Option<f64>| {
            let duration = Duration::try_from_secs_f64(value?);
            if duration.is_err() {
                fault(field, "must be a positive number of seconds".to_owned());
            }
            duration.ok()
        };
        let (timeout, startup_timeout) =
            (seconds("timeout", self.timeout), seconds("startup_timeout", self.startup_timeout));
        let not_before = self.not_before.and_then(|text| match DateTime::parse_from_rfc3339(&text) {
            Ok(moment) => Some(moment.with_timezone(&Utc)),
            Err(_) => {
                fault("not_before", format!("must be a time like 2026-01-31T12:00:00Z, not {text:.40?}"));
                None
            }
        });
        let mut files = Vec::new();
        for (name, file) in self.files.unwrap_or_default().0 {
            match file.given() {
                Ok(given) => files.push((name, given)),
                Err(message) => fault(&format!("files[{name:.60?}]"), message),
            }
        }
        if self.callback_url.as_ref().is_some_and(|value| value.get() != "\"\"") {
            fault("callback_url", "is not available in this version; leave it out".to_owned());
        }
        let secrets = match self.secrets.as_deref().map_or(Some(Vec::new()), secret_uses::read) {
            Some(secrets) => secrets,
            None => {
                fault("secrets", SECRETS_FORM.to_owned());
                Vec::new()
            }
        };
        let mut after = Vec::new();
        for text in self.after.unwrap_or_default() {
            match Some(&text).filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok()) {
                Some(id) if after.contains(&id) => {}
                Some(id) => after.push(id),
                None => fault("after", format!("must be ids of executions, and {text:.60?} is none")),
            }
        }
        let after_policy = self.after_policy.as_deref().map_or(Some(AfterPolicy::Succeeded), AfterPolicy::from_name);
        if after_policy.is_none() {
            fault("after_policy", "must be succeeded or any_end".to_owned());
        }
        if !faults.is_empty() {
            return Err(Problem::invalid(faults));
        }
        Ok(Submission {
            code,
            input,
            timeout,
            startup_timeout,
            job_type: self.job_type.unwrap_or_else(|| "default".to_owned()),
            requirements: self.requirements.unwrap_or_default(),
            idempotency_key: self.idempotency_key,
            priority: self.priority.unwrap_or(DEFAULT_PRIORITY),
            not_before,
            max_attempts: self.max_attempts,
            files,
            callback_url: None,
            secrets,
            concurrency_key: self.concurrency_key,
            concurrency_limit: self.concurrency_limit,
            after,
            after_policy: after_policy.unwrap_or_default(),
            tags: self.tags.unwrap_or_default().0.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;

    use super::super::strict_json::read;
    use super::*;

    fn submission(text: &str) -> Result<Submission, Problem> {
        read::<SubmitBody>(text).and_then(SubmitBody::submission)
    }

    fn refused(text: &str) -> String {
        let problem = submission(text).unwrap_err();
        assert_eq!(problem.kind().status(), StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        problem.detail().to_owned()
    }

    #[test]
    fn nulls_are_absent_and_defaults_stand_for_them() {
        let nulls = r#"{"code": "x", "input_data": null, "timeout": null, "startup_timeout": null, "job_type": null,
            "requirements": null, "idempotency_key": null, "priority": null, "not_before": null, "max_attempts": null,
            "files": null, "tags": null, "callback_url": null, "secrets": null, "after": null, "after_policy": null,
            "concurrency_key": null, "concurrency_limit": null}"#;
        let from_nulls = submission(nulls).unwrap();
        assert_eq!(from_nulls.fingerprint(), Submission::of_code("x").fingerprint());
        assert_eq!(submission(r#"{"code":"x"}"#).unwrap().fingerprint(), from_nulls.fingerprint());
    }

    #[test]
    fn everything_sent_arrives() {
        let sent = submission(
            r#"{"code": "x", "input_data": {"n": 123456789012345678901234567890}, "timeout": 1.5, "startup_timeout": 20,
                "job_type": "a@sha256:0123456789ab", "requirements": ["numpy"], "idempotency_key": "k", "priority": 3,
                "not_before": "2026-01-31T12:00:00+01:00", "max_attempts": 2, "files": {"b.txt": "aGk=", "a.txt": ""},
                "tags": {"t": "v"}, "callback_url": "", "secrets": { }}"#,
        )
        .unwrap();
        assert_eq!(sent.input.text(), r#"{"n":123456789012345678901234567890}"#);
        assert_eq!(sent.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(sent.startup_timeout, Some(Duration::from_secs(20)));
        assert_eq!(sent.not_before.unwrap().to_rfc3339(), "2026-01-31T11:00:00+00:00");
        let given = |name: &str, bytes: &'static str| (name.to_owned(), Given::Bytes(Bytes::from(bytes)));
        assert_eq!(sent.files, [given("b.txt", "hi"), given("a.txt", "")]);
        assert_eq!((sent.priority, sent.max_attempts, sent.tags["t"].as_str()), (3, Some(2), "v"));
    }

    #[test]
    fn what_json_cannot_tell_is_told_by_field_all_at_once() {
        let detail = refused(r#"{"timeout": -1, "not_before": "soon", "files": {"a": "%"}, "secrets": {"k": "v"}}"#);
        for said in [
            "code must be given",
            "timeout must be a positive",
            "not_before must be a time",
            "is not base64",
            "secrets must be a list of names",
        ] {
            assert!(detail.contains(said), "{said}: {detail}");
        }
        assert!(!detail.contains("\"v\""));
    }

    #[test]
    fn input_that_is_no_object_or_no_text_is_refused() {
        assert!(refused(r#"{"code": "x", "input_data": [1]}"#).starts_with("input_data must be a JSON object"));
        assert!(refused(r#"{"code": "x", "input_data": {"a": "\ud800"}}"#).contains("lone surrogate"));
        let deep = format!(r#"{{"code": "x", "input_data": {{"a": {}{}}}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert!(refused(&deep).contains("nested more than 100 levels"));
    }

    #[test]
    fn a_file_or_tag_of_one_name_twice_is_refused() {
        assert!(refused(r#"{"code": "x", "files": {"a": "", "a": ""}}"#).contains("given twice"));
        assert!(refused(r#"{"code": "x", "tags": {"a": 1}}"#).contains("tags.a has the wrong type"));
    }
}

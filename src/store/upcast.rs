//! Takes payloads of older schema versions to the one that is read today.
//!
//! A stored event never changes, so what was written by an older program is made into today's
//! shape each time it is read. An upcaster is pure, takes one version to the next, and is never
//! removed while a log may hold the version it reads. `events/` describes each version.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::domain::EventKind;

/// Makes a payload of one schema version one of the next.
type Upcaster = fn(Value) -> Result<Value, NotUpcast>;

/// Why a payload has no form of today.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUpcast {
    #[error("schema version {0} is not known to this program")]
    UnknownVersion(i16),
    #[error("the payload does not fit its schema version: {0}")]
    Misfit(String),
}

/// From version 1 to 2, from 2 to 3, and so on to today's.
fn chain(kind: EventKind) -> &'static [Upcaster] {
    match kind {
        EventKind::JobSubmitted => &[job_submitted_2, unchanged, unchanged],
        EventKind::ExecutionStarted => &[execution_started_2],
        EventKind::RetryScheduled => &[retry_scheduled_2],
        EventKind::ReplayVerdictRecorded => &[replay_verdict_recorded_2, unchanged],
        EventKind::NodeStarted => &[unchanged],
        EventKind::JobRejected
        | EventKind::JobDequeued
        | EventKind::DependenciesDeclared
        | EventKind::DependenciesMet
        | EventKind::JobScheduled
        | EventKind::ScheduleDefined
        | EventKind::ScheduleChanged
        | EventKind::SchedulePaused
        | EventKind::ScheduleResumed
        | EventKind::ScheduleRemoved
        | EventKind::ScheduleFired
        | EventKind::ScheduleSkipped
        | EventKind::ExecutionSucceeded
        | EventKind::ExecutionFailed
        | EventKind::ExecutionTimedOut
        | EventKind::ExecutionOutOfMemory
        | EventKind::CancelRequested
        | EventKind::ExecutionCancelled
        | EventKind::LeaseExpired
        | EventKind::JobDeadLettered
        | EventKind::DeadLetterRequeued
        | EventKind::DeadLetterDiscarded
        | EventKind::SecretsDelivered
        | EventKind::EgressObserved
        | EventKind::BuildRequested
        | EventKind::BuildStarted
        | EventKind::BuildSucceeded
        | EventKind::BuildFailed
        | EventKind::JobTypeDefined
        | EventKind::JobTypePaused
        | EventKind::JobTypeResumed
        | EventKind::NodeDraining
        | EventKind::NodeStopped
        | EventKind::SecretSet
        | EventKind::SecretRemoved
        | EventKind::ExecutionExpired
        | EventKind::PayloadShredded
        | EventKind::TenantShredded
        | EventKind::RetentionApplied
        | EventKind::LogArchived => &[],
    }
}

/// Version 2 says where an input file came from, which runtime and which hash seed are pinned.
fn job_submitted_2(mut payload: Value) -> Result<Value, NotUpcast> {
    let fields = object(&mut payload, "the payload")?;
    if let Some(image) = fields.get_mut("pinned_image").filter(|image| !image.is_null()) {
        object(image, "pinned_image")?.insert("runtime".to_owned(), Value::Null);
    }
    fields.insert("hash_seed".to_owned(), Value::Null);
    Ok(payload)
}

/// Version 2 says with which hash seed the code runs.
fn execution_started_2(mut payload: Value) -> Result<Value, NotUpcast> {
    let sandbox = object(&mut payload, "the payload")?.get_mut("sandbox");
    let sandbox = sandbox.ok_or_else(|| NotUpcast::Misfit("sandbox is missing".to_owned()))?;
    object(sandbox, "sandbox")?.insert("hash_seed".to_owned(), Value::Null);
    Ok(payload)
}

/// Version 2 says what was seen of the code that is tried again, which none was before.
fn retry_scheduled_2(mut payload: Value) -> Result<Value, NotUpcast> {
    object(&mut payload, "the payload")?.insert("observed".to_owned(), Value::Null);
    Ok(payload)
}

/// Version 2 has facts beside the name of each part that differs, says why a replay was refused in
/// a word, and whether the two sides were normalised, which they never were before.
fn replay_verdict_recorded_2(mut payload: Value) -> Result<Value, NotUpcast> {
    let fields = object(&mut payload, "the payload")?;
    match fields.get("verdict").and_then(Value::as_str) {
        Some("identical") => {
            fields.insert("normalised".to_owned(), false.into());
        }
        Some("refused") => {
            fields.insert("cause".to_owned(), "unrecorded".into());
        }
        Some("diverged") => {
            let parts = fields.get_mut("differences").and_then(Value::as_array_mut);
            for part in parts.ok_or_else(|| NotUpcast::Misfit("differences are missing".to_owned()))? {
                *part = json!({"part": part.take(), "original": null, "replay": null});
            }
        }
        Some(_) | None => return Err(NotUpcast::Misfit("the verdict is not known".to_owned())),
    }
    Ok(payload)
}

/// Version 3 of a job says which secrets it wants, where it wants some, and version 4 may want them in a header and
/// says which key it shares with others; version 3 of a verdict has one more cause. What was written before is what
/// would be written now.
fn unchanged(payload: Value) -> Result<Value, NotUpcast> {
    Ok(payload)
}

fn object<'a>(value: &'a mut Value, what: &str) -> Result<&'a mut Map<String, Value>, NotUpcast> {
    value.as_object_mut().ok_or_else(|| NotUpcast::Misfit(format!("{what} is no object")))
}

/// A stored payload in today's schema version; the text itself when it has that version already.
///
/// # Errors
/// [`NotUpcast`], for a version of a newer program and for a payload that is not of its version.
pub(super) fn upcast(kind: EventKind, schema_version: i16, payload: &str) -> Result<Cow<'_, str>, NotUpcast> {
    through(chain(kind), schema_version, payload)
}

fn through<'a>(chain: &[Upcaster], schema_version: i16, payload: &'a str) -> Result<Cow<'a, str>, NotUpcast> {
    let unknown = || NotUpcast::UnknownVersion(schema_version);
    let passed = schema_version.checked_sub(1).and_then(|passed| usize::try_from(passed).ok()).ok_or_else(unknown)?;
    let steps = chain.get(passed..).ok_or_else(unknown)?;
    if steps.is_empty() {
        return Ok(Cow::Borrowed(payload));
    }
    let value = serde_json::from_str(payload).map_err(|error| NotUpcast::Misfit(error.to_string()))?;
    let value: Value = steps.iter().try_fold(value, |value, step| step(value))?;
    Ok(Cow::Owned(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds became milliseconds in version 2, and version 3 says who waits.
    const MADE_UP: &[Upcaster] = &[
        |mut payload| {
            let fields = payload.as_object_mut().ok_or_else(|| NotUpcast::Misfit("no object".to_owned()))?;
            let seconds = fields.remove("delay_s").and_then(|delay| delay.as_u64());
            let seconds = seconds.ok_or_else(|| NotUpcast::Misfit("delay_s is missing".to_owned()))?;
            fields.insert("delay_ms".to_owned(), Value::from(seconds * 1000));
            Ok(payload)
        },
        |mut payload| {
            payload["by"] = Value::from("service");
            Ok(payload)
        },
    ];

    #[test]
    fn an_old_payload_passes_every_step_after_its_version() {
        assert_eq!(through(MADE_UP, 1, r#"{"delay_s": 2}"#).unwrap(), r#"{"by":"service","delay_ms":2000}"#);
        assert_eq!(through(MADE_UP, 2, r#"{"delay_ms": 7}"#).unwrap(), r#"{"by":"service","delay_ms":7}"#);
    }

    #[test]
    fn a_payload_of_today_is_not_touched() {
        let payload = r#"{ "by": "x",  "delay_ms": 7 }"#;
        assert!(matches!(through(MADE_UP, 3, payload), Ok(Cow::Borrowed(text)) if text == payload));
    }

    #[test]
    fn a_version_that_never_was_is_refused() {
        for version in [i16::MIN, -1, 0, 4, i16::MAX] {
            assert_eq!(through(MADE_UP, version, "{}"), Err(NotUpcast::UnknownVersion(version)));
        }
    }

    #[test]
    fn a_payload_that_is_not_of_its_version_is_refused() {
        for payload in ["{}", "[]", "{"] {
            assert!(matches!(through(MADE_UP, 1, payload), Err(NotUpcast::Misfit(_))), "{payload}");
        }
    }

    #[test]
    fn every_chain_ends_at_the_version_that_is_written_today() {
        for kind in EventKind::ALL {
            assert_eq!(chain(*kind).len() + 1, kind.schema_version() as usize, "{}", kind.as_str());
        }
    }
}

//! The catalog in `events/` and the program say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::{Value, json};
use tako_vm::domain::{Edition, Event, EventKind};
use tako_vm::store::{StoredEvent, event_of};
use uuid::Uuid;

use crate::world::{World, scripted};

#[test]
fn every_event_has_a_folder_and_every_folder_an_event() {
    let folders: BTreeSet<String> = fs::read_dir(root("events"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let kinds: BTreeSet<String> = EventKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(folders, kinds);
}

#[test]
fn a_folder_holds_three_files_for_each_schema_version_and_nothing_else() {
    for kind in EventKind::ALL {
        let versions: Vec<i16> = kind.editions().iter().map(|edition| edition.version).collect();
        assert_eq!(versions, (1..=kind.schema_version()).collect::<Vec<_>>(), "{}", kind.as_str());
        let wanted: BTreeSet<String> = versions
            .iter()
            .flat_map(|version| ["schema", "sample", "expected"].map(|what| format!("v{version}.{what}.json")))
            .collect();
        let found: BTreeSet<String> = fs::read_dir(root("events").join(kind.as_str()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(found, wanted, "{}", kind.as_str());
    }
}

#[test]
fn every_sample_fits_its_schema_and_still_means_what_it_meant() {
    for (kind, edition) in editions() {
        let name = format!("{} v{}", kind.as_str(), edition.version);
        let sample: Value = serde_json::from_str(edition.sample).unwrap();
        demand(&name, &validator(edition), &sample);
        let event =
            event_of(kind.as_str(), edition.version, edition.sample).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = root("events").join(kind.as_str()).join(format!("v{}.expected.json", edition.version));
        let expected: Value = serde_json::from_str(&fs::read_to_string(expected).unwrap()).unwrap();
        assert_eq!(payload(&event), expected, "{name}");
        if edition.version == kind.schema_version() {
            assert_eq!(payload(&event), sample, "{name}: today's payload is not the newest sample");
        }
    }
}

#[test]
fn a_schema_demands_every_required_field_and_refuses_unknown_ones_at_every_depth() {
    for (kind, edition) in editions() {
        let name = format!("{} v{}", kind.as_str(), edition.version);
        let validator = validator(edition);
        let schema: Value = serde_json::from_str(edition.schema).unwrap();
        let sample: Value = serde_json::from_str(edition.sample).unwrap();
        for field in schema["required"].as_array().unwrap() {
            let mut without = sample.clone();
            assert!(without.as_object_mut().unwrap().remove(field.as_str().unwrap()).is_some(), "{name}: {field}");
            assert!(!validator.is_valid(&without), "{name} does not miss {field}");
        }
        for pointer in objects(&sample, "") {
            // The client's own labels have the client's own names.
            if pointer == "/tags" {
                continue;
            }
            let mut more = sample.clone();
            more.pointer_mut(&pointer).unwrap()["unheard_of"] = json!(1);
            assert!(!validator.is_valid(&more), "{name} takes an unknown field in {pointer:?}");
        }
    }
}

#[test]
fn every_field_of_a_schema_is_in_its_sample_and_described() {
    for (kind, edition) in editions() {
        let name = format!("{} v{}", kind.as_str(), edition.version);
        let schema: Value = serde_json::from_str(edition.schema).unwrap();
        let sample: Value = serde_json::from_str(edition.sample).unwrap();
        assert_eq!(schema["$id"], format!("urn:tako-vm:event:{}:v{}", kind.as_str(), edition.version));
        let explained = edition.explain().unwrap();
        assert!(!explained.description.is_empty(), "{name}");
        let undescribed: Vec<_> = explained.fields.iter().filter(|field| field.description.is_empty()).collect();
        assert!(undescribed.is_empty(), "{name}: {undescribed:?}");
        for field in &explained.fields {
            // Of the three verdicts a sample can show one.
            let of_another_verdict = ["normalised", "cause", "reason"].contains(&field.path.as_str());
            if *kind == EventKind::ReplayVerdictRecorded && of_another_verdict || field.path.contains("[]") {
                continue;
            }
            // A failure that ended in the service has no exception, and code that left nothing behind no file.
            if field.is_optional && field.path.contains('.') {
                continue;
            }
            let pointer = format!("/{}", field.path.replace('.', "/"));
            let under_null =
                pointer.match_indices('/').any(|(at, _)| sample.pointer(&pointer[..at]) == Some(&Value::Null));
            assert!(under_null || sample.pointer(&pointer).is_some(), "{name}: no {} in the sample", field.path);
        }
    }
}

#[test]
fn a_released_file_never_changes() {
    let listed = fs::read_to_string(root("events/CHECKSUMS")).unwrap_or_default();
    let mut lines: Vec<(String, String)> = listed
        .lines()
        .map(|line| line.split_once("  ").expect("a line is a digest, two spaces and a path"))
        .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
        .collect();
    let mut new = Vec::new();
    for (kind, edition) in editions() {
        // What an old sample means in today's model may change with the model.
        for what in ["schema", "sample"] {
            let path = format!("{}/v{}.{what}.json", kind.as_str(), edition.version);
            let digest = tako_vm::domain::Digest::of(&fs::read(root("events").join(&path)).unwrap()).to_string();
            match lines.iter().find(|(listed, _)| *listed == path) {
                Some((_, released)) => assert_eq!(
                    &digest,
                    released,
                    "events/{path} was released and never changes: logs hold payloads of it. Take the change back; \
                     for a new shape add v{next} beside it (schema, sample, expected), name it in \
                     src/domain/catalog.rs, and write an upcaster from v{version} in src/store/upcast.rs",
                    version = edition.version,
                    next = kind.schema_version() + 1,
                ),
                None => new.push((path, digest)),
            }
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() && !new.is_empty() {
        lines.append(&mut new);
        lines.sort();
        let text: String = lines.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
        fs::write(root("events/CHECKSUMS"), text).unwrap();
    }
    assert!(new.is_empty(), "not in events/CHECKSUMS; run this test with UPDATE_DOCS=1 to add them: {new:?}");
    for (path, _) in &lines {
        assert!(root("events").join(path).exists(), "events/{path} was released and is gone");
    }
}

#[test]
fn the_document_is_what_the_program_prints() {
    let printed = tako_vm(&["events", "--markdown"]);
    let path = root("docs/events.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &printed).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == printed, "docs/events.md is stale: run this test with UPDATE_DOCS=1");
}

#[test]
fn the_command_lists_and_explains_every_event() {
    let list = tako_vm(&["events"]);
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, EventKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>());
    let explained = tako_vm(&["events", "JobDequeued"]);
    assert!(explained.contains("  lease  integer\n      Guards what the claimant appends."), "{explained}");
    let one: Value = serde_json::from_str(&tako_vm(&["events", "JobDequeued", "--json"])).unwrap();
    assert_eq!((&one["schema"]["title"], &one["sample"]["attempt"]), (&json!("JobDequeued"), &json!(1)));
    let refused = Command::new(env!("CARGO_BIN_EXE_tako-vm")).args(["events", "jobdequeue"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("did you mean JobDequeued?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_server_appends_fits_the_schemas() {
    let mut world = World::start_with(
        |config| {
            config.max_workers = 2;
            config.retry.base_delay = Duration::from_millis(10);
            config.retry.max_delay = Duration::from_millis(20);
            config.queue.poll_interval = Duration::from_millis(50);
        },
        scripted(),
    )
    .await;
    let full = json!({
        "code": "print 2\noutput {\"sum\":6}", "input_data": {"b": 2, "a": [1]}, "idempotency_key": "order-17",
        "priority": 9, "tags": {"team": "billing"}, "files": {"rows.csv": "YSxiCg=="},
    });
    let mut ids = Vec::new();
    for body in [
        full,
        json!({"code": "exit 137"}),
        json!({"code": "sleep 60000", "timeout": 0.2}),
        json!({"code": "oom"}),
        json!({"code": "lose", "max_attempts": 2}),
    ] {
        let (status, accepted) = world.post("/jobs", body).await;
        assert_eq!(status, 202, "{accepted}");
        let id: Uuid = accepted["execution_id"].as_str().unwrap().parse().unwrap();
        world.ended(id).await;
        ids.push(id);
    }
    let cancelled = world.submit("sleep 20000").await;
    let (status, _) = world.post(&format!("/jobs/{cancelled}/cancel"), json!({})).await;
    assert_eq!(status, 200);
    world.ended(cancelled).await;
    let (status, verdict) = world.post(&format!("/executions/{}/replay?wait=30", ids[0]), json!({})).await;
    assert_eq!(status, 200, "{verdict}");
    let (status, requeued) = world.post(&format!("/dlq/{}/requeue", ids[4]), json!({})).await;
    assert!((200..300).contains(&status), "{requeued}");
    let child: Uuid = requeued["execution_id"].as_str().unwrap().parse().unwrap();
    world.ended(child).await;
    let defined = json!({"name": "report", "requirements": ["pandas==2.2.3"]});
    let (status, defined) = world.post("/job-types", defined).await;
    assert_eq!(status, 201, "{defined}");
    let (status, built) = world.post("/job-types/report/build", json!({})).await;
    assert_eq!(status, 200, "{built}");
    let (status, _) = world.post("/job-types", json!({"name": "broken", "requirements": ["fails"]})).await;
    assert_eq!(status, 201);
    let (status, _) = world.post("/job-types/broken/build", json!({})).await;
    assert_eq!(status, 422);
    let interrupted = world.submit("sleep 20000").await;
    while !world.event_names(interrupted).await.contains(&"ExecutionStarted") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.stop_first(Duration::ZERO).await;

    let stored = world.store().log_events(0, &[], 10_000).await.unwrap();
    let seen: BTreeSet<&str> = stored.iter().map(|event| event.event_type.as_str()).collect();
    stored.iter().for_each(demand_stored);
    let wanted = [
        "JobSubmitted",
        "JobDequeued",
        "ExecutionStarted",
        "ExecutionSucceeded",
        "ExecutionFailed",
        "ExecutionTimedOut",
        "ExecutionOutOfMemory",
        "CancelRequested",
        "ExecutionCancelled",
        "LeaseExpired",
        "RetryScheduled",
        "JobDeadLettered",
        "DeadLetterRequeued",
        "ReplayVerdictRecorded",
        "JobTypeDefined",
        "BuildRequested",
        "BuildStarted",
        "BuildSucceeded",
        "BuildFailed",
        "NodeStarted",
        "NodeDraining",
        "NodeStopped",
    ];
    let missing: Vec<_> = wanted.iter().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "the run did not lead to {missing:?}, only to {seen:?}");
}

fn demand_stored(event: &StoredEvent) {
    let kind = EventKind::from_name(&event.event_type).unwrap();
    let edition = kind.editions().iter().find(|edition| edition.version == event.schema_version).unwrap();
    let payload = serde_json::from_str(&event.payload).unwrap();
    demand(&format!("{} at {}", event.event_type, event.position), &validator(edition), &payload);
}

fn editions() -> impl Iterator<Item = (&'static EventKind, &'static Edition)> {
    EventKind::ALL.iter().flat_map(|kind| kind.editions().iter().map(move |edition| (kind, edition)))
}

fn validator(edition: &Edition) -> Validator {
    let schema: Value = serde_json::from_str(edition.schema).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap()
}

fn demand(name: &str, validator: &Validator, payload: &Value) {
    let faults: Vec<_> =
        validator.iter_errors(payload).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(faults.is_empty(), "{name}: {faults:#?}\n{payload:#}");
}

fn payload(event: &Event) -> Value {
    serde_json::from_str(&event.payload().unwrap()).unwrap()
}

/// Pointers to every object in a value.
fn objects(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(fields) => std::iter::once(at.to_owned())
            .chain(fields.iter().flat_map(|(name, field)| objects(field, &format!("{at}/{name}"))))
            .collect(),
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| objects(item, &format!("{at}/{index}"))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn tako_vm(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tako-vm")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

//! What holds for every sequence of events and commands, not only for those anyone thought of.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::Value;
use serde_json::value::RawValue;

use super::story::Story;
use super::strategies::{command, event, execution_event, json, submitted, time};
use crate::domain::{
    Command, Envelope, Event, EventKind, ExecutionRecord, JobSubmitted, JsonObject, canonical_json, decide,
};

/// A stream that grew by commands; the refused ones left nothing.
fn lived(submitted: JobSubmitted, commands: Vec<Command>) -> Story {
    let mut story = Story::default().then(Command::SubmitJob(Box::new(submitted)));
    for command in commands {
        if story.decide(command.clone()).is_ok() {
            story = story.then(command);
        }
    }
    story
}

fn life() -> impl Strategy<Value = Story> {
    (submitted(), vec(command(), 0..24)).prop_map(|(submitted, commands)| lived(submitted, commands))
}

/// A stream of which only the versions are right, and not always those.
fn wild_stream() -> impl Strategy<Value = Vec<Envelope>> {
    let event = (execution_event(), time(), prop_oneof![20 => Just(0), 1 => -2..3_i32, 1 => Just(i32::MAX / 2)]);
    (submitted(), vec(event, 0..40)).prop_map(|(submitted, events)| {
        let mut story = Story::default().then(Command::SubmitJob(Box::new(submitted)));
        let mut stream = story.events.clone();
        for (event, recorded_at, skew) in events {
            let mut envelope = story.next(event);
            envelope.recorded_at = recorded_at;
            envelope.version += skew;
            if ExecutionRecord::evolve(story.record.clone(), &envelope).is_ok() {
                story.events.push(envelope.clone());
                story.record = ExecutionRecord::evolve(story.record.take(), &envelope).unwrap();
            }
            stream.push(envelope);
        }
        stream
    })
}

/// Folds what fits and passes over what does not; answers with each record on the way.
fn fold_what_fits(stream: &[Envelope]) -> Vec<ExecutionRecord> {
    let mut records: Vec<ExecutionRecord> = Vec::new();
    for envelope in stream {
        if let Ok(Some(next)) = ExecutionRecord::evolve(records.last().cloned(), envelope) {
            records.push(next);
        }
    }
    records
}

fn is_terminal(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::ExecutionSucceeded
            | EventKind::ExecutionFailed
            | EventKind::ExecutionTimedOut
            | EventKind::ExecutionOutOfMemory
            | EventKind::ExecutionCancelled
    )
}

fn fits_its_schema(event: &Event) -> TestCaseResult {
    let schema = event.kind().editions().last().unwrap().schema;
    let schema: Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let payload: Value = serde_json::from_str(&event.payload().unwrap()).unwrap();
    let faults: Vec<_> = validator.iter_errors(&payload).map(|error| error.to_string()).collect();
    prop_assert!(faults.is_empty(), "{faults:?}\n{payload:#}");
    Ok(())
}

/// The value as JSON text, its keys in the opposite order and with spaces.
fn written_backwards(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, value)) in fields.iter().rev().enumerate() {
                text.push_str(if index > 0 { " ,\n" } else { " " });
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push_str(" :\t");
                written_backwards(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { " , " } else { "" });
                written_backwards(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn neither_a_fold_nor_a_decision_panics(stream in wild_stream(), commands in vec(command(), 4)) {
        let _ = ExecutionRecord::fold(&stream);
        for record in fold_what_fits(&stream) {
            for command in &commands {
                let _ = decide(Some(&record), command.clone());
            }
        }
    }

    #[test]
    fn whatever_is_decided_can_be_folded(stream in wild_stream(), commands in vec(command(), 8)) {
        for record in fold_what_fits(&stream) {
            for command in &commands {
                let Ok(events) = decide(Some(&record), command.clone()) else { continue };
                let mut after = Some(record.clone());
                for event in events {
                    let mut envelope = stream[0].clone();
                    envelope.version = after.as_ref().unwrap().version + 1;
                    envelope.event = event;
                    after = ExecutionRecord::evolve(after, &envelope)
                        .map_err(|error| TestCaseError::fail(format!("{command:?} on {record:?}: {error}")))?;
                }
            }
        }
    }

    #[test]
    fn an_ended_execution_takes_nothing_but_a_dead_letters_fate_a_verdict_or_its_expiry(
        stream in wild_stream(), event in execution_event()
    ) {
        for record in fold_what_fits(&stream).into_iter().filter(ExecutionRecord::is_ended) {
            let mut envelope = stream[0].clone();
            envelope.version = record.version + 1;
            envelope.event = event.clone();
            let Ok(after) = ExecutionRecord::evolve(Some(record.clone()), &envelope) else { continue };
            prop_assert_eq!(after.unwrap().state, record.state);
            prop_assert!(matches!(
                event.kind(),
                EventKind::JobDeadLettered
                    | EventKind::DeadLetterRequeued
                    | EventKind::DeadLetterDiscarded
                    | EventKind::ReplayVerdictRecorded
                    | EventKind::ExecutionExpired
                    | EventKind::PayloadShredded
            ), "{:?}", event);
        }
    }

    #[test]
    fn a_life_has_at_most_one_end(story in life()) {
        let ends = story.events.iter().filter(|envelope| is_terminal(envelope.event.kind())).count();
        prop_assert_eq!(ends, usize::from(story.record().is_ended()), "{:?}", story.names());
    }

    #[test]
    fn a_fold_may_stop_anywhere_and_go_on(story in life()) {
        for at in 0..=story.events.len() {
            let (first, rest) = story.events.split_at(at);
            let mut record = ExecutionRecord::fold(first).unwrap();
            // Between two appends the record lies in the database as JSON.
            let stored = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Option<ExecutionRecord>>(&stored).unwrap(), &record);
            for envelope in rest {
                record = ExecutionRecord::evolve(record, envelope).unwrap();
            }
            prop_assert_eq!(&record, &story.record);
        }
    }

    #[test]
    fn an_event_reads_back_as_it_was_written(event in event()) {
        let payload = event.payload().unwrap();
        prop_assert_eq!(Event::from_payload(event.kind(), &payload).unwrap(), event);
    }

    #[test]
    fn every_event_fits_its_schema(event in event()) {
        fits_its_schema(&event)?;
    }

    #[test]
    fn whatever_is_decided_fits_its_schema(story in life()) {
        for envelope in &story.events {
            fits_its_schema(&envelope.event)?;
        }
    }

    #[test]
    fn canonical_json_knows_neither_spacing_nor_the_order_of_keys(value in json()) {
        let value = serde_json::json!({ "value": value });
        let mut text = String::new();
        written_backwards(&value, &mut text);
        let raw = RawValue::from_string(text).unwrap();
        let input = JsonObject::from_raw(&raw).unwrap();
        let canonical = canonical_json(&value);
        prop_assert_eq!(input.canonical_digest(), crate::domain::Digest::of(canonical.as_bytes()));
        prop_assert_eq!(serde_json::from_str::<Value>(&canonical).unwrap(), value.clone());
        prop_assert_eq!(serde_json::from_str::<Value>(input.text()).unwrap(), value);
    }
}

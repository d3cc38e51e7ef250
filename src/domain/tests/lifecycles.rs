//! Whole lives as text: each event with what it made of the record, and the record at the end.

use std::fmt::Write as _;

use super::story::{
    OTHER_EXECUTION, Story, cancel, dead_letter, dequeue, dequeued, expire, fail, finish, observed, raise, running,
    start, submitted, submitted_with, succeed,
};
use crate::domain::{
    Command, Difference, Ending, ErrorType, Event, ExecutionRecord, Parent, Part, Phase, Relationship,
    ReplayVerdictRecorded, Verdict,
};

fn render(story: &Story) -> String {
    let mut text = String::new();
    let mut record = None;
    let began = story.events[0].recorded_at;
    for envelope in &story.events {
        record = ExecutionRecord::evolve(record, envelope).unwrap();
        let status = record.as_ref().map_or("-", |record| record.status().as_str());
        let seconds = (envelope.recorded_at - began).num_seconds();
        let name = envelope.event.kind().as_str();
        // What was submitted stands in the record below.
        let payload = match &envelope.event {
            Event::JobSubmitted(_) => "…".to_owned(),
            event => event.payload().unwrap(),
        };
        writeln!(text, "{} +{seconds}s {name} -> {status}\n    {payload}", envelope.version).unwrap();
    }
    assert_eq!(record, story.record, "a fold of the events is not the record they were decided on");
    let mut shown = serde_json::to_value(&record).unwrap();
    if let Some(submitted) = shown["submitted"].as_object_mut() {
        submitted.remove("limits");
    }
    writeln!(text, "\n{shown:#}").unwrap();
    text
}

macro_rules! snapshot {
    ($story:expr) => {
        insta::with_settings!({omit_expression => true}, { insta::assert_snapshot!(render(&$story)) })
    };
}

#[test]
fn code_that_ends_well() {
    snapshot!(running(1).then(succeed(1)));
}

#[test]
fn code_that_raises() {
    snapshot!(running(1).then(raise(1)));
}

#[test]
fn code_that_exceeds_its_time() {
    let ending = Ending::TimedOut { phase: Phase::Execution, limit_ms: 30_000, observed: Some(observed(None)) };
    snapshot!(running(1).then(finish(1, ending)));
}

#[test]
fn code_that_exceeds_its_memory() {
    let ending = Ending::OutOfMemory { limit_bytes: 512 << 20, peak_bytes: 512 << 20, observed: Some(observed(None)) };
    snapshot!(running(1).then(finish(1, ending)));
}

#[test]
fn cancelled_in_the_queue() {
    snapshot!(submitted().then(cancel()));
}

#[test]
fn cancelled_before_its_sandbox_was_there() {
    let ending = Ending::Cancelled { by: String::new(), reason: None, observed: None };
    snapshot!(dequeued(1).then(cancel()).then(finish(1, ending)));
}

#[test]
fn cancelled_while_it_ran() {
    let ending = Ending::Cancelled { by: String::new(), reason: None, observed: Some(observed(None)) };
    snapshot!(running(1).then(cancel()).then(finish(1, ending)));
}

#[test]
fn failed_by_the_service_then_done() {
    let story = running(1).then(fail(1, ErrorType::DockerError)).then(dequeue(2));
    snapshot!(story.then(start(2)).then(succeed(2)));
}

#[test]
fn lost_by_its_nodes_then_requeued() {
    let mut story = submitted_with(|job| job.max_attempts = 2);
    for lease in [1, 2] {
        story = story.then(dequeue(lease)).then(start(lease)).then(expire(lease));
    }
    let requeue = Command::RequeueDeadLetter { by: "alice".to_owned(), execution_id: OTHER_EXECUTION };
    snapshot!(story.then(requeue));
}

#[test]
fn dead_and_discarded() {
    let discard = Command::DiscardDeadLetter { by: "alice".to_owned(), reason: Some("no longer wanted".to_owned()) };
    snapshot!(dead_letter().then(discard));
}

#[test]
fn replayed_with_another_result() {
    let parent = Parent { execution_id: OTHER_EXECUTION, relationship: Relationship::Replay };
    let story = submitted_with(|job| job.parent = Some(parent)).then(dequeue(1)).then(start(1));
    let difference = Difference {
        part: Part::Stdout,
        original: Some("a hash".to_owned()),
        replay: Some("another".to_owned()),
        pointer: None,
        artifact: None,
    };
    let verdict = Verdict::Diverged { differences: vec![difference] };
    let verdict = ReplayVerdictRecorded { original_id: OTHER_EXECUTION, verdict, rules: Vec::new() };
    snapshot!(story.then(succeed(1)).then(Command::RecordReplayVerdict(verdict)));
}

#[test]
fn rejected() {
    snapshot!(Story::default().then(Command::RejectJob { reason: "the queue is full".to_owned() }));
}

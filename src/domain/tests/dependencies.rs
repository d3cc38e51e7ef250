//! Jobs that wait for others, and code that is tried again.

use super::story::*;
use crate::domain::*;

fn waiting(policy: AfterPolicy) -> Story {
    submitted().then(Command::DeclareDependencies(DependenciesDeclared { after: vec![OTHER_EXECUTION, NODE], policy }))
}

fn settle(ended: &[(uuid::Uuid, Option<Status>)]) -> Command {
    let ended =
        ended.iter().map(|(execution_id, status)| DependencyEnd { execution_id: *execution_id, status: *status });
    Command::SettleDependencies { ended: ended.collect() }
}

#[test]
fn a_job_that_waits_is_not_claimed_before_all_have_succeeded() {
    let story = waiting(AfterPolicy::Succeeded);
    assert_eq!(story.decide(dequeue(1)), Err(Rejection::NotQueued));
    let one = story.clone().then(settle(&[(OTHER_EXECUTION, Some(Status::Succeeded))]));
    assert!(one.record().is_waiting());
    assert_eq!(one.events.len(), story.events.len(), "one of two changes nothing");
    let both = story.then(settle(&[(OTHER_EXECUTION, Some(Status::Succeeded)), (NODE, Some(Status::Succeeded))]));
    assert_eq!(both.names(), ["JobSubmitted", "DependenciesDeclared", "DependenciesMet"]);
    assert!(both.decide(settle(&[])).unwrap().is_empty(), "it is told once");
    both.then(dequeue(1));
}

#[test]
fn another_end_cancels_what_was_to_run_after_success_and_names_it() {
    for (status, how) in [(Some(Status::Failed), "ended as failed"), (None, "is no longer in the log")] {
        let story = waiting(AfterPolicy::Succeeded).then(settle(&[(NODE, status)]));
        let Event::ExecutionCancelled(cancelled) = story.last() else { panic!("{:?}", story.names()) };
        let reason = cancelled.reason.as_deref().unwrap();
        assert!(reason.contains(&NODE.to_string()) && reason.ends_with(how), "{reason}");
        let story = waiting(AfterPolicy::AnyEnd);
        story.then(settle(&[(NODE, status), (OTHER_EXECUTION, Some(Status::Succeeded))])).then(dequeue(1));
    }
}

#[test]
fn a_job_that_waits_can_be_cancelled_and_is_then_told_nothing() {
    let story = waiting(AfterPolicy::Succeeded);
    let story = story.then(Command::RequestCancel { by: "somebody".to_owned(), reason: None });
    assert_eq!(story.record().status(), Status::Cancelled);
    assert!(story.decide(settle(&[(NODE, Some(Status::Failed))])).unwrap().is_empty());
}

#[test]
fn an_end_that_is_tried_again_keeps_what_was_seen_while_attempts_are_left() {
    let failure = Failure {
        error_type: ErrorType::RuntimeError,
        message: "exit".to_owned(),
        phase: Phase::Execution,
        exception: None,
    };
    let retry = |lease: i64| Command::FinishOrRetry {
        lease,
        ending: Box::new(Ending::Failed { error: failure.clone(), observed: Some(observed(Some(1))) }),
        cause: failure.clone(),
        retry: Retry::At { not_before: time(100), delay_ms: 5 },
    };
    let mut story = submitted_with(|job| job.max_attempts = 2).then(dequeue(1)).then(start(1)).then(retry(1));
    assert!(matches!(story.last(), Event::RetryScheduled(retry) if retry.observed.is_some()), "{:?}", story.last());
    story = story.then(dequeue(2)).then(start(2)).then(retry(2));
    assert!(matches!(story.last(), Event::ExecutionFailed(_)), "{:?}", story.names());
    assert!(!story.names().contains(&"JobDeadLettered"), "code that failed has its result");
    let replay = submitted_with(|job| {
        job.max_attempts = 2;
        job.parent = Some(Parent { execution_id: OTHER_EXECUTION, relationship: Relationship::Replay });
    });
    let replay = replay.then(dequeue(1)).then(start(1)).then(retry(1));
    assert!(replay.record().is_ended(), "a replay is one attempt");
}

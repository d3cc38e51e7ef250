//! Given a story, when a command comes, then these events follow, or that rejection.

use super::story::{
    EXECUTION, OTHER_EXECUTION, Story, cancel, dead_letter, dequeue, dequeued, expire, fail, failure, finish, job,
    observed, raise, running, start, submitted, submitted_with, succeed, time,
};
use crate::domain::{
    Command, DeadLetter, Ending, ErrorType, Event, JobState, Phase, Rejection, ReplayVerdictRecorded, Retry, Status,
    Verdict,
};

fn requeue() -> Command {
    Command::RequeueDeadLetter { by: "alice".to_owned(), execution_id: OTHER_EXECUTION }
}

fn discard() -> Command {
    Command::DiscardDeadLetter { by: "alice".to_owned(), reason: None }
}

fn verdict() -> Command {
    let verdict = Verdict::Identical { normalised: false };
    Command::RecordReplayVerdict(ReplayVerdictRecorded { original_id: EXECUTION, verdict, rules: Vec::new() })
}

/// Whatever can be asked of an execution that is there, under that lease.
fn every_command(lease: i64) -> Vec<Command> {
    vec![
        Command::SubmitJob(Box::new(job())),
        Command::RejectJob { reason: "full".to_owned() },
        dequeue(lease),
        start(lease),
        succeed(lease),
        raise(lease),
        fail(lease, ErrorType::DockerError),
        cancel(),
        expire(lease),
        requeue(),
        discard(),
        verdict(),
        Command::Shred { by: "alice".to_owned(), reason: None, keys: 1 },
        Command::Expire { records_days: 90 },
    ]
}

#[test]
fn nothing_happens_to_a_job_that_was_never_submitted() {
    let nothing = Story::default();
    for command in every_command(1).into_iter().skip(2) {
        assert_eq!(nothing.decide(command.clone()), Err(Rejection::Unknown), "{command:?}");
    }
}

#[test]
fn a_job_is_submitted_once() {
    for story in [submitted(), running(1), running(1).then(succeed(1))] {
        for command in every_command(1).into_iter().take(2) {
            assert_eq!(story.decide(command), Err(Rejection::AlreadyExists));
        }
    }
}

#[test]
fn a_rejected_job_has_no_record() {
    let story = Story::default().then(Command::RejectJob { reason: "the queue is full".to_owned() });
    assert_eq!((story.names(), story.record), (vec!["JobRejected"], None));
}

#[test]
fn a_job_is_claimed_by_one_slot_at_a_time() {
    for story in [dequeued(7), running(7)] {
        assert_eq!(story.decide(dequeue(8)), Err(Rejection::NotQueued));
    }
}

#[test]
fn each_claim_is_a_new_attempt() {
    let story = dequeued(7).then(expire(7)).then(dequeue(8)).then(fail(8, ErrorType::DockerError)).then(dequeue(9));
    assert_eq!(story.record().attempt, 3);
}

#[test]
fn a_job_is_queued_until_its_code_starts() {
    assert_eq!(submitted().record().status(), Status::Queued);
    assert_eq!(dequeued(1).record().status(), Status::Queued);
    assert_eq!(running(1).record().status(), Status::Running);
}

#[test]
fn a_cancelled_job_never_starts() {
    let waiting = submitted().then(cancel());
    assert_eq!(waiting.names(), ["JobSubmitted", "CancelRequested", "ExecutionCancelled"]);
    assert_eq!(waiting.decide(dequeue(1)), Err(Rejection::AlreadyEnded(Status::Cancelled)));

    let claimed = dequeued(1).then(cancel()).then(start(1));
    assert_eq!(claimed.names(), ["JobSubmitted", "JobDequeued", "CancelRequested", "ExecutionCancelled"]);
    assert_eq!(claimed.record().sandbox(), None);
}

#[test]
fn a_cancelled_job_is_not_tried_again() {
    for story in [dequeued(1), running(1)] {
        let story = story.then(cancel());
        for command in [fail(1, ErrorType::DockerError), expire(1)] {
            let ended = story.clone().then(command);
            assert_eq!(ended.record().status(), Status::Cancelled, "{:?}", ended.names());
            assert_eq!(ended.record().dead_letter, None);
        }
    }
}

#[test]
fn who_cancelled_is_who_asked_first() {
    let ending = Ending::Cancelled { by: String::new(), reason: None, observed: Some(observed(None)) };
    let story = running(1).then(cancel());
    let again = Command::RequestCancel { by: "bob".to_owned(), reason: None };
    assert_eq!(story.decide(again), Ok(Vec::new()));
    let story = story.then(finish(1, ending));
    let Event::ExecutionCancelled(cancelled) = story.last() else { panic!("{:?}", story.names()) };
    assert_eq!((cancelled.by.as_str(), cancelled.reason.as_deref()), ("alice", Some("a mistake")));
    assert!(cancelled.observed.is_some());
}

#[test]
fn a_cancel_that_nobody_asked_for_is_the_services() {
    let ending = Ending::Cancelled { by: "mallory".to_owned(), reason: Some("forged".to_owned()), observed: None };
    let story = running(1).then(finish(1, ending));
    let Event::ExecutionCancelled(cancelled) = story.last() else { panic!("{:?}", story.names()) };
    assert_eq!((cancelled.by.as_str(), cancelled.reason.as_deref()), ("service", None));
}

#[test]
fn code_that_ends_before_the_cancel_reaches_it_keeps_its_end() {
    assert_eq!(running(1).then(cancel()).then(succeed(1)).record().status(), Status::Succeeded);
    assert_eq!(running(1).then(cancel()).then(raise(1)).record().status(), Status::Failed);
}

#[test]
fn an_ended_job_cannot_be_cancelled() {
    for (story, status) in [
        (running(1).then(succeed(1)), Status::Succeeded),
        (running(1).then(raise(1)), Status::Failed),
        (submitted().then(cancel()), Status::Cancelled),
    ] {
        assert_eq!(story.decide(cancel()), Err(Rejection::AlreadyEnded(status)));
    }
}

#[test]
fn a_lost_lease_appends_nothing() {
    let lost = [
        dequeued(7).then(expire(7)),
        dequeued(7).then(expire(7)).then(dequeue(8)),
        running(7).then(expire(7)).then(dequeue(8)).then(start(8)),
        running(7).then(fail(7, ErrorType::DockerError)),
        running(7).then(fail(7, ErrorType::DockerError)).then(dequeue(8)),
        running(7).then(cancel()).then(expire(7)),
        running(7).then(expire(7)).then(dequeue(8)).then(start(8)).then(succeed(8)),
    ];
    for story in lost {
        for command in [start(7), succeed(7), raise(7), fail(7, ErrorType::DockerError), expire(7)] {
            let answer = story.decide(command.clone());
            assert!(
                matches!(answer, Err(Rejection::LeaseLost { lease: 7 } | Rejection::AlreadyEnded(_))),
                "{:?} then {command:?}: {answer:?}",
                story.names()
            );
        }
    }
}

#[test]
fn a_lease_that_ends_puts_the_job_back_at_once() {
    let story = running(7).then(expire(7));
    assert_eq!(story.names().last(), Some(&"LeaseExpired"));
    assert_eq!(story.record().state, JobState::Queued { not_before: None });
    assert_eq!(story.record().queued_at, time(3));
}

#[test]
fn code_starts_once_in_an_attempt() {
    assert_eq!(running(1).decide(start(1)), Err(Rejection::LeaseLost { lease: 1 }));
}

#[test]
fn code_that_never_started_has_not_succeeded() {
    assert_eq!(dequeued(1).decide(succeed(1)), Err(Rejection::NotStarted));
}

#[test]
fn a_job_may_end_before_its_code_starts() {
    let timeout = Ending::TimedOut { phase: Phase::Startup, limit_ms: 10_000, observed: None };
    let story = dequeued(1).then(finish(1, timeout));
    assert_eq!((story.record().status(), story.record().sandbox()), (Status::Timeout, None));
}

#[test]
fn an_end_is_the_end() {
    for story in [running(1).then(succeed(1)), running(1).then(raise(1)), submitted().then(cancel())] {
        let status = story.record().status();
        assert!(status.is_terminal());
        for command in [dequeue(2), succeed(1), raise(1), fail(1, ErrorType::DockerError), expire(1)] {
            assert_eq!(story.decide(command.clone()), Err(Rejection::AlreadyEnded(status)), "{command:?}");
        }
    }
}

#[test]
fn user_failures_do_not_retry() {
    let story = running(1).then(raise(1));
    assert_eq!(story.names().last(), Some(&"ExecutionFailed"));
    assert_eq!(story.record().dead_letter, None);
    for error_type in [ErrorType::KeyError, ErrorType::DependencyError, ErrorType::ConfigError] {
        let story = running(1).then(fail(1, error_type));
        assert_eq!(story.names().last(), Some(&"ExecutionFailed"), "{error_type:?}");
        assert_eq!(story.record().dead_letter, None);
    }
}

#[test]
fn a_failure_of_the_service_is_tried_again_while_attempts_are_left() {
    let story = running(1).then(fail(1, ErrorType::DockerError));
    let Event::RetryScheduled(retry) = story.last() else { panic!("{:?}", story.names()) };
    assert_eq!((retry.attempt, retry.delay_ms, retry.not_before), (1, 1500, time(60)));
    assert_eq!(story.record().state, JobState::Queued { not_before: Some(time(60)) });
    let story = story.then(dequeue(2)).then(fail(2, ErrorType::DockerError)).then(dequeue(3));
    let story = story.then(fail(3, ErrorType::DockerError));
    assert_eq!(story.names()[story.names().len() - 2..], ["ExecutionFailed", "JobDeadLettered"]);
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let never = Command::FailAttempt { lease: 1, error: failure(ErrorType::InternalError), retry: Retry::Never };
    let story = dequeued(1).then(never);
    assert_eq!(story.names()[2..], ["ExecutionFailed", "JobDeadLettered"]);
}

#[test]
fn a_job_that_keeps_killing_its_nodes_ends_as_a_dead_letter() {
    let mut story = submitted();
    for lease in 1..=3 {
        story = story.then(dequeue(lease)).then(start(lease)).then(expire(lease));
    }
    assert_eq!(story.names()[story.names().len() - 3..], ["LeaseExpired", "ExecutionFailed", "JobDeadLettered"]);
    let Event::JobDeadLettered(letter) = story.last() else { panic!("{:?}", story.names()) };
    assert_eq!((letter.error_type, letter.attempts), (ErrorType::Interrupted, 3));
    assert_eq!(story.record().dead_letter, Some(DeadLetter::Waiting));
}

#[test]
fn a_dead_letter_is_decided_once() {
    for (first, left) in
        [(requeue(), DeadLetter::Requeued { execution_id: OTHER_EXECUTION }), (discard(), DeadLetter::Discarded)]
    {
        let story = dead_letter().then(first);
        assert_eq!(story.record().dead_letter, Some(left));
        assert_eq!(story.record().status(), Status::Failed);
        for again in [requeue(), discard()] {
            assert_eq!(story.decide(again), Err(Rejection::NotADeadLetter));
        }
    }
}

#[test]
fn only_a_job_the_service_failed_is_a_dead_letter() {
    for story in [submitted(), running(1), running(1).then(raise(1)), running(1).then(succeed(1))] {
        for command in [requeue(), discard()] {
            assert_eq!(story.decide(command), Err(Rejection::NotADeadLetter));
        }
    }
}

#[test]
fn a_verdict_waits_for_the_end() {
    for story in [submitted(), dequeued(1), running(1)] {
        assert_eq!(story.decide(verdict()), Err(Rejection::NotEnded));
    }
    let story = running(1).then(succeed(1)).then(verdict());
    assert_eq!(story.record().status(), Status::Succeeded);
    assert!(story.record().replay_verdict.is_some());
}

#[test]
fn a_job_that_is_not_due_waits_with_its_time() {
    let story = submitted_with(|job| job.not_before = Some(time(3600)));
    assert_eq!(story.record().state, JobState::Queued { not_before: Some(time(3600)) });
}

#[test]
fn only_what_has_ended_expires_or_is_shredded_and_once() {
    let (expire, shred) =
        (Command::Expire { records_days: 90 }, Command::Shred { by: "alice".to_owned(), reason: None, keys: 1 });
    for story in [submitted(), dequeued(1), running(1)] {
        for command in [&expire, &shred] {
            assert_eq!(story.decide(command.clone()), Err(Rejection::NotEnded));
        }
    }
    let shredded = running(1).then(succeed(1)).then(shred.clone());
    assert!(shredded.record().shredded_at.is_some());
    assert_eq!(shredded.decide(shred), Ok(Vec::new()));
    let expired = shredded.then(expire.clone());
    assert_eq!(expired.decide(expire), Ok(Vec::new()));
    assert!(expired.record().is_ended());
}

#[test]
fn nothing_happens_to_what_has_expired() {
    let expired = dead_letter().then(Command::Expire { records_days: 90 });
    let may_come = |command: &Command| matches!(command, Command::Expire { .. } | Command::Shred { .. });
    for command in every_command(1).into_iter().skip(2).filter(|command| !may_come(command)) {
        assert_eq!(expired.decide(command.clone()), Err(Rejection::Expired), "{command:?}");
    }
}

//! Arbitrary events, commands and JSON.

use chrono::{DateTime, Utc};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::{option, sample};
use uuid::Uuid;

use super::story::job;
use crate::domain::*;

/// A text of a few characters of any kind, at least one.
fn text() -> BoxedStrategy<String> {
    prop_oneof!["[a-z]{1,8}", "\\PC{1,8}", vec(any::<char>(), 1..8).prop_map(|chars| chars.into_iter().collect())]
        .boxed()
}

/// Few enough that they meet again.
fn id() -> impl Strategy<Value = Uuid> {
    (1..4_u128).prop_map(Uuid::from_u128)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 1..4_i64, 1 => 1..=i64::MAX]
}

fn attempt() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 1..4_u32, 1 => Just(u32::MAX)]
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

/// Whole microseconds, as the log keeps them.
pub fn time() -> impl Strategy<Value = DateTime<Utc>> {
    (0..4_000_000_000_000_000_i64).prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Queue), Just(Phase::Startup), Just(Phase::Execution)]
}

fn error_type() -> impl Strategy<Value = ErrorType> {
    prop_oneof![
        Just(ErrorType::KeyError),
        Just(ErrorType::DockerError),
        Just(ErrorType::Interrupted),
        Just(ErrorType::Unknown),
        Just(ErrorType::ConfigError)
    ]
}

pub fn failure() -> impl Strategy<Value = Failure> {
    (error_type(), text(), phase(), option::of(text())).prop_map(|(error_type, message, phase, exception)| Failure {
        error_type,
        message,
        phase,
        exception,
    })
}

fn output() -> impl Strategy<Value = Output> {
    (digest(), any::<u64>(), any::<bool>()).prop_map(|(hash, bytes, truncated)| Output { hash, bytes, truncated })
}

pub fn observed() -> impl Strategy<Value = Observed> {
    let timing =
        (any::<[u64; 4]>(), phase()).prop_map(|([startup_ms, dep_install_ms, execution_ms, total_ms], phase)| Timing {
            startup_ms,
            dep_install_ms,
            execution_ms,
            total_ms,
            phase_at_exit: phase,
        });
    let usage =
        (any::<[u64; 3]>(), any::<bool>()).prop_map(|([max_rss_bytes, cpu_time_ms, wall_time_ms], oom_killed)| Usage {
            max_rss_bytes,
            cpu_time_ms,
            wall_time_ms,
            oom_killed,
        });
    let artifact = (text(), digest(), any::<u64>()).prop_map(|(name, hash, bytes)| Artifact { name, hash, bytes });
    (
        (option::of(any::<i32>()), option::of(any::<i32>()), timing, usage),
        (output(), output(), option::of(digest()), vec(artifact, 0..3), vec((text(), text()), 0..2)),
    )
        .prop_map(
            |((exit_code, signal, timing, usage), (stdout, stderr, output, artifacts, refused_artifacts))| Observed {
                exit_code,
                signal,
                timing,
                usage,
                stdout,
                stderr,
                output,
                artifacts,
                refused_artifacts,
            },
        )
}

fn sandbox() -> impl Strategy<Value = Sandbox> {
    let engine = prop_oneof![Just("docker"), Just("native"), Just("scripted")];
    let warmth = prop_oneof![Just(Warmth::Warm), Just(Warmth::Cold)];
    (text(), engine, text(), text(), text(), warmth, any::<u64>(), option::of(text())).prop_map(
        |(id, engine, runtime, image, image_digest, warmth, startup_ms, hash_seed)| Sandbox {
            id,
            engine: engine.to_owned(),
            runtime,
            image,
            image_digest,
            warmth,
            startup_ms,
            hash_seed,
        },
    )
}

fn relationship() -> impl Strategy<Value = Relationship> {
    prop_oneof![
        Just(Relationship::Rerun),
        Just(Relationship::Fork),
        Just(Relationship::Requeue),
        Just(Relationship::Replay)
    ]
}

pub fn submitted() -> impl Strategy<Value = JobSubmitted> {
    let source = (id(), text()).prop_map(|(execution_id, name)| FileSource { execution_id, name });
    let file = (text(), digest(), any::<u64>(), option::of(source)).prop_map(|(name, hash, bytes, source)| InputFile {
        name,
        hash,
        bytes,
        source,
    });
    let parent = (id(), relationship()).prop_map(|(execution_id, relationship)| Parent { execution_id, relationship });
    let header = (text(), text(), vec(text(), 1..3), any::<bool>())
        .prop_map(|(name, template, hosts, plain_http)| HeaderUse { name, template, hosts, plain_http });
    let delivery =
        prop_oneof![Just(Delivery::File), Just(Delivery::Env), header.prop_map(|header| Delivery::Header { header })];
    let secret = (text(), delivery).prop_map(|(name, delivery)| SecretUse { name, delivery });
    let idempotency = (text(), digest()).prop_map(|(key, fingerprint)| Idempotency { key, fingerprint });
    let pinned = (text(), option::of(text()), text(), option::of(text()))
        .prop_map(|(engine, runtime, reference, digest)| PinnedImage { engine, runtime, reference, digest });
    (
        (text(), text(), digest(), vec(file, 0..3), option::of(digest()), vec(text(), 0..3)),
        (0..=9_i16, option::of(time()), 1..4_u32, option::of(idempotency), option::of(text()), option::of(parent)),
        (
            option::of(pinned),
            option::of(text()),
            btree_map(text(), text(), 0..3),
            option::of(text()),
            any::<u64>(),
            vec(secret, 0..3),
            option::of((text(), 1..=u32::MAX)),
        ),
    )
        .prop_map(|(what, when, more)| {
            let (tenant, job_type, code, files, input_artifacts, requirements) = what;
            let (priority, not_before, max_attempts, idempotency, client_ip, parent) = when;
            let (pinned_image, hash_seed, tags, callback_url, timeout_ms, secrets, concurrency) = more;
            let mut submitted = job();
            submitted.limits.timeout_ms = timeout_ms;
            JobSubmitted {
                tenant,
                job_type,
                code,
                files,
                input_artifacts,
                requirements,
                priority,
                not_before,
                max_attempts,
                idempotency,
                client_ip,
                parent,
                pinned_image,
                hash_seed,
                tags,
                callback_url,
                secrets,
                concurrency: concurrency.map(|(key, limit)| ConcurrencyKey { key, limit }),
                ..submitted
            }
        })
}

pub fn verdict() -> impl Strategy<Value = ReplayVerdictRecorded> {
    let part = prop_oneof![Just(Part::Status), Just(Part::ExitCode), Just(Part::Stdout), Just(Part::Artifacts)];
    let maybe = || option::of(text());
    let difference =
        (part, maybe(), maybe(), maybe(), maybe()).prop_map(|(part, original, replay, pointer, artifact)| Difference {
            part,
            original,
            replay,
            pointer,
            artifact,
        });
    let cause = prop_oneof![Just(RefusalCause::BlobGone), Just(RefusalCause::RuntimeMissing)];
    let verdict = prop_oneof![
        any::<bool>().prop_map(|normalised| Verdict::Identical { normalised }),
        vec(difference, 1..3).prop_map(|differences| Verdict::Diverged { differences }),
        (cause, text()).prop_map(|(cause, reason)| Verdict::Refused { cause, reason }),
    ];
    (id(), verdict, vec(text(), 0..2)).prop_map(|(original_id, verdict, rules)| ReplayVerdictRecorded {
        original_id,
        verdict,
        rules,
    })
}

fn delivered() -> impl Strategy<Value = Vec<SecretVersion>> {
    vec((text(), 1..=i64::MAX).prop_map(|(name, version)| SecretVersion { name, version }), 1..3)
}

fn egress() -> impl Strategy<Value = EgressObserved> {
    let host = (text(), any::<u16>(), any::<[u64; 3]>()).prop_map(|(host, port, [connections, sent, received])| {
        HostTraffic { host, port, connections, bytes_sent: sent, bytes_received: received }
    });
    let reason = prop_oneof![Just(EgressRefusal::NotAllowed), Just(EgressRefusal::NotPublic)];
    let refused = (option::of(text()), option::of(any::<u16>()), reason, any::<u64>())
        .prop_map(|(host, port, reason, count)| EgressRefused { host, port, reason, count });
    (vec(host, 0..3), vec(refused, 0..3), any::<u64>()).prop_map(|(hosts, refused, unlisted)| EgressObserved {
        hosts,
        refused,
        unlisted,
    })
}

/// An event of an execution's stream, whether or not it fits there.
pub fn execution_event() -> BoxedStrategy<Event> {
    let seen = || option::of(observed());
    let reason = || option::of(text());
    prop_oneof![
        // Ends are rare, or few streams would live long enough to show anything.
        1 => submitted().prop_map(Event::JobSubmitted),
        1 => text().prop_map(|reason| JobRejected { reason }.into()),
        8 => (id(), any::<u32>(), lease(), attempt()).prop_map(|(node_id, slot, lease, attempt)| JobDequeued {
            node_id,
            slot,
            lease,
            attempt
        }
        .into()),
        4 => sandbox().prop_map(|sandbox| ExecutionStarted { sandbox }.into()),
        2 => observed().prop_map(|observed| ExecutionSucceeded { observed }.into()),
        1 => (failure(), seen()).prop_map(|(error, observed)| ExecutionFailed { error, observed }.into()),
        1 => (phase(), any::<u64>(), seen()).prop_map(|(phase, limit_ms, observed)| ExecutionTimedOut {
            phase,
            limit_ms,
            observed
        }
        .into()),
        1 => (any::<u64>(), any::<u64>(), seen()).prop_map(|(limit_bytes, peak_bytes, observed)| {
            ExecutionOutOfMemory { limit_bytes, peak_bytes, observed }.into()
        }),
        2 => (text(), reason()).prop_map(|(by, reason)| CancelRequested { by, reason }.into()),
        1 => (text(), reason(), seen())
            .prop_map(|(by, reason, observed)| ExecutionCancelled { by, reason, observed }.into()),
        6 => (id(), lease(), text()).prop_map(|(node_id, lease, cause)| LeaseExpired { node_id, lease, cause }.into()),
        6 => (attempt(), any::<u64>(), time(), failure(), seen()).prop_map(
            |(attempt, delay_ms, not_before, cause, observed)| {
                RetryScheduled { attempt, delay_ms, not_before, cause, observed }.into()
            }
        ),
        2 => declared().prop_map(Event::DependenciesDeclared),
        2 => vec(dependency_end(), 0..3).prop_map(|ended| DependenciesMet { ended }.into()),
        1 => scheduled().prop_map(Event::JobScheduled),
        2 => (error_type(), text(), any::<u32>()).prop_map(|(error_type, message, attempts)| JobDeadLettered {
            error_type,
            message,
            attempts
        }
        .into()),
        2 => (text(), id()).prop_map(|(by, execution_id)| DeadLetterRequeued { by, execution_id }.into()),
        2 => (text(), reason()).prop_map(|(by, reason)| DeadLetterDiscarded { by, reason }.into()),
        2 => verdict().prop_map(Event::ReplayVerdictRecorded),
        2 => delivered().prop_map(|secrets| SecretsDelivered { secrets }.into()),
        2 => egress().prop_map(Event::EgressObserved),
        1 => any::<u32>().prop_map(|records_days| ExecutionExpired { records_days }.into()),
        2 => (text(), reason(), any::<u64>()).prop_map(|(by, reason, keys)| PayloadShredded { by, reason, keys }.into()),
    ]
    .boxed()
}

fn declared() -> impl Strategy<Value = DependenciesDeclared> {
    let policy = prop_oneof![Just(AfterPolicy::Succeeded), Just(AfterPolicy::AnyEnd)];
    (btree_set(id(), 1..4), policy)
        .prop_map(|(after, policy)| DependenciesDeclared { after: after.into_iter().collect(), policy })
}

fn dependency_end() -> impl Strategy<Value = DependencyEnd> {
    let status = sample::select(&Status::ALL[2..]);
    (id(), option::of(status)).prop_map(|(execution_id, status)| DependencyEnd { execution_id, status })
}

fn scheduled() -> impl Strategy<Value = JobScheduled> {
    (id(), text(), time()).prop_map(|(schedule_id, name, due_at)| JobScheduled { schedule_id, name, due_at })
}

fn terms() -> impl Strategy<Value = ScheduleTerms> {
    let overlap = prop_oneof![Just(Overlap::Allow), Just(Overlap::Skip)];
    let missed = prop_oneof![Just(Missed::Once), Just(Missed::Skip)];
    (text(), text(), overlap, missed, digest()).prop_map(|(cron, timezone, overlap, missed, job)| ScheduleTerms {
        cron,
        timezone,
        overlap,
        missed,
        job,
    })
}

/// Any event of a schedule's stream.
pub fn schedule_event() -> BoxedStrategy<Event> {
    let cause = prop_oneof![Just(SkipCause::Overlap), Just(SkipCause::Missed), Just(SkipCause::Refused)];
    prop_oneof![
        (text(), text(), terms(), any::<bool>(), text())
            .prop_map(|(tenant, name, terms, enabled, by)| ScheduleDefined { tenant, name, terms, enabled, by }.into()),
        (terms(), text()).prop_map(|(terms, by)| ScheduleChanged { terms, by }.into()),
        text().prop_map(|by| SchedulePaused { by }.into()),
        text().prop_map(|by| ScheduleResumed { by }.into()),
        text().prop_map(|by| ScheduleRemoved { by }.into()),
        (time(), id(), option::of(time()), digest()).prop_map(|(due_at, execution_id, missed_since, job)| {
            ScheduleFired { due_at, execution_id, missed_since, job }.into()
        }),
        (time(), time(), cause, option::of(id()), option::of(text())).prop_map(
            |(due_at, through, cause, execution_id, reason)| {
                ScheduleSkipped { due_at, through, cause, execution_id, reason }.into()
            }
        ),
    ]
    .boxed()
}

/// Any event.
pub fn event() -> BoxedStrategy<Event> {
    prop_oneof![
        16 => execution_event(),
        4 => schedule_event(),
        1 => (text(), text(), text()).prop_map(|(job_type, digest, by)| BuildRequested { job_type, digest, by }.into()),
        1 => id().prop_map(|node_id| BuildStarted { node_id }.into()),
        1 => (text(), text(), option::of(digest()), digest(), option::of(text()), any::<u64>()).prop_map(
            |(image_ref, image_digest, dockerfile_hash, requirements_hash, version_tag, duration_ms)| {
                BuildSucceeded { image_ref, image_digest, dockerfile_hash, requirements_hash, version_tag, duration_ms }
                    .into()
            },
        ),
        1 => (text(), text(), any::<u64>())
            .prop_map(|(error, log_tail, duration_ms)| BuildFailed { error, log_tail, duration_ms }.into()),
        1 => (text(), digest(), text(), text(), text()).prop_map(|(name, definition, python_version, requirement, by)| {
            JobTypeDefined { name, definition, python_version, requirements: vec![requirement], by }.into()
        }),
        1 => (text(), text(), option::of(text()))
            .prop_map(|(job_type, by, reason)| JobTypePaused { job_type, by, reason }.into()),
        1 => (text(), text(), option::of(text()))
            .prop_map(|(job_type, by, reason)| JobTypeResumed { job_type, by, reason }.into()),
        1 => (text(), any::<u32>(), text()).prop_map(|(version, slots, runtime)| {
            NodeStarted { version, slots, engine: "native".to_owned(), runtime }.into()
        }),
        1 => any::<u32>().prop_map(|running| NodeDraining { running }.into()),
        1 => any::<u32>().prop_map(|released| NodeStopped { released }.into()),
        1 => (text(), text(), 1..=i64::MAX, text())
            .prop_map(|(tenant, name, version, by)| SecretSet { tenant, name, version, by }.into()),
        1 => (text(), text(), 1..=i64::MAX, text())
            .prop_map(|(tenant, name, version, by)| SecretRemoved { tenant, name, version, by }.into()),
        1 => (text(), text(), option::of(text()), any::<u64>()).prop_map(|(tenant, by, reason, keys)| {
            TenantShredded { tenant, by, reason, keys }.into()
        }),
        1 => any::<[u64; 4]>().prop_map(|[expired_records, removed_blobs, removed_bytes, duration_ms]| {
            RetentionApplied { expired_records, removed_blobs, removed_bytes, duration_ms }.into()
        }),
        1 => (id(), id(), any::<u64>(), 1..=i64::MAX, digest(), text()).prop_map(
            |(from_stream, to_stream, events, position, archive, by)| {
                let (first_position, last_position) = (position, position);
                LogArchived { from_stream, to_stream, events, first_position, last_position, archive, by }.into()
            },
        ),
    ]
    .boxed()
}

fn ending() -> impl Strategy<Value = Ending> {
    let seen = || option::of(observed());
    prop_oneof![
        observed().prop_map(|observed| Ending::Succeeded { observed }),
        (failure(), seen()).prop_map(|(error, observed)| Ending::Failed { error, observed }),
        (phase(), any::<u64>(), seen()).prop_map(|(phase, limit_ms, observed)| Ending::TimedOut {
            phase,
            limit_ms,
            observed
        }),
        (any::<u64>(), any::<u64>(), seen()).prop_map(|(limit_bytes, peak_bytes, observed)| Ending::OutOfMemory {
            limit_bytes,
            peak_bytes,
            observed
        }),
        (text(), option::of(text()), seen()).prop_map(|(by, reason, observed)| Ending::Cancelled {
            by,
            reason,
            observed
        }),
    ]
}

pub fn command() -> BoxedStrategy<Command> {
    let retry = prop_oneof![
        Just(Retry::Never),
        (time(), any::<u64>()).prop_map(|(not_before, delay_ms)| Retry::At { not_before, delay_ms })
    ];
    let claim = (id(), any::<u32>(), lease()).prop_map(|(node_id, slot, lease)| Claim { node_id, slot, lease });
    prop_oneof![
        1 => submitted().prop_map(|submitted| Command::SubmitJob(Box::new(submitted))),
        1 => text().prop_map(|reason| Command::RejectJob { reason }),
        4 => claim.prop_map(|claim| Command::Dequeue { claim }),
        4 => (lease(), sandbox()).prop_map(|(lease, sandbox)| Command::Start { lease, sandbox }),
        3 => (lease(), ending()).prop_map(|(lease, ending)| Command::Finish { lease, ending: Box::new(ending) }),
        3 => (lease(), ending(), failure(), retry.clone()).prop_map(|(lease, ending, cause, retry)| {
            Command::FinishOrRetry { lease, ending: Box::new(ending), cause, retry }
        }),
        1 => declared().prop_map(Command::DeclareDependencies),
        2 => vec(dependency_end(), 0..3).prop_map(|ended| Command::SettleDependencies { ended }),
        1 => scheduled().prop_map(Command::Schedule),
        3 => (lease(), failure(), retry)
            .prop_map(|(lease, error, retry)| Command::FailAttempt { lease, error, retry }),
        1 => (text(), option::of(text())).prop_map(|(by, reason)| Command::RequestCancel { by, reason }),
        3 => (lease(), text()).prop_map(|(lease, cause)| Command::ExpireLease { lease, cause }),
        2 => (text(), id()).prop_map(|(by, execution_id)| Command::RequeueDeadLetter { by, execution_id }),
        1 => (text(), option::of(text())).prop_map(|(by, reason)| Command::DiscardDeadLetter { by, reason }),
        2 => verdict().prop_map(Command::RecordReplayVerdict),
        2 => (lease(), egress()).prop_map(|(lease, observed)| Command::RecordEgress { lease, observed }),
        2 => (lease(), delivered()).prop_map(|(lease, secrets)| Command::DeliverSecrets { lease, secrets }),
    ]
    .boxed()
}

/// JSON of some depth, with keys that sort differently by bytes and by UTF-16.
pub fn json() -> BoxedStrategy<serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(Value::from_iter),
        ]
    })
    .boxed()
}

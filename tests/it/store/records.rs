//! Records as they are read from the log.

use tako_vm::domain::{
    Command, Digest, Envelope, ExecutionRecord, JobLimits, JobSubmitted, Parent, Relationship, Status, decide,
};
use tako_vm::store::{DeadLetterChange, Filter, Member, Reach, StatusCounts, Stored, new_events};
use uuid::Uuid;

use super::*;
use crate::db;

fn limits() -> JobLimits {
    JobLimits {
        timeout_ms: 1000,
        startup_timeout_ms: 1000,
        memory_bytes: 1 << 20,
        cpu_millis: 1000,
        pids: 10,
        open_files: 10,
        tmp_bytes: 1,
        output_bytes: 1,
        stdout_bytes: 1,
        stderr_bytes: 1,
        artifact_count: 1,
        artifact_bytes: 1,
        artifacts_total_bytes: 1,
    }
}

pub(super) fn job(tenant: &str, job_type: &str, parent: Option<Uuid>) -> JobSubmitted {
    JobSubmitted {
        tenant: tenant.into(),
        job_type: job_type.into(),
        job_version: format!("{job_type}@sha256:0123456789ab"),
        code: Digest::of(b"code"),
        input: Digest::of(b"{}"),
        input_canonical: Digest::of(b"{}"),
        params: Digest::of(b""),
        files: Vec::new(),
        input_artifacts: None,
        requirements: Vec::new(),
        limits: limits(),
        priority: 5,
        not_before: None,
        max_attempts: 1,
        idempotency: None,
        client_ip: None,
        parent: parent.map(|execution_id| Parent { execution_id, relationship: Relationship::Rerun }),
        pinned_image: None,
        hash_seed: None,
        secrets: Vec::new(),
        concurrency: None,
        tags: Default::default(),
        callback_url: None,
    }
}

/// Decides, folds and appends, as the program does.
pub(super) async fn carry_out(
    db: &Db,
    id: Uuid,
    stored: Option<Stored>,
    commands: Vec<Command>,
    effects: (QueueChange, DeadLetterChange),
) -> Stored {
    let (mut record, head) = stored.map(|stored| (stored.record, stored.head_hash)).unzip();
    let version = record.as_ref().map_or(0, |record: &ExecutionRecord| record.version);
    let mut envelopes = Vec::new();
    for command in commands {
        for event in decide(record.as_ref(), command).unwrap() {
            let envelope = Envelope {
                event_id: Uuid::now_v7(),
                stream_id: id,
                version: version + 1 + envelopes.len() as i32,
                recorded_at: chrono::SubsecRound::trunc_subsecs(now(), 6),
                correlation_id: Some("c".into()),
                event,
            };
            record = ExecutionRecord::evolve(record, &envelope).unwrap();
            envelopes.push(envelope);
        }
    }
    let record = record.unwrap();
    let events = new_events(envelopes.iter().map(|envelope| (envelope, "test"))).unwrap();
    let mut item = Append::events(id, StreamKind::Execution, events);
    (item.expected_version, item.prev_hash) = (version, head);
    item.record = Some(RecordRow::of(&record));
    (item.queue, item.dead_letter) = effects;
    if let DeadLetterChange::Insert(row) = &mut item.dead_letter {
        row.created_at = envelopes.last().unwrap().recorded_at;
    }
    let head_hash = appended(db.store.append(item).await.unwrap()).head_hash;
    Stored { record, head_hash }
}

pub(super) async fn submit_job(db: &Db, submitted: JobSubmitted) -> Stored {
    let enqueue = QueueChange::Enqueue {
        tenant: submitted.tenant.clone(),
        job_type: submitted.job_type.clone(),
        priority: submitted.priority,
        not_before: None,
        is_keyed: submitted.concurrency.is_some(),
    };
    let command = Command::SubmitJob(Box::new(submitted));
    carry_out(db, Uuid::now_v7(), None, vec![command], (enqueue, DeadLetterChange::None)).await
}

pub(super) async fn cancel(db: &Db, stored: Stored) -> Stored {
    let command = Command::RequestCancel { by: "test".into(), reason: None };
    let effects = (QueueChange::Remove, DeadLetterChange::None);
    carry_out(db, stored.record.execution_id, Some(stored), vec![command], effects).await
}

pub(super) fn ids(records: &[Stored]) -> Vec<Uuid> {
    records.iter().map(|stored| stored.record.execution_id).collect()
}

#[tokio::test]
async fn a_record_that_is_read_is_the_record_that_was_folded() {
    let db = db::fresh().await;
    let queued = submit_job(&db, job("a", "default", None)).await;
    let id = queued.record.execution_id;
    assert_eq!(db.store.record(id).await.unwrap(), Some(queued.clone()));
    let cancelled = cancel(&db, queued).await;
    assert_eq!(cancelled.record.status(), Status::Cancelled);
    assert_eq!(db.store.record(id).await.unwrap(), Some(cancelled.clone()));
    assert_eq!(db.store.record(Uuid::now_v7()).await.unwrap(), None);
    let other = submit_job(&db, job("a", "default", None)).await;
    let both = [id, other.record.execution_id, Uuid::nil()];
    assert_eq!(db.store.records(&both).await.unwrap(), [other, cancelled]);
}

#[tokio::test]
async fn a_list_is_newest_first_and_filters_by_tenant_status_and_job_type() {
    let db = db::fresh().await;
    let one = submit_job(&db, job("a", "default", None)).await;
    let two = submit_job(&db, job("a", "special", None)).await;
    let three = submit_job(&db, job("b", "default", None)).await;
    let one = cancel(&db, one).await;
    let list = async |filter: Filter| ids(&db.store.list(&filter, 10, 0).await.unwrap().records);
    let id = |stored: &Stored| stored.record.execution_id;
    let (one, two, three) = (id(&one), id(&two), id(&three));
    assert_eq!(list(Filter::default()).await, [three, two, one]);
    assert_eq!(list(Filter { tenant: Some("a".into()), ..Filter::default() }).await, [two, one]);
    assert_eq!(list(Filter { job_type: Some("default".into()), ..Filter::default() }).await, [three, one]);
    assert_eq!(list(Filter { status: Some(Status::Cancelled), ..Filter::default() }).await, [one]);
    let queued = Filter { status: Some(Status::Queued), tenant: Some("a".into()), ..Filter::default() };
    assert_eq!(list(queued.clone()).await, [two]);
    assert!(list(Filter { status: Some(Status::Running), ..Filter::default() }).await.is_empty());

    let page = db.store.list(&Filter::default(), 2, 0).await.unwrap();
    assert_eq!((ids(&page.records), page.has_more), (vec![three, two], true));
    let page = db.store.list(&Filter::default(), 2, 2).await.unwrap();
    assert_eq!((ids(&page.records), page.has_more), (vec![one], false));
    for status in [None, Some(Status::Cancelled)] {
        let behind = |before| Filter { before: Some(before), status, ..Filter::default() };
        assert_eq!(list(behind(two)).await, [one]);
        assert!(list(behind(one)).await.is_empty());
    }
}

#[tokio::test]
async fn counts_that_go_on_are_the_counts_of_everything() {
    let db = db::fresh().await;
    let mut counts = db.store.status_counts().await.unwrap();
    assert_eq!(counts, StatusCounts::default());
    for round in 1..4 {
        let one = submit_job(&db, job("a", "default", None)).await;
        submit_job(&db, job("a", "default", None)).await;
        cancel(&db, one).await;
        counts = db.store.status_counts_since(counts).await.unwrap();
        assert_eq!(counts, db.store.status_counts().await.unwrap());
        assert_eq!((counts.of(Status::Queued), counts.of(Status::Cancelled)), (round, round));
        assert_eq!(counts.of(Status::Succeeded), 0);
    }
}

#[tokio::test]
async fn lineage_is_followed_both_ways() {
    let db = db::fresh().await;
    let root = submit_job(&db, job("a", "default", None)).await.record.execution_id;
    let child = submit_job(&db, job("a", "default", Some(root))).await.record.execution_id;
    let second = submit_job(&db, job("a", "default", Some(root))).await.record.execution_id;
    let grandchild = submit_job(&db, job("a", "default", Some(child))).await.record.execution_id;
    let family = async |id| {
        let family = db.store.family("a", id, Reach { depth: 10, most: 10 }).await.unwrap().unwrap();
        let ids = |members: Vec<Member>| members.iter().map(|member| member.record.execution_id).collect::<Vec<_>>();
        (ids(family.ancestors), ids(family.descendants))
    };
    assert_eq!(family(grandchild).await, (vec![child, root], vec![]));
    assert_eq!(family(root).await, (vec![], vec![child, second, grandchild]));
    assert!(db.store.family("b", root, Reach { depth: 10, most: 10 }).await.unwrap().is_none());
    for (depth, most, count, truncated) in [(10, 4, 3, false), (10, 3, 2, true), (1, 10, 2, true), (2, 10, 3, false)] {
        let family = db.store.family("a", root, Reach { depth, most }).await.unwrap().unwrap();
        assert_eq!((family.descendants.len(), family.truncated), (count, truncated), "{depth} {most}");
    }
    let children = Filter { parent_execution_id: Some(root), ..Filter::default() };
    assert_eq!(ids(&db.store.list(&children, 10, 0).await.unwrap().records), [second, child]);
}

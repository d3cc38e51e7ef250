//! What must hold of every execution at any moment, checked against the log while servers run.
//!
//! The log is gone through in parts of whole streams. Each part is read with all that is kept of
//! its executions in one snapshot, so that nothing moves in between, and then forgotten.

mod limits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, FromRow, Postgres, Transaction};
use uuid::Uuid;

use limits::{Attempts, Keyed};

use super::append::{DeadLetterRow, RecordRow, StreamKind};
use super::copy::{Copied, copy_events};
use super::database::Store;
use super::dead_letters::{Columns, letter};
use super::error::Error;
use super::projected::{Folding, Part, envelope};
use crate::domain::{Digest, Ending, Event, ExecutionRecord, JobState, Status};

/// Events of whole streams that are looked at together, about.
const PART: i64 = 5_000;

/// Parts that are looked at at the same time. Each takes a connection.
const LANES: usize = 2;

/// Violations that are kept.
const NAMED: usize = 100;

const CHECK: &str = "check invariants";

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub execution_id: Uuid,
    /// About the execution, as a sentence.
    pub what: String,
}

/// What a check went through and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    pub events: u64,
    pub executions: u64,
    /// Different blobs of each part, summed up.
    pub blobs: u64,
    pub violation_count: u64,
    /// The first hundred.
    pub violations: Vec<Violation>,
    pub took: Duration,
}

impl Checked {
    fn add(&mut self, part: PartChecked) {
        self.events += part.events;
        self.executions += part.executions;
        self.blobs += part.blobs;
        self.violation_count += part.violations.len() as u64;
        let room = NAMED.saturating_sub(self.violations.len());
        self.violations.extend(part.violations.into_iter().take(room));
    }
}

#[derive(Default)]
struct PartChecked {
    events: u64,
    executions: u64,
    blobs: u64,
    violations: BTreeSet<Violation>,
    keyed: Keyed,
}

impl PartChecked {
    fn report(&mut self, execution_id: Uuid, what: impl Into<String>) {
        self.violations.insert(Violation { execution_id, what: what.into() });
    }
}

/// What is kept of an execution beside its events.
#[derive(Default)]
struct Kept {
    row: Option<(i32, RecordRow)>,
    endings: BTreeSet<String>,
    letter: Option<DeadLetterRow>,
    queue: Option<QueueRow>,
}

#[derive(FromRow)]
struct ExecutionRow {
    execution_id: Uuid,
    version: i32,
    #[sqlx(flatten)]
    row: RecordRow,
}

#[derive(FromRow)]
struct QueueRow {
    execution_id: Uuid,
    attempts: i32,
    priority: i16,
    cancel_requested: bool,
    tenant: String,
    job_type: String,
    lease: Option<i64>,
    node_id: Option<Uuid>,
    limit_key: Option<String>,
    limit_size: Option<i32>,
}

/// A stream to its end, or to the event at which it makes no sense any more.
struct Told {
    execution_id: Uuid,
    folding: Folding,
    lease: Option<i64>,
    attempts: Attempts,
    faults: Vec<String>,
}

impl Store {
    /// Checks of every execution that its events follow from each other with exactly one end, that
    /// its leases grow, that no more jobs of a concurrency key were at work than it allows, that its
    /// row, ending, dead letter and queue row are what the events say, and, unless told otherwise,
    /// that the bytes they name are kept. Says after each part how many events it has seen. Takes no lock that an append or a reader waits for.
    ///
    /// # Errors
    /// [`Error::Unavailable`]. What is wrong with the log is no error but a [`Violation`].
    pub async fn check_invariants(
        &self,
        with_blobs: bool,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Checked, Error> {
        let started = Instant::now();
        let (mut checked, mut keyed) = (Checked::default(), Keyed::default());
        let parts = self.parts(PART).map_ok(|part| self.check_part(part, with_blobs)).try_buffered(LANES);
        let mut parts = std::pin::pin!(parts);
        while let Some(mut part) = parts.try_next().await? {
            keyed.append(std::mem::take(&mut part.keyed));
            checked.add(part);
            progress(checked.events);
        }
        checked.add(self.check_leases().await?);
        let violations = keyed.exceeded().into_iter().collect();
        checked.add(PartChecked { violations, ..PartChecked::default() });
        checked.took = started.elapsed();
        Ok(checked)
    }

    async fn check_part(&self, part: Part, with_blobs: bool) -> Result<PartChecked, Error> {
        let mut snapshot = self.snapshot().await?;
        let condition = format!("stream_kind = {} AND {}", StreamKind::Execution as i16, part.condition("stream_id"));
        let copied = copy_events(&mut snapshot, &condition, "stream_id, version", i64::MAX).await?;
        let mut kept = kept(&mut snapshot, part).await?;
        snapshot.rollback().await.map_err(Error::during(CHECK))?;
        let told = match tokio::task::spawn_blocking(move || Told::all(&copied)).await {
            Ok(told) => told?,
            Err(lost) => std::panic::resume_unwind(lost.into_panic()),
        };
        let mut checked = PartChecked { events: told.0, ..PartChecked::default() };
        let mut blobs: BTreeMap<Digest, (Uuid, String)> = BTreeMap::new();
        for told in told.1 {
            let id = told.execution_id;
            let kept = kept.remove(&id).unwrap_or_default();
            let Some(record) = &told.folding.record else {
                // A rejected job, or a stream of which nothing more can be said.
                told.faults.into_iter().for_each(|fault| checked.report(id, fault));
                continue;
            };
            checked.executions += 1;
            if told.faults.is_empty() {
                compare(record, told.folding.dead_letter(), &kept).into_iter().for_each(|it| checked.report(id, it));
            }
            told.faults.into_iter().for_each(|fault| checked.report(id, fault));
            checked.keyed.add(record, told.attempts);
            // What these need has been let go.
            if record.expired_at.is_some() || record.shredded_at.is_some() {
                continue;
            }
            blobs.extend(named_blobs(record).map(|(hash, name)| (hash, (id, name))));
        }
        for (id, kept) in kept {
            orphans(&kept).into_iter().for_each(|it| checked.report(id, it));
        }
        if with_blobs {
            // The empty one is known without being kept.
            blobs.remove(&Digest::of(b""));
            checked.blobs = blobs.len() as u64;
            let hashes: Vec<_> = blobs.keys().copied().collect();
            for missing in self.missing_blobs(&hashes).await? {
                if let Some((id, name)) = blobs.get(&missing) {
                    checked.report(*id, format!("the bytes of its {name} are not kept ({missing})"));
                }
            }
            for lost in self.lost_blobs(&hashes).await? {
                if let Some((id, name)) = blobs.get(&lost) {
                    checked.report(*id, format!("the object with the bytes of its {name} is lost ({lost})"));
                }
            }
        }
        Ok(checked)
    }

    /// One view of all tables. Held against a swap of the derived ones, which such a view would not see
    /// through; nothing else waits for it.
    async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut transaction = self.pool().begin().await.map_err(Error::during(CHECK))?;
        for statement in [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "LOCK TABLE executions, endings, dead_letters IN ACCESS SHARE MODE",
        ] {
            sqlx::query(statement).execute(&mut *transaction).await.map_err(Error::during(CHECK))?;
        }
        Ok(transaction)
    }

    /// No lease is given twice, nor one that the sequence has yet to give.
    async fn check_leases(&self) -> Result<PartChecked, Error> {
        let wrong: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT q.execution_id, q.lease FROM queue q \
              WHERE q.lease > coalesce(pg_sequence_last_value('queue_lease'), 0) \
                 OR q.lease IN (SELECT lease FROM queue WHERE lease IS NOT NULL GROUP BY lease HAVING count(*) > 1)",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(CHECK))?;
        let mut checked = PartChecked::default();
        for (id, lease) in wrong {
            checked.report(id, format!("its lease {lease} is another job's as well, or was never given"));
        }
        Ok(checked)
    }
}

impl Told {
    fn new(execution_id: Uuid) -> Self {
        Self {
            execution_id,
            folding: Folding::default(),
            lease: None,
            attempts: Attempts::default(),
            faults: Vec::new(),
        }
    }

    /// All streams of a copy, with the number of their events.
    fn all(copied: &Copied) -> Result<(u64, Vec<Self>), Error> {
        let (mut events, mut all) = (0, Vec::<Self>::new());
        copied.read(|event| {
            events += 1;
            let event = match event {
                Ok(event) => event,
                Err(at) => {
                    // Whose it is may be what cannot be read.
                    let mut told = Self::new(Uuid::nil());
                    told.faults.push(format!(
                        "the event at position {} has a {} that no program wrote",
                        at.position, at.column
                    ));
                    all.push(told);
                    return Ok(());
                }
            };
            let stream = event.link.stream_id;
            if all.last().is_none_or(|told| told.execution_id != stream) {
                all.push(Self::new(stream));
            }
            if let Some(told) = all.last_mut().filter(|told| told.faults.is_empty()) {
                let read = envelope(&event).map_err(|error| error.to_string());
                if let Err(fault) = read.and_then(|envelope| told.hear(event.position, &envelope)) {
                    told.faults.push(fault);
                }
            }
            Ok(())
        })?;
        Ok((events, all))
    }

    fn hear(&mut self, position: i64, envelope: &crate::domain::Envelope) -> Result<(), String> {
        let kind = envelope.event.kind();
        let had_ended = self.folding.record.as_ref().is_some_and(ExecutionRecord::is_ended);
        let was_claimed = self.folding.record.as_ref().is_some_and(|record| record.claim().is_some());
        if self.folding.evolve(envelope).is_err() {
            let after = if had_ended { ", and it has ended" } else { "" };
            return Err(format!(
                "its event {} ({}) does not follow from those before it{after}",
                envelope.version,
                kind.as_str()
            ));
        }
        self.attempts.hear(position, &envelope.event, was_claimed && !had_ended);
        if let Event::JobDequeued(dequeued) = &envelope.event {
            let greatest = self.lease.replace(dequeued.lease);
            if greatest.is_some_and(|greatest| dequeued.lease <= greatest) {
                return Err(format!("lease {} of attempt {} is not new", dequeued.lease, dequeued.attempt));
            }
        }
        Ok(())
    }
}

async fn kept(snapshot: &mut PgConnection, part: Part) -> Result<HashMap<Uuid, Kept>, Error> {
    let run = Error::during(CHECK);
    let within = part.condition("execution_id");
    let mut kept: HashMap<Uuid, Kept> = HashMap::new();
    let executions = format!(
        "SELECT execution_id, version, parent_execution_id, created_at, tenant, job_type, status, ended_at \
           FROM executions WHERE {within}"
    );
    let rows: Vec<ExecutionRow> =
        sqlx::query_as(AssertSqlSafe(executions)).fetch_all(&mut *snapshot).await.map_err(&run)?;
    for ExecutionRow { execution_id, version, row } in rows {
        kept.entry(execution_id).or_default().row = Some((version, row));
    }
    let endings = format!("SELECT execution_id, status FROM endings WHERE status = ANY ($1) AND {within}");
    let rows: Vec<(Uuid, String)> = sqlx::query_as(AssertSqlSafe(endings))
        .bind(Status::ALL.map(Status::as_str))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(&run)?;
    for (execution_id, status) in rows {
        kept.entry(execution_id).or_default().endings.insert(status);
    }
    let letters = format!(
        "SELECT execution_id, created_at, retry_count, tenant, job_type, error_type, error_message, client_ip, \
                correlation_id FROM dead_letters WHERE {within}"
    );
    let rows: Vec<Columns> = sqlx::query_as(AssertSqlSafe(letters)).fetch_all(&mut *snapshot).await.map_err(&run)?;
    for letter in rows.into_iter().map(letter) {
        let its = kept.entry(letter.execution_id).or_default();
        its.letter = Some(letter);
    }
    let queue = format!(
        "SELECT execution_id, attempts, priority, cancel_requested, tenant, job_type, lease, node_id, \
                limit_key, limit_size \
           FROM queue WHERE {within}"
    );
    let rows: Vec<QueueRow> = sqlx::query_as(AssertSqlSafe(queue)).fetch_all(snapshot).await.map_err(run)?;
    for row in rows {
        let its = kept.entry(row.execution_id).or_default();
        its.queue = Some(row);
    }
    Ok(kept)
}

/// What is kept of an execution of which there are no events.
fn orphans(kept: &Kept) -> Vec<String> {
    let tables = [
        ("executions", kept.row.is_some()),
        ("endings", !kept.endings.is_empty()),
        ("dead_letters", kept.letter.is_some()),
        ("queue", kept.queue.is_some()),
    ];
    let tables = tables.into_iter().filter(|(_, is_there)| *is_there);
    tables.map(|(table, _)| format!("it is in {table}, and no event speaks of it")).collect()
}

fn compare(record: &ExecutionRecord, letter: Option<&DeadLetterRow>, kept: &Kept) -> Vec<String> {
    if record.expired_at.is_some() {
        let tables = [("executions", kept.row.is_some()), ("queue", kept.queue.is_some())];
        let tables = tables.into_iter().filter(|(_, is_there)| *is_there);
        return tables.map(|(table, _)| format!("it has expired and is in {table}")).collect();
    }
    let mut found = Vec::new();
    let told = RecordRow::of(record);
    match &kept.row {
        None => found.push("it is not in executions".to_owned()),
        Some((version, row)) if (*version, row) == (record.version, &told) => {}
        Some((version, row)) => found.push(format!(
            "executions has it as {} at version {version}, its events as {} at version {}",
            row.status, told.status, record.version
        )),
    }
    let endings: BTreeSet<_> = record.is_ended().then_some(told.status).into_iter().collect();
    if kept.endings != endings {
        let list = |statuses: &BTreeSet<String>| match statuses.is_empty() {
            true => "not".to_owned(),
            false => statuses.iter().map(String::as_str).collect::<Vec<_>>().join(" and "),
        };
        found.push(format!("endings has it as {} ended, its events as {}", list(&kept.endings), list(&endings)));
    }
    match (letter, &kept.letter) {
        (told, kept) if told == kept.as_ref() => {}
        (Some(_), None) => found.push("it is a dead letter and not in dead_letters".to_owned()),
        (None, Some(_)) => found.push("it is in dead_letters and no dead letter".to_owned()),
        (Some(_), Some(_)) | (None, None) => found.push("dead_letters has another story than its events".to_owned()),
    }
    found.extend(compare_queue(record, kept.queue.as_ref()));
    found
}

fn compare_queue(record: &ExecutionRecord, row: Option<&QueueRow>) -> Vec<String> {
    let Some(row) = row else {
        return match record.is_ended() {
            true => Vec::new(),
            false => vec!["it has not ended and is not in the queue".to_owned()],
        };
    };
    let mut found = Vec::new();
    match &record.state {
        JobState::Ended { .. } => return vec!["it has ended and is in the queue".to_owned()],
        JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } => {
            if (row.lease, row.node_id) != (Some(claim.lease), Some(claim.node_id)) {
                let held = row.lease.map_or("none".to_owned(), |lease| lease.to_string());
                found.push(format!("the queue has it under lease {held}, its events under lease {}", claim.lease));
            }
        }
        JobState::Queued { .. } => {
            if i64::from(row.attempts) != i64::from(record.attempt) {
                found.push(format!("the queue counts {} attempts, its events {}", row.attempts, record.attempt));
            }
        }
    }
    if row.cancel_requested != record.cancel_requested.is_some() {
        found.push("the queue and its events differ in whether it is to be cancelled".to_owned());
    }
    let submitted = &record.submitted;
    if (&row.tenant, &row.job_type, row.priority) != (&submitted.tenant, &submitted.job_type, submitted.priority) {
        found.push("the queue has it with another tenant, job type or priority than its submission".to_owned());
    }
    let limit = row.limit_key.as_deref().zip(row.limit_size.map(i64::from));
    let wanted = submitted.concurrency.as_ref().map(|wanted| (wanted.key.as_str(), i64::from(wanted.limit)));
    if limit != wanted {
        found.push("the queue has it with another concurrency key or limit than its submission".to_owned());
    }
    found
}

/// Every blob that an execution needs to be shown and repeated, with what it is.
fn named_blobs(record: &ExecutionRecord) -> impl Iterator<Item = (Digest, String)> {
    let submitted = &record.submitted;
    let given = submitted.files.iter().map(|file| (file.hash, format!("file {}", file.name)));
    let own = [(submitted.code, "code".to_owned()), (submitted.input, "input".to_owned())];
    let observed = record.ending().and_then(Ending::observed);
    let made = observed.into_iter().flat_map(|observed| {
        let streams = [(observed.stdout.hash, "stdout".to_owned()), (observed.stderr.hash, "stderr".to_owned())];
        let output = observed.output.map(|hash| (hash, "output".to_owned()));
        let artifacts = observed.artifacts.iter().map(|made| (made.hash, format!("artifact {}", made.name)));
        streams.into_iter().chain(output).chain(artifacts)
    });
    own.into_iter().chain(given).chain(made)
}

//! Executions that ended long ago.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tako_vm::domain::{Digest, Envelope, Event, EventKind, ExecutionRecord};
use tako_vm::store::{self, Append, Blob, Idempotency, Outcome, RecordRow, StreamKind};
use uuid::Uuid;

use crate::db::Db;

/// An execution as it was some days ago: submitted, claimed, run, succeeded.
pub struct Past<'a> {
    pub days: i64,
    pub tenant: &'a str,
    pub job_type: &'a str,
    pub code: &'a str,
    pub stdout: &'a str,
    pub idempotency_key: Option<&'a str>,
}

impl Default for Past<'_> {
    fn default() -> Self {
        Self { days: 0, tenant: "default", job_type: "default", code: "print", stdout: "text", idempotency_key: None }
    }
}

/// A UUIDv7 of a moment.
pub fn id_of(at: DateTime<Utc>) -> Uuid {
    let random = Uuid::new_v4().as_u128() & ((1 << 76) - 1) & !(3 << 62);
    Uuid::from_u128(((at.timestamp_millis() as u128) << 80) | (7 << 76) | (2 << 62) | random)
}

fn sample(kind: EventKind, change: impl FnOnce(&mut Value)) -> Event {
    let mut payload: Value = serde_json::from_str(kind.editions().last().unwrap().sample).unwrap();
    change(&mut payload);
    Event::from_payload(kind, &payload.to_string()).unwrap()
}

impl Past<'_> {
    /// Appends it, with its bytes, as if it had been then.
    pub async fn append(self, db: &Db) -> Uuid {
        let at = Utc::now() - TimeDelta::days(self.days);
        let id = id_of(at);
        let fingerprint = Digest::of(b"fingerprint");
        let submitted = sample(EventKind::JobSubmitted, |payload| {
            payload["tenant"] = json!(self.tenant);
            payload["job_type"] = json!(self.job_type);
            payload["code"] = json!(Digest::of(self.code.as_bytes()));
            payload["input"] = json!(Digest::of(b"{}"));
            for absent in ["parent", "pinned_image", "not_before", "hash_seed", "input_artifacts"] {
                payload[absent] = Value::Null;
            }
            payload["files"] = json!([]);
            payload["idempotency"] = match self.idempotency_key {
                Some(key) => json!({"key": key, "fingerprint": fingerprint}),
                None => Value::Null,
            };
        });
        let succeeded = sample(EventKind::ExecutionSucceeded, |payload| {
            let observed = &mut payload["observed"];
            observed["stdout"]["hash"] = json!(Digest::of(self.stdout.as_bytes()));
            observed["stdout"]["bytes"] = json!(self.stdout.len());
            observed["output"] = Value::Null;
            observed["artifacts"] = json!([]);
        });
        let dequeued = sample(EventKind::JobDequeued, |payload| payload["attempt"] = json!(1));
        let events = [submitted, dequeued, sample(EventKind::ExecutionStarted, |_| {}), succeeded];
        let envelopes: Vec<_> = (1..)
            .zip(events)
            .map(|(version, event)| Envelope {
                event_id: Uuid::now_v7(),
                stream_id: id,
                version,
                recorded_at: at,
                correlation_id: Some("past".to_owned()),
                event,
            })
            .collect();
        let record = ExecutionRecord::fold(&envelopes).unwrap().unwrap();
        let stored = store::new_events(envelopes.iter().map(|envelope| (envelope, "test@past"))).unwrap();
        let mut append = Append::events(id, StreamKind::Execution, stored);
        append.record = Some(RecordRow::of(&record));
        append.blobs = [self.code, self.stdout, "{}"].map(|text| Blob::new(text.to_owned().into_bytes())).to_vec();
        append.idempotency =
            self.idempotency_key.map(|key| Idempotency { tenant: self.tenant.into(), key: key.into(), fingerprint });
        assert!(matches!(db.store.append(append).await.unwrap(), Outcome::Appended(_)));
        id
    }
}

/// Makes a log that is empty as if it were older: what began before this month has a partition of its own.
pub async fn age(db: &Db) {
    let month = "first_stream_of(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')";
    let (from, to): (Uuid, Uuid) = {
        let bounds = format!("SELECT {month}, to_stream FROM event_partitions WHERE name = 'events_first'");
        sqlx::query_as(sqlx::AssertSqlSafe(bounds)).fetch_one(&db.admin).await.unwrap()
    };
    for statement in [
        "ALTER TABLE events DETACH PARTITION events_first".to_owned(),
        "ALTER TABLE events_first DROP CONSTRAINT events_first_streams".to_owned(),
        format!("ALTER TABLE events ATTACH PARTITION events_first FOR VALUES FROM (MINVALUE) TO ('{from}')"),
        format!("CREATE TABLE events_this PARTITION OF events FOR VALUES FROM ('{from}') TO ('{to}')"),
        "SELECT guard_event_partition('events_this')".to_owned(),
        format!("UPDATE event_partitions SET to_stream = '{from}' WHERE name = 'events_first'"),
        format!("INSERT INTO event_partitions VALUES ('events_this', '{from}', '{to}')"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db.admin).await.unwrap();
    }
}

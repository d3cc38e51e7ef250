//! Where executions come from and what came of them: by parent, by artifact, by code.

use std::collections::{BTreeSet, HashSet};

use uuid::Uuid;

use super::codec::fold;
use super::database::Store;
use super::error::Error;
use super::events::StoredEvent;
use super::executions::{Page, Stored};
use crate::domain::{Attempt, Digest, Envelope, ExecutionRecord, JobSubmitted};

const LINEAGE: &str = "follow lineage";

/// An execution in a lineage.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub record: ExecutionRecord,
    pub attempts: Vec<Attempt>,
}

/// An execution with what it came from and what came from it.
#[derive(Debug, Clone)]
pub struct Family {
    pub own: Member,
    /// The nearest first.
    pub ancestors: Vec<Member>,
    /// The nearest first.
    pub descendants: Vec<Member>,
    /// There is more than was asked for.
    pub truncated: bool,
}

/// How far a lineage is followed.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Steps up and steps down.
    pub depth: u32,
    /// Executions in all.
    pub most: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Store {
    /// The lineage of a tenant's execution, by parents, by artifacts given to others and by who waited for whom; `None`
    /// when the tenant has no such execution.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Corrupt`] for a record that does not read.
    pub async fn family(&self, tenant: &str, execution_id: Uuid, reach: Reach) -> Result<Option<Family>, Error> {
        let Some(own) = self.members(tenant, &[execution_id]).await?.pop() else { return Ok(None) };
        let mut family = Family { own, ancestors: Vec::new(), descendants: Vec::new(), truncated: false };
        let mut seen = HashSet::from([execution_id]);
        for direction in [Direction::Up, Direction::Down] {
            let mut found = Vec::new();
            let mut frontier = vec![family.own.clone()];
            for step in 0..=reach.depth {
                let room = reach.most.saturating_sub(seen.len());
                let mut next = self.next(direction, &frontier, room).await?;
                next.retain(|id| !seen.contains(id));
                if next.is_empty() {
                    break;
                }
                if step == reach.depth || next.len() > room {
                    family.truncated = true;
                    next.truncate(if step == reach.depth { 0 } else { room });
                }
                seen.extend(&next);
                frontier = self.members(tenant, &next).await?;
                if direction == Direction::Down {
                    let is_near = |id: &Uuid| seen.contains(id);
                    frontier.retain(|member| origins(&member.record).iter().any(is_near));
                }
                found.extend(frontier.iter().cloned());
            }
            match direction {
                Direction::Up => family.ancestors = found,
                Direction::Down => family.descendants = found,
            }
        }
        Ok(Some(family))
    }

    /// Ids one step away, at least one more than there is room for when there are more.
    async fn next(&self, direction: Direction, frontier: &[Member], room: usize) -> Result<Vec<Uuid>, Error> {
        if direction == Direction::Up {
            let origins: BTreeSet<_> = frontier.iter().flat_map(|member| origins(&member.record)).collect();
            return Ok(origins.into_iter().rev().collect());
        }
        let ids: Vec<_> = frontier.iter().map(|member| member.record.execution_id).collect();
        sqlx::query_scalar(
            "(SELECT execution_id FROM executions WHERE parent_execution_id = ANY ($1) ORDER BY execution_id LIMIT $2) \
             UNION \
             (SELECT execution_id FROM dependencies WHERE after_id = ANY ($1) ORDER BY execution_id LIMIT $2) \
             UNION \
             (SELECT stream_id FROM events \
               WHERE event_type = 'JobSubmitted' AND strpos(payload::text, '\"files\":[') > 0 \
                 AND input_keys(payload) && ARRAY(SELECT hashtextextended(id::text, 0) FROM unnest($1) id) \
               LIMIT $2) \
             ORDER BY 1",
        )
        .bind(ids)
        .bind(i64::try_from(room).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(LINEAGE))
    }

    async fn members(&self, tenant: &str, ids: &[Uuid]) -> Result<Vec<Member>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let events: Vec<StoredEvent> =
            sqlx::query_as("SELECT * FROM events WHERE stream_id = ANY ($1) ORDER BY stream_id, version")
                .bind(ids)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during(LINEAGE))?;
        let events = self.open_payloads(events).await?;
        let mut members = Vec::with_capacity(ids.len());
        for stream in events.chunk_by(|one, next| one.stream_id == next.stream_id) {
            let envelopes: Vec<Envelope> = stream.iter().map(StoredEvent::envelope).collect::<Result<_, _>>()?;
            let Some(stored) = fold(stream)?.pop().filter(|stored| stored.record.submitted.tenant == tenant) else {
                continue;
            };
            members.push(Member { record: stored.record, attempts: Attempt::of(&envelopes) });
        }
        Ok(members)
    }

    /// A tenant's executions that ran a code, newest first.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub async fn executions_of_code(&self, tenant: &str, code: Digest, page: (u32, u64)) -> Result<Page, Error> {
        let which = "hashtextextended(substr(e.payload::text, strpos(e.payload::text, '\"code\":\"') + 8, 64), 0) \
             = hashtextextended($1, 0)";
        self.submitted(which, tenant, code, page, |submitted| submitted.code == code).await
    }

    /// A tenant's executions that were given a file with those bytes, newest first.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub async fn consumers(&self, tenant: &str, artifact: Digest, page: (u32, u64)) -> Result<Page, Error> {
        let which = "strpos(e.payload::text, '\"files\":[') > 0 \
             AND input_keys(e.payload) @> ARRAY[hashtextextended($1, 0)]";
        let is_given = |submitted: &JobSubmitted| submitted.files.iter().any(|file| file.hash == artifact);
        self.submitted(which, tenant, artifact, page, is_given).await
    }

    /// The index knows keys that hardly ever are another value's; `is_meant` knows the value.
    async fn submitted(
        &self,
        which: &'static str,
        tenant: &str,
        hash: Digest,
        (limit, offset): (u32, u64),
        is_meant: impl Fn(&JobSubmitted) -> bool,
    ) -> Result<Page, Error> {
        let statement = format!(
            "SELECT e.* FROM (SELECT e.stream_id, e.position \
                  FROM events e JOIN executions x ON x.execution_id = e.stream_id AND x.tenant = $2 \
                 WHERE e.event_type = 'JobSubmitted' AND {which} ORDER BY e.position DESC LIMIT $3 OFFSET $4) l \
             JOIN events e ON e.stream_id = l.stream_id ORDER BY l.position DESC, e.version"
        );
        let events: Vec<StoredEvent> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(hash.to_string())
            .bind(tenant)
            .bind(i64::from(limit) + 1)
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("find submissions"))?;
        let mut records: Vec<Stored> = fold(&self.open_payloads(events).await?)?;
        let has_more = records.len() > limit as usize;
        records.truncate(limit as usize);
        records.retain(|stored| is_meant(&stored.record.submitted));
        Ok(Page { records, has_more })
    }
}

/// The executions that one came from directly: its parent, those that it waited for, and those whose
/// artifacts it was given.
fn origins(record: &ExecutionRecord) -> BTreeSet<Uuid> {
    let parent = record.submitted.parent.map(|parent| parent.execution_id);
    let sources = record.submitted.files.iter().filter_map(|file| Some(file.source.as_ref()?.execution_id));
    let after = record.dependencies.iter().flat_map(|dependencies| dependencies.after.iter().copied());
    parent.into_iter().chain(sources).chain(after).collect()
}

//! Making proofs.

use uuid::Uuid;

use super::merkle::{self, Tree};
use super::proof::{Proof, ProofEvent};
use super::seal::Seal;
use crate::domain::Digest;
use crate::store::database::Store;
use crate::store::error::Error;
use crate::store::events::StoredEvent;

/// Events of one proof at most; retries are bounded far below.
const MOST: u32 = 10_000;

const PROVE: &str = "prove events";

impl Store {
    /// The proof of an execution's events. `None` for an execution that does not exist.
    ///
    /// Takes time in proportion to the events under the seals that cover the execution's own.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a seal that does not have the root it must have;
    /// [`Error::Unavailable`].
    pub async fn proof(&self, execution_id: Uuid) -> Result<Option<Proof>, Error> {
        let mut events: Vec<_> =
            self.stream_events(execution_id, 0, MOST).await?.into_iter().map(ProofEvent::from).collect();
        let mut seals = Vec::new();
        let mut from = 0;
        while let Some(event) = events.get(from) {
            let Some(seal) = self.seal_over(event.position).await? else { break };
            let tree = self.tree(&seal).await?;
            for event in events[from..].iter_mut().take_while(|event| seal.covers(event.position)) {
                let index = usize::try_from(event.position - seal.first_position).unwrap_or(usize::MAX);
                let path = tree.path(index);
                event.path =
                    path.ok_or_else(|| Error::corrupt("seals", seal.seal_no, "event_count", "is too small"))?;
                event.seal_no = Some(seal.seal_no);
                from += 1;
            }
            seals.push(seal);
        }
        Ok((!events.is_empty()).then(|| Proof::new(execution_id, events, seals)))
    }

    async fn seal_over(&self, position: i64) -> Result<Option<Seal>, Error> {
        let seal: Option<Seal> =
            sqlx::query_as("SELECT * FROM seals WHERE last_position >= $1 ORDER BY last_position LIMIT 1")
                .bind(position)
                .fetch_optional(self.pool())
                .await
                .map_err(Error::during(PROVE))?;
        Ok(seal.filter(|seal| seal.covers(position)))
    }

    async fn tree(&self, seal: &Seal) -> Result<Tree, Error> {
        let events: Vec<(i64, i16, [u8; 32])> = sqlx::query_as(
            "SELECT position, stream_kind, hash FROM events WHERE position BETWEEN $1 AND $2 UNION ALL \
             SELECT position, stream_kind, hash FROM archived_leaves WHERE position BETWEEN $1 AND $2 ORDER BY position",
        )
        .bind(seal.first_position)
        .bind(seal.last_position)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(PROVE))?;
        let leaf = |(position, kind, hash)| merkle::leaf(position, kind, &Digest::from_bytes(hash));
        let tree = Tree::of(events.into_iter().map(leaf).collect());
        if tree.root() != Some(seal.root) {
            return Err(Error::corrupt("seals", seal.seal_no, "root", "is not that of the events it covers"));
        }
        Ok(tree)
    }
}

impl From<StoredEvent> for ProofEvent {
    fn from(event: StoredEvent) -> Self {
        Self {
            position: event.position,
            version: event.version,
            event_id: event.event_id,
            event_type: event.event_type,
            schema_version: event.schema_version,
            recorded_at: event.recorded_at,
            actor: event.actor,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            payload: event.payload,
            prev_hash: event.prev_hash,
            hash: event.hash,
            seal_no: None,
            path: Vec::new(),
        }
    }
}

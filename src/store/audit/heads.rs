//! The last event of each stream so far, in bounded memory.

use std::collections::HashMap;

use uuid::Uuid;

use crate::domain::Digest;
use crate::store::database::Store;
use crate::store::error::Error;

/// Streams of one generation; two are kept, some 60 MiB.
const GENERATION: usize = 1 << 18;

/// Version and hash of an event.
pub(super) type Head = (i32, Digest);

/// Forgets streams that were not spoken of for long; whoever meets one again reads its head from
/// the database, where it has been verified in its turn.
#[derive(Debug, Default)]
pub(super) struct Heads {
    young: HashMap<Uuid, Head>,
    old: HashMap<Uuid, Head>,
}

impl Heads {
    pub(super) fn get(&self, stream_id: &Uuid) -> Option<Head> {
        self.young.get(stream_id).or_else(|| self.old.get(stream_id)).copied()
    }

    /// Whether a stream that is not known may have been.
    pub(super) fn has_forgotten(&self) -> bool {
        !self.old.is_empty()
    }

    pub(super) fn set(&mut self, stream_id: Uuid, head: Head) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&stream_id) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(stream_id, head);
    }

    /// Reads the events before the given ones of their streams: stream, version and position of
    /// each. What stands behind the given position does not count.
    pub(super) async fn look_up(&mut self, store: &Store, missing: &[(Uuid, i32, i64)]) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = missing.iter().map(|(id, _, _)| *id).collect();
        let versions: Vec<_> = missing.iter().map(|(_, version, _)| version - 1).collect();
        let positions: Vec<_> = missing.iter().map(|(_, _, position)| *position).collect();
        let rows: Vec<(Uuid, i32, [u8; 32])> = sqlx::query_as(
            "SELECT e.stream_id, e.version, e.hash FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) \
                    AS m (stream_id, version, position) \
               JOIN events e ON e.stream_id = m.stream_id AND e.version = m.version AND e.position < m.position",
        )
        .bind(ids)
        .bind(versions)
        .bind(positions)
        .fetch_all(store.pool())
        .await
        .map_err(Error::during("read earlier events"))?;
        for (stream_id, version, hash) in rows {
            self.set(stream_id, (version, Digest::from_bytes(hash)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_streams_are_known_and_memory_is_bounded() {
        let mut heads = Heads::default();
        let count = 5 * GENERATION as u128;
        for id in 0..count {
            heads.set(Uuid::from_u128(id), (1, Digest::from_bytes([0; 32])));
        }
        assert!(heads.get(&Uuid::from_u128(count - GENERATION as u128)).is_some());
        assert!(heads.get(&Uuid::nil()).is_none());
        assert!(heads.young.len() + heads.old.len() <= 2 * GENERATION);
    }
}

//! Events whose own hashes have been recomputed.

use uuid::Uuid;

use super::merkle;
use crate::domain::Digest;
use crate::store::chain;
use crate::store::copy::Copied;
use crate::store::error::Error;

/// What is left of an event once its bytes have been hashed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub position: i64,
    /// `None` for an event that does not read.
    pub event: Result<Own, &'static str>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub stream_id: Uuid,
    pub version: i32,
    pub prev_hash: Option<Digest>,
    /// As it is stored.
    pub hash: Digest,
    pub leaf: Digest,
    /// Whether the stored hash is that of the stored bytes.
    pub fits: bool,
}

/// Recomputes every hash of what was copied.
pub(super) fn check(copied: &Copied) -> Result<Vec<Checked>, Error> {
    let mut checked = Vec::new();
    copied.read(|event| {
        checked.push(match event {
            Err(unreadable) => Checked { position: unreadable.position, event: Err(unreadable.column) },
            Ok(event) => Checked {
                position: event.position,
                event: Ok(Own {
                    stream_id: event.link.stream_id,
                    version: event.link.version,
                    prev_hash: event.prev_hash,
                    hash: event.hash,
                    leaf: merkle::leaf(event.position, event.stream_kind, &event.hash),
                    fits: chain::hash(event.prev_hash.as_ref(), &event.link) == event.hash,
                }),
            },
        });
        Ok(())
    })?;
    Ok(checked)
}

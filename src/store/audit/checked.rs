//! Events whose own hashes have been recomputed.

use uuid::Uuid;

use super::merkle;
use crate::domain::Digest;
use crate::store::chain::{self, Link};
use crate::store::copy::Copied;
use crate::store::error::Error;

/// What is left of an event once its bytes have been hashed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub position: i64,
    pub event: Found,
}

/// What there is of an event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    Here(Own),
    /// A column does not read.
    Unreadable(&'static str),
    /// It was archived, and its leaf alone was kept.
    Archived(Digest),
}

impl Checked {
    /// The leaf of an event that is elsewhere.
    pub(super) fn archived(position: i64, stream_kind: i16, hash: &Digest) -> Self {
        Self { position, event: Found::Archived(merkle::leaf(position, stream_kind, hash)) }
    }

    pub(super) fn own(&self) -> Option<&Own> {
        match &self.event {
            Found::Here(own) => Some(own),
            Found::Unreadable(_) | Found::Archived(_) => None,
        }
    }
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

impl Own {
    /// Recomputes the hash of an event.
    pub(super) fn of(
        position: i64,
        stream_kind: i16,
        link: &Link<'_>,
        prev_hash: Option<Digest>,
        hash: Digest,
    ) -> Self {
        Self {
            stream_id: link.stream_id,
            version: link.version,
            prev_hash,
            hash,
            leaf: merkle::leaf(position, stream_kind, &hash),
            fits: chain::hash(prev_hash.as_ref(), link) == hash,
        }
    }
}

/// Recomputes every hash of what was copied.
pub(super) fn check(copied: &Copied) -> Result<Vec<Checked>, Error> {
    let mut checked = Vec::new();
    copied.read(|event| {
        checked.push(match event {
            Err(unreadable) => Checked { position: unreadable.position, event: Found::Unreadable(unreadable.column) },
            Ok(event) => Checked {
                position: event.position,
                event: Found::Here(Own::of(
                    event.position,
                    event.stream_kind,
                    &event.link,
                    event.prev_hash,
                    event.hash,
                )),
            },
        });
        Ok(())
    })?;
    Ok(checked)
}

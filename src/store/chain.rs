//! The hash chain of a stream: each event's hash covers the event and the hash before it, so a
//! changed, removed or reordered event is found by whoever folds the stream.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::Digest;

/// Everything of an event that its hash covers.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    pub stream_id: Uuid,
    pub version: i32,
    pub event_id: Uuid,
    pub event_type: &'a str,
    pub schema_version: i16,
    /// Hashed in whole microseconds since 1970, the database's resolution.
    pub recorded_at: DateTime<Utc>,
    pub actor: &'a str,
    pub correlation_id: Option<&'a str>,
    pub causation_id: Option<Uuid>,
    /// The payload's JSON text, to the byte.
    pub payload: &'a str,
}

/// The hash of an event that follows `previous` (`None`: the stream's first).
///
/// SHA-256 over the previous hash (32 zero bytes for the first event) and the fields in the
/// order of [`Link`], each preceded by its length in bytes as a little-endian `u64`; numbers
/// are little-endian, ids are their 16 bytes, and an absent field has the length `u64::MAX`. No
/// two different events have the same encoding.
pub fn hash(previous: Option<&Digest>, link: &Link<'_>) -> Digest {
    let mut digest = Sha256::new();
    let mut field = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        None => digest.update(u64::MAX.to_le_bytes()),
    };
    field(Some(previous.map_or([0; 32], |hash| *hash.as_bytes()).as_slice()));
    field(Some(link.stream_id.as_bytes()));
    field(Some(&link.version.to_le_bytes()));
    field(Some(link.event_id.as_bytes()));
    field(Some(link.event_type.as_bytes()));
    field(Some(&link.schema_version.to_le_bytes()));
    field(Some(&link.recorded_at.timestamp_micros().to_le_bytes()));
    field(Some(link.actor.as_bytes()));
    field(link.correlation_id.map(str::as_bytes));
    field(link.causation_id.as_ref().map(|id| id.as_bytes().as_slice()));
    field(Some(link.payload.as_bytes()));
    Digest::from_bytes(digest.finalize().into())
}

/// Why a stream is not what was once appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A version is missing, doubled or out of order.
    #[error("stream {stream_id} has version {found} where {expected} belongs")]
    Version { stream_id: Uuid, expected: i32, found: i32 },
    /// An event does not name the one before it.
    #[error("version {version} of stream {stream_id} does not follow the event before it")]
    Previous { stream_id: Uuid, version: i32 },
    /// An event is not what its hash was made of.
    #[error("version {version} of stream {stream_id} was changed")]
    Content { stream_id: Uuid, version: i32 },
    /// An event of another stream.
    #[error("version {version} belongs to stream {found}, not {stream_id}")]
    Stream { stream_id: Uuid, found: Uuid, version: i32 },
}

/// Verifies a stream event by event, in order of version, from its first.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    version: i32,
    stream_id: Option<Uuid>,
    head: Option<Digest>,
}

impl Verifier {
    /// Takes the next event with the hashes stored beside it.
    ///
    /// # Errors
    /// The first thing that does not fit. The verifier is of no use after it.
    pub fn push(&mut self, link: &Link<'_>, prev: Option<&Digest>, own: &Digest) -> Result<(), Broken> {
        let stream_id = *self.stream_id.get_or_insert(link.stream_id);
        let version = link.version;
        if link.stream_id != stream_id {
            return Err(Broken::Stream { stream_id, found: link.stream_id, version });
        }
        let expected = self.version + 1;
        if version != expected {
            return Err(Broken::Version { stream_id, expected, found: version });
        }
        if prev != self.head.as_ref() {
            return Err(Broken::Previous { stream_id, version });
        }
        if hash(prev, link) != *own {
            return Err(Broken::Content { stream_id, version });
        }
        self.version = version;
        self.head = Some(*own);
        Ok(())
    }

    /// The hash of the last event taken.
    pub fn head(&self) -> Option<Digest> {
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(payload: &str) -> Link<'_> {
        Link {
            stream_id: Uuid::from_u128(1),
            version: 1,
            event_id: Uuid::from_u128(2),
            event_type: "JobSubmitted",
            schema_version: 1,
            recorded_at: DateTime::from_timestamp_micros(1_700_000_000_000_000).unwrap(),
            actor: "intake@a",
            correlation_id: None,
            causation_id: None,
            payload,
        }
    }

    #[test]
    fn the_hash_of_a_known_event_never_changes() {
        let first = hash(None, &link("{}"));
        assert_eq!(first.to_string(), "65534e9d271bd33314e5d823da9b41c55c43ca44a93c021e24c3ea3fa26778c1");
    }

    #[test]
    fn every_field_counts() {
        let base = link("{}");
        let edits = [
            Link { stream_id: Uuid::from_u128(9), ..base },
            Link { version: 2, ..base },
            Link { event_id: Uuid::from_u128(9), ..base },
            Link { event_type: "JobSubmitte", actor: "dintake@a", ..base },
            Link { schema_version: 2, ..base },
            Link { recorded_at: base.recorded_at + chrono::TimeDelta::microseconds(1), ..base },
            Link { actor: "intake@b", ..base },
            Link { correlation_id: Some(""), ..base },
            Link { causation_id: Some(Uuid::nil()), ..base },
            Link { payload: "{ }", ..base },
        ];
        for edit in &edits {
            assert_ne!(hash(None, edit), hash(None, &base), "{edit:?}");
        }
        assert_ne!(hash(Some(&Digest::from_bytes([1; 32])), &base), hash(None, &base));
    }

    #[test]
    fn time_below_a_microsecond_does_not_count() {
        let base = link("{}");
        let later = base.recorded_at + chrono::TimeDelta::nanoseconds(999);
        assert_eq!(hash(None, &Link { recorded_at: later, ..base }), hash(None, &base));
    }

    #[test]
    fn a_skipped_version_is_found() {
        let mut verifier = Verifier::default();
        let first = link("{}");
        let own = hash(None, &first);
        verifier.push(&first, None, &own).unwrap();
        let third = Link { version: 3, ..first };
        let found = verifier.push(&third, Some(&own), &hash(Some(&own), &third));
        assert!(matches!(found, Err(Broken::Version { expected: 2, found: 3, .. })));
    }
}

//! What vouches for a range of the log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::keys::{PublicKey, Signature, SigningKey};
use crate::domain::Digest;
use crate::store::row::{digest, optional_digest};

/// Begins the bytes that a seal's hash is made of, and tells them from all others.
const HASHED: &[u8] = b"tako-vm seal v1\0";
/// Begins the bytes that are signed.
const SIGNED: &[u8] = b"tako-vm seal signature v1\0";

/// The events at some positions, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// From 1, without gaps.
    pub seal_no: i64,
    pub first_position: i64,
    pub last_position: i64,
    pub event_count: i64,
    /// To the microsecond.
    #[serde(deserialize_with = "exactly")]
    pub sealed_at: DateTime<Utc>,
    /// Of the Merkle tree over the events.
    pub root: Digest,
    /// The hash of the seal before this one; `None` for the first.
    pub previous_hash: Option<Digest>,
    /// See [`Seal::computed_hash`].
    pub hash: Digest,
    /// Who signed; `None` for a seal that nobody did.
    pub public_key: Option<PublicKey>,
    pub signature: Option<Signature>,
}

/// A time in the very text that is written of it: of others, several would mean the same.
pub(super) fn exactly<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    use serde::de::Error as _;
    let text = String::deserialize(deserializer)?;
    let time: DateTime<Utc> = text.parse().map_err(D::Error::custom)?;
    match serde_json::to_value(time) {
        Ok(written) if written == text.as_str() => Ok(time),
        _ => Err(D::Error::custom(format_args!("{text:?} is not how a time is written"))),
    }
}

impl Seal {
    /// A seal over the events from one position to another, after the seal before it.
    pub fn new(
        previous: Option<&Self>,
        positions: std::ops::RangeInclusive<i64>,
        root: Digest,
        sealed_at: DateTime<Utc>,
        key: Option<&SigningKey>,
    ) -> Self {
        let mut seal = Self {
            seal_no: previous.map_or(0, |previous| previous.seal_no) + 1,
            first_position: *positions.start(),
            last_position: *positions.end(),
            event_count: positions.end() - positions.start() + 1,
            sealed_at,
            root,
            previous_hash: previous.map(|previous| previous.hash),
            hash: Digest::from_bytes([0; 32]),
            public_key: key.map(SigningKey::public_key),
            signature: None,
        };
        seal.hash = seal.computed_hash();
        seal.signature = key.map(|key| key.sign(&seal.signed_bytes()));
        seal
    }

    /// SHA-256 over `tako-vm seal v1` and a zero byte; number, first position, last position and
    /// count as little-endian `i64`; the root; the previous hash (32 zero bytes for none); the
    /// time in microseconds since 1970 as little-endian `i64`; and 1 with the public key, or 0
    /// with 32 zero bytes. Every part has a fixed length.
    pub fn computed_hash(&self) -> Digest {
        let mut digest = Sha256::new();
        digest.update(HASHED);
        for number in [self.seal_no, self.first_position, self.last_position, self.event_count] {
            digest.update(number.to_le_bytes());
        }
        digest.update(self.root.as_bytes());
        digest.update(self.previous_hash.map_or([0; 32], |hash| *hash.as_bytes()));
        digest.update(self.sealed_at.timestamp_micros().to_le_bytes());
        digest.update([u8::from(self.public_key.is_some())]);
        digest.update(self.public_key.as_ref().map_or([0; 32], PublicKey::to_bytes));
        Digest::from_bytes(digest.finalize().into())
    }

    /// `tako-vm seal signature v1`, a zero byte and the seal's hash.
    fn signed_bytes(&self) -> Vec<u8> {
        [SIGNED, self.hash.as_bytes()].concat()
    }

    /// Whether the seal is signed, and by the key that it names.
    pub fn is_signed(&self) -> bool {
        match (&self.public_key, &self.signature) {
            (Some(key), Some(signature)) => key.verifies(&self.signed_bytes(), signature),
            _ => false,
        }
    }

    /// Whether the seal covers the event at a position.
    pub fn covers(&self, position: i64) -> bool {
        (self.first_position..=self.last_position).contains(&position)
    }
}

impl FromRow<'_, PgRow> for Seal {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let unreadable = |column: &str| sqlx::Error::Decode(format!("{column} of a seal cannot be read").into());
        let key: Option<[u8; 32]> = row.try_get("public_key")?;
        let signature: Option<[u8; 64]> = row.try_get("signature")?;
        Ok(Self {
            seal_no: row.try_get("seal_no")?,
            first_position: row.try_get("first_position")?,
            last_position: row.try_get("last_position")?,
            event_count: row.try_get("event_count")?,
            sealed_at: row.try_get("sealed_at")?,
            root: digest(row, "root")?,
            previous_hash: optional_digest(row, "previous_hash")?,
            hash: digest(row, "hash")?,
            public_key: key.map(|key| PublicKey::from_bytes(&key)).transpose().map_err(|_| unreadable("public_key"))?,
            signature: signature.map(Signature::from_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: Option<&SigningKey>) -> Seal {
        let at = DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
        Seal::new(None, 1..=10, Digest::of(b"root"), at, key)
    }

    #[test]
    fn the_hash_of_a_known_seal_never_changes() {
        assert_eq!(seal(None).hash.to_string(), "86ef4f08e90de91f9796ed57a2d4ab5b0bfe4594e9dca1d325b804c9aea7ee29");
    }

    #[test]
    fn every_field_counts() {
        let key = SigningKey::of_seed([1; 32]);
        let good = seal(Some(&key));
        assert!(good.is_signed());
        let other = SigningKey::of_seed([2; 32]).public_key();
        let edits: [fn(&mut Seal); 7] = [
            |seal| seal.seal_no += 1,
            |seal| seal.first_position += 1,
            |seal| seal.last_position += 1,
            |seal| seal.event_count += 1,
            |seal| seal.root = Digest::of(b"another"),
            |seal| seal.previous_hash = Some(Digest::from_bytes([0; 32]).max(Digest::of(b"x"))),
            |seal| seal.sealed_at += chrono::TimeDelta::microseconds(1),
        ];
        for edit in edits {
            let mut edited = good.clone();
            edit(&mut edited);
            assert_ne!(edited.computed_hash(), good.hash, "{edited:?}");
        }
        assert_ne!(Seal { public_key: Some(other.clone()), ..good.clone() }.computed_hash(), good.hash);
        assert_ne!(seal(None).hash, good.hash);
        assert!(!Seal { public_key: Some(other), ..good.clone() }.is_signed());
        assert!(!Seal { signature: None, ..good.clone() }.is_signed());
        assert!(!Seal { hash: Digest::of(b"another"), ..good }.is_signed());
    }

    #[test]
    fn a_seal_reads_back_from_its_json() {
        for seal in [seal(None), seal(Some(&SigningKey::of_seed([3; 32])))] {
            let text = serde_json::to_string(&seal).unwrap();
            let read: Seal = serde_json::from_str(&text).unwrap();
            assert_eq!(read, seal);
            assert_eq!(read.computed_hash(), seal.hash);
        }
    }
}

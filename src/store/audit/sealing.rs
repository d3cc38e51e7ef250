//! Making seals, and reading them.

use chrono::{DateTime, SubsecRound as _, Utc};

use super::keys::SigningKey;
use super::merkle::{self, Growing};
use super::seal::Seal;
use crate::crash_point::{self, Moment};
use crate::domain::Digest;
use crate::store::database::Store;
use crate::store::error::Error;

const SEAL: &str = "seal the log";

/// How the next seal is made.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    pub key: Option<&'a SigningKey>,
    /// Cut to whole microseconds.
    pub at: DateTime<Utc>,
    /// With fewer events that no seal covers, none is made.
    pub at_least: u32,
    /// A seal covers no more.
    pub at_most: u32,
}

/// How far the log is, and how far it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct SealEnd {
    /// The position of the newest event; 0 for none.
    pub newest: i64,
    /// The last position that a seal covers; 0 for none.
    pub sealed: i64,
    /// 0 for none.
    pub seal_no: i64,
}

impl SealEnd {
    /// Events that no seal covers.
    pub fn unsealed(&self) -> u64 {
        u64::try_from(self.newest - self.sealed).unwrap_or_default()
    }
}

impl Store {
    /// Seals the oldest events that no seal covers. `None` where there are too few, or where
    /// another node seals at this moment.
    ///
    /// Positions follow the order of commits, so the committed ones that are read here are all
    /// there will ever be up to the last of them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a log that must not be sealed: a position is missing, the newest
    /// seal is not what its hash says, or it covers more than there is. [`Error::Unavailable`].
    pub async fn seal_next(&self, sealing: Sealing<'_>) -> Result<Option<Seal>, Error> {
        let run = Error::during(SEAL);
        let mut transaction = self.pool().begin().await.map_err(&run)?;
        // One node at a time. Whoever comes second would only seal what the first did.
        let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(8386102107227058024)")
            .fetch_one(&mut *transaction)
            .await
            .map_err(&run)?;
        if !alone {
            return Ok(None);
        }
        let previous: Option<Seal> = sqlx::query_as("SELECT * FROM seals ORDER BY seal_no DESC LIMIT 1")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&run)?;
        let sealed = previous.as_ref().map_or(0, |seal| seal.last_position);
        if let Some(seal) = &previous {
            let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
                .fetch_one(&mut *transaction)
                .await
                .map_err(&run)?;
            if seal.computed_hash() != seal.hash {
                return Err(Error::corrupt("seals", seal.seal_no, "hash", "is not that of the seal"));
            }
            if newest < sealed {
                let reason = format!("is {sealed}, beyond the log's end at {newest}");
                return Err(Error::corrupt("seals", seal.seal_no, "last_position", reason));
            }
        }
        let events: Vec<(i64, i16, [u8; 32])> = sqlx::query_as(
            "SELECT position, stream_kind, hash FROM events WHERE position > $1 ORDER BY position LIMIT $2",
        )
        .bind(sealed)
        .bind(i64::from(sealing.at_most))
        .fetch_all(&mut *transaction)
        .await
        .map_err(&run)?;
        if events.is_empty() || events.len() < sealing.at_least as usize {
            // Whoever comes next must not find the lock held.
            transaction.rollback().await.map_err(&run)?;
            return Ok(None);
        }
        let (last, root) = root(sealed, &events)?;
        let at = sealing.at.trunc_subsecs(6);
        let seal = Seal::new(previous.as_ref(), sealed + 1..=last, root, at, sealing.key);
        sqlx::query(
            "INSERT INTO seals (seal_no, first_position, last_position, event_count, sealed_at, root, \
                 previous_hash, hash, public_key, signature) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(seal.seal_no)
        .bind(seal.first_position)
        .bind(seal.last_position)
        .bind(seal.event_count)
        .bind(seal.sealed_at)
        .bind(seal.root.as_bytes())
        .bind(seal.previous_hash.as_ref().map(Digest::as_bytes))
        .bind(seal.hash.as_bytes())
        .bind(seal.public_key.as_ref().map(|key| key.to_bytes()))
        .bind(seal.signature.map(|signature| signature.to_bytes()))
        .execute(&mut *transaction)
        .await
        .map_err(&run)?;
        crash_point::reach("store", "seal", Moment::Before);
        transaction.commit().await.map_err(&run)?;
        crash_point::reach("store", "seal", Moment::After);
        Ok(Some(seal))
    }

    /// How far the log is sealed.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn seal_end(&self) -> Result<SealEnd, Error> {
        sqlx::query_as(
            "SELECT coalesce((SELECT max(position) FROM events), 0) AS newest, \
                    coalesce(s.last_position, 0) AS sealed, coalesce(s.seal_no, 0) AS seal_no \
               FROM (SELECT) AS one LEFT JOIN LATERAL \
                    (SELECT seal_no, last_position FROM seals ORDER BY seal_no DESC LIMIT 1) AS s ON true",
        )
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("look how far the log is sealed"))
    }

    /// Up to `limit` seals after the one of that number, in their order.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for a row that does not read.
    pub async fn seals(&self, after: i64, limit: u32) -> Result<Vec<Seal>, Error> {
        sqlx::query_as("SELECT * FROM seals WHERE seal_no > $1 ORDER BY seal_no LIMIT $2")
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("read seals"))
    }

    /// The newest seal.
    ///
    /// # Errors
    /// As [`Store::seals`].
    pub async fn newest_seal(&self) -> Result<Option<Seal>, Error> {
        sqlx::query_as("SELECT * FROM seals ORDER BY seal_no DESC LIMIT 1")
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("read the newest seal"))
    }
}

/// The last position, and the root over events that must follow `sealed` without a gap.
fn root(sealed: i64, events: &[(i64, i16, [u8; 32])]) -> Result<(i64, Digest), Error> {
    let mut tree = Growing::default();
    let mut last = sealed;
    for (position, kind, hash) in events {
        if *position != last + 1 {
            let reason = format!("follows {last}: what stood between them is missing");
            return Err(Error::corrupt("events", position, "position", reason));
        }
        tree.push(merkle::leaf(*position, *kind, &Digest::from_bytes(*hash)));
        last = *position;
    }
    let root = tree.root().ok_or_else(|| Error::corrupt("events", last, "position", "nothing follows it"))?;
    Ok((last, root))
}

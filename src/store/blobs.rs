//! Bytes by the SHA-256 of them: code, input, output, artifacts.
//!
//! Small ones are in the database, in the transaction of the event that names them. Larger ones are
//! put before: into the database, or as an object elsewhere ([`super::objects`]) of which the database has
//! the name. Each such put is announced first and settled once an event names the blob, so that one which
//! came to nothing is found ([`super::blob_puts`]).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use super::append::Blob;
use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};
use crate::domain::Digest;

/// Objects that are read or written at the same time.
const TOGETHER: usize = 8;

/// How often a put is begun again that took so long that it was taken for a failed one.
const TRIES: usize = 3;

/// Blobs that were put and that nothing names yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "what was put is removed after an hour, unless it is settled"]
pub struct Put(pub(super) HashMap<Digest, Uuid>);

impl Put {
    /// The part of it that is about some blobs.
    pub fn of(&self, blobs: impl Iterator<Item = Digest>) -> Self {
        Self(blobs.filter_map(|hash| self.0.get(&hash).map(|put_id| (hash, *put_id))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Row = ([u8; 32], Vec<u8>, Option<String>);

impl Store {
    /// Whether a blob travels with the append of the event that names it; others are put before.
    pub fn is_small(&self, blob: &Blob) -> bool {
        blob.bytes().len() as u64 <= self.inline_bytes()
    }

    /// Keeps blobs. What is kept already is held: retention leaves it alone for a day. For blobs too large to
    /// ride along with an append; put them before it, and [`Store::settle`] them after. Durable when it
    /// returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Objects`]; some of the blobs may be kept.
    pub async fn put_blobs(&self, blobs: &[Blob]) -> Result<Put, Error> {
        if blobs.is_empty() {
            return Ok(Put::default());
        }
        let hashes: Vec<_> = blobs.iter().map(Blob::hash).collect();
        let missing: HashSet<_> = self.hold_blobs(&hashes).await?.into_iter().collect();
        let fresh = blobs.iter().filter(|blob| missing.contains(&blob.hash()));
        let fresh: HashMap<Digest, Blob> = fresh.map(|blob| (blob.hash(), blob.clone())).collect();
        let puts = stream::iter(fresh.into_values()).map(|blob| {
            let store = self.clone();
            async move {
                crash_point::reach("store", "put_blobs", Moment::Before);
                let put = store.put_blob(&blob).await;
                crash_point::reach("store", "put_blobs", Moment::After);
                put
            }
        });
        let puts: Vec<_> = puts.buffer_unordered(TOGETHER).try_collect().await?;
        Ok(Put(puts.into_iter().flatten().collect()))
    }

    /// What is to be settled, if there is something.
    async fn put_blob(&self, blob: &Blob) -> Result<Option<(Digest, Uuid)>, Error> {
        let size = i64::try_from(blob.bytes().len()).unwrap_or(i64::MAX);
        for _ in 0..TRIES {
            let put_id = Uuid::now_v7();
            let object = self.objects().new_name(blob.hash());
            self.announce(put_id, blob.hash(), object.as_deref()).await?;
            let bytes = match &object {
                Some(name) => {
                    self.objects().put(name, blob.bytes().clone()).await?;
                    &[]
                }
                None => blob.bytes().as_ref(),
            };
            // Only while the announcement stands: after an hour the object may be gone.
            let row: Option<(Option<String>,)> = sqlx::query_as(
                "WITH announced AS (SELECT 1 FROM blob_puts WHERE put_id = $1 AND NOT doomed FOR SHARE) \
                 INSERT INTO blobs (hash, size, bytes, object) SELECT $2, $3, $4, $5 FROM announced \
                     ON CONFLICT (hash) DO UPDATE SET created_at = now() RETURNING object",
            )
            .bind(put_id)
            .bind(*blob.hash().as_bytes())
            .bind(size)
            .bind(bytes)
            .bind(&object)
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("put blob"))?;
            match row {
                // Somebody else put the same bytes meanwhile; what is theirs counts.
                Some((kept,)) if kept != object => {
                    self.doom(put_id).await?;
                    return Ok(None);
                }
                Some(_) => return Ok(Some((blob.hash(), put_id))),
                None => {}
            }
        }
        Err(Error::Affected { operation: "put blob", table: "blobs", id: blob.hash().to_string(), affected: 0 })
    }

    /// One blob; `None` when it is not kept.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are no longer those of their hash, or an object is lost;
    /// [`Error::Unavailable`], [`Error::Objects`].
    pub async fn blob(&self, hash: Digest) -> Result<Option<Bytes>, Error> {
        Ok(self.blobs(&[hash]).await?.remove(&hash))
    }

    /// Those of the blobs that are kept.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub async fn blobs(&self, hashes: &[Digest]) -> Result<HashMap<Digest, Bytes>, Error> {
        let rows = self.blob_rows(hashes).await?;
        let found = stream::iter(rows).map(|row| {
            let store = self.clone();
            async move { store.bytes_of(row).await }
        });
        let found: Vec<_> = found.buffer_unordered(TOGETHER).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn blob_rows(&self, hashes: &[Digest]) -> Result<Vec<Row>, Error> {
        // Said so, its plan is kept; of `hash = ANY ($1)` PostgreSQL makes a new one each time.
        let each = "SELECT b.hash, b.bytes, b.object FROM unnest($1) AS w (hash) CROSS JOIN LATERAL \
                    (SELECT * FROM blobs WHERE blobs.hash = w.hash LIMIT 1) b";
        sqlx::query_as(each).bind(columns(hashes)).fetch_all(self.pool()).await.map_err(Error::during("get blobs"))
    }

    async fn bytes_of(&self, (hash, bytes, object): Row) -> Result<Option<(Digest, Bytes)>, Error> {
        let hash = Digest::from_bytes(hash);
        let bytes = match object {
            None => Bytes::from(bytes),
            Some(name) => match self.objects().get(&name).await? {
                Some(bytes) => bytes,
                // It may have been removed between the two looks.
                None if self.missing_blobs(&[hash]).await?.is_empty() => {
                    return Err(Error::corrupt("blobs", hash, "object", format_args!("{name} is not there")));
                }
                None => return Ok(None),
            },
        };
        if Digest::of(&bytes) != hash {
            return Err(Error::corrupt("blobs", hash, "bytes", "they have another hash"));
        }
        Ok(Some((hash, bytes)))
    }

    /// Holds blobs: retention leaves them alone for a day, in which something that names them can be
    /// appended. Answers with those that are not kept.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn hold_blobs(&self, hashes: &[Digest]) -> Result<Vec<Digest>, Error> {
        // By itself: the look that follows must not see what a removal took while this waited for it.
        sqlx::query(
            "UPDATE blobs SET created_at = now() WHERE hash = ANY ($1) AND created_at < now() - interval '1 minute'",
        )
        .bind(columns(hashes))
        .execute(self.pool())
        .await
        .map_err(Error::during("hold blobs"))?;
        self.missing_blobs(hashes).await
    }

    /// Those of the blobs that are not kept.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn missing_blobs(&self, hashes: &[Digest]) -> Result<Vec<Digest>, Error> {
        let kept: Vec<[u8; 32]> = sqlx::query_scalar("SELECT hash FROM blobs WHERE hash = ANY ($1)")
            .bind(columns(hashes))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("look for blobs"))?;
        let kept: HashSet<_> = kept.into_iter().collect();
        Ok(hashes.iter().copied().filter(|hash| !kept.contains(hash.as_bytes())).collect())
    }

    /// Those of the blobs that are kept as objects which are not there.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Objects`].
    pub async fn lost_blobs(&self, hashes: &[Digest]) -> Result<Vec<Digest>, Error> {
        let rows: Vec<([u8; 32], String)> =
            sqlx::query_as("SELECT hash, object FROM blobs WHERE hash = ANY ($1) AND object IS NOT NULL")
                .bind(columns(hashes))
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("look for objects"))?;
        let looks = stream::iter(rows).map(|(hash, name)| {
            let store = self.clone();
            async move {
                let is_lost = !store.objects().has(&name).await?;
                Ok::<_, Error>(is_lost.then(|| Digest::from_bytes(hash)))
            }
        });
        let lost: Vec<_> = looks.buffer_unordered(TOGETHER).try_collect().await?;
        Ok(lost.into_iter().flatten().collect())
    }
}

pub(super) fn columns(hashes: &[Digest]) -> Vec<[u8; 32]> {
    hashes.iter().map(|hash| *hash.as_bytes()).collect()
}

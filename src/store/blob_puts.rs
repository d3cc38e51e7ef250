//! What becomes of blobs that were put, and of objects that nothing names any more.
//!
//! A row here stands for each put from before its first byte until an event names the blob. One that is
//! still here after an hour came to nothing, and what it left is removed. An object is removed by way of
//! a row here too, so that it goes even if its place does not answer when its blob is removed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::FromRow;
use uuid::Uuid;

use super::blobs::Put;
use super::database::Store;
use super::error::Error;
use crate::domain::Digest;

/// Objects removed at the same time, and between two looks at what else is to be removed.
const TOGETHER: usize = 8;
const STEP: i64 = 500;

/// A put of which no event tells so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldPut {
    pub put_id: Uuid,
    pub hash: Digest,
    /// Whether the blob is kept as this put left it.
    pub is_kept: bool,
}

#[derive(Debug, FromRow)]
struct Doomed {
    put_id: Uuid,
    object: Option<String>,
}

impl Store {
    /// Says that a blob is about to be put. Durable when it returns.
    pub(super) async fn announce(&self, put_id: Uuid, hash: Digest, object: Option<&str>) -> Result<(), Error> {
        sqlx::query("INSERT INTO blob_puts (put_id, hash, object) VALUES ($1, $2, $3)")
            .bind(put_id)
            .bind(*hash.as_bytes())
            .bind(object)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("announce blob"))
    }

    /// Says that nothing will ever name what a put left; its object goes.
    pub(super) async fn doom(&self, put_id: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE blob_puts SET doomed = true WHERE put_id = $1")
            .bind(put_id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("give blob up"))
    }

    /// The same, unless the blob is kept as the put left it. One that is still under way begins anew.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn doom_unless_kept(&self, put_id: Uuid) -> Result<(), Error> {
        let run = Error::during("give blob up");
        let mut transaction = self.pool().begin().await.map_err(&run)?;
        // By itself: what follows must see what was kept while this waited for it.
        sqlx::query("SELECT FROM blob_puts WHERE put_id = $1 FOR UPDATE")
            .bind(put_id)
            .execute(&mut *transaction)
            .await
            .map_err(&run)?;
        sqlx::query(
            "UPDATE blob_puts p SET doomed = true WHERE p.put_id = $1 \
                AND NOT EXISTS (SELECT FROM blobs b WHERE b.hash = p.hash AND b.object IS NOT DISTINCT FROM p.object)",
        )
        .bind(put_id)
        .execute(&mut *transaction)
        .await
        .map_err(&run)?;
        transaction.commit().await.map_err(&run)
    }

    /// A moment in the past, by the database's clock.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ago(&self, duration: Duration) -> Result<DateTime<Utc>, Error> {
        sqlx::query_scalar("SELECT now() - make_interval(secs => $1)")
            .bind(duration.as_secs_f64())
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("ask the time"))
    }

    /// Says that events name the blobs now.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then it is found out later.
    pub async fn settle(&self, put: &Put) -> Result<(), Error> {
        self.settle_all(&put.0.values().copied().collect::<Vec<_>>()).await
    }

    /// The same for puts by their ids.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub async fn settle_all(&self, put_ids: &[Uuid]) -> Result<(), Error> {
        sqlx::query("DELETE FROM blob_puts WHERE put_id = ANY ($1) AND NOT doomed")
            .bind(put_ids)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("settle blobs"))
    }

    /// Up to `limit` puts that were announced so long ago, by the database's clock, and are not settled;
    /// oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn old_puts(&self, older_than: Duration, limit: u32) -> Result<Vec<OldPut>, Error> {
        let rows: Vec<(Uuid, [u8; 32], bool)> = sqlx::query_as(
            "SELECT p.put_id, p.hash, EXISTS (SELECT FROM blobs b WHERE b.hash = p.hash \
                                                 AND b.object IS NOT DISTINCT FROM p.object) \
               FROM blob_puts p WHERE NOT p.doomed AND p.put_at < now() - make_interval(secs => $1) \
              ORDER BY p.put_at LIMIT $2",
        )
        .bind(older_than.as_secs_f64())
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for old puts"))?;
        let put = |(put_id, hash, is_kept)| OldPut { put_id, hash: Digest::from_bytes(hash), is_kept };
        Ok(rows.into_iter().map(put).collect())
    }

    /// Removes the objects that nothing names; answers how many. Once it has answered so, what had been
    /// given up before is gone.
    ///
    /// # Errors
    /// [`Error::Objects`], [`Error::ObjectPlace`] for a place that this node does not know, and
    /// [`Error::Unavailable`]; what is left goes with a later call.
    pub async fn remove_doomed(&self) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            let doomed: Vec<Doomed> =
                sqlx::query_as("SELECT put_id, object FROM blob_puts WHERE doomed ORDER BY put_at LIMIT $1")
                    .bind(STEP)
                    .fetch_all(self.pool())
                    .await
                    .map_err(Error::during("look for objects to remove"))?;
            if doomed.is_empty() {
                return Ok(removed);
            }
            let gone = stream::iter(doomed).map(|Doomed { put_id, object }| {
                let store = self.clone();
                async move {
                    if let Some(name) = object {
                        store.objects().remove(&name).await?;
                    }
                    Ok::<_, Error>(put_id)
                }
            });
            let gone: Vec<Uuid> = gone.buffer_unordered(TOGETHER).try_collect().await?;
            sqlx::query("DELETE FROM blob_puts WHERE put_id = ANY ($1)")
                .bind(&gone)
                .execute(self.pool())
                .await
                .map_err(Error::during("forget removed objects"))?;
            removed += gone.len() as u64;
        }
    }
}

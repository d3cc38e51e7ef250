//! Bytes by the SHA-256 of them: code, input, output, artifacts.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::append::Blob;
use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};
use crate::domain::Digest;

impl Store {
    /// Keeps blobs, one statement each. What is kept already is held: retention leaves it alone for a day. For blobs too large to
    /// ride along with an append; put them before it. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the blobs before the failed one are kept.
    pub async fn put_blobs(&self, blobs: &[Blob]) -> Result<(), Error> {
        for blob in blobs {
            crash_point::reach("store", "put_blobs", Moment::Before);
            sqlx::query("INSERT INTO blobs (hash, size, bytes) VALUES ($1, $2, $3) ON CONFLICT (hash) DO UPDATE SET created_at = now()")
                .bind(*blob.hash().as_bytes())
                .bind(i64::try_from(blob.bytes().len()).unwrap_or(i64::MAX))
                .bind(blob.bytes().as_ref())
                .execute(self.pool())
                .await
                .map_err(Error::during("put blob"))?;
            crash_point::reach("store", "put_blobs", Moment::After);
        }
        Ok(())
    }

    /// One blob; `None` when it is not kept.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are no longer those of their hash; [`Error::Unavailable`].
    pub async fn blob(&self, hash: Digest) -> Result<Option<Bytes>, Error> {
        Ok(self.blobs(&[hash]).await?.remove(&hash))
    }

    /// Those of the blobs that are kept.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub async fn blobs(&self, hashes: &[Digest]) -> Result<HashMap<Digest, Bytes>, Error> {
        let rows: Vec<([u8; 32], Vec<u8>)> = sqlx::query_as("SELECT hash, bytes FROM blobs WHERE hash = ANY ($1)")
            .bind(columns(hashes))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("get blobs"))?;
        rows.into_iter()
            .map(|(hash, bytes)| {
                let hash = Digest::from_bytes(hash);
                if Digest::of(&bytes) != hash {
                    return Err(Error::corrupt("blobs", hash, "bytes", "they have another hash"));
                }
                Ok((hash, Bytes::from(bytes)))
            })
            .collect()
    }

    /// Holds blobs: retention leaves them alone for a day, in which something that names them can be
    /// appended. Answers with those that are not kept.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn hold_blobs(&self, hashes: &[Digest]) -> Result<Vec<Digest>, Error> {
        // By itself: the look that follows must not see what a removal took while this waited for it.
        sqlx::query(
            "UPDATE blobs SET created_at = now() WHERE hash = ANY ($1) AND created_at < now() - interval '1 hour'",
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
}

fn columns(hashes: &[Digest]) -> Vec<[u8; 32]> {
    hashes.iter().map(|hash| *hash.as_bytes()).collect()
}

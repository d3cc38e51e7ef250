//! Which execution a client's own key stands for.

use uuid::Uuid;

use super::database::Store;
use super::error::Error;
use crate::domain::Digest;

impl Store {
    /// The execution a tenant's key stands for, and the fingerprint it was taken with.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn idempotency_key(&self, tenant: &str, key: &str) -> Result<Option<(Uuid, Digest)>, Error> {
        if key.contains('\0') || tenant.contains('\0') {
            // Text that the database cannot hold was never taken.
            return Ok(None);
        }
        let row: Option<(Uuid, [u8; 32])> =
            sqlx::query_as("SELECT execution_id, fingerprint FROM idempotency_keys WHERE tenant = $1 AND key = $2")
                .bind(tenant)
                .bind(key)
                .fetch_optional(self.pool())
                .await
                .map_err(Error::during("look up idempotency key"))?;
        Ok(row.map(|(execution_id, fingerprint)| (execution_id, Digest::from_bytes(fingerprint))))
    }
}

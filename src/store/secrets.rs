//! The tenants' secrets, sealed.

use chrono::{DateTime, Utc};
use sqlx::FromRow;

use super::database::Store;
use super::error::Error;
use super::private::NONCE_BYTES;
use super::vault_key::{KEY_ID_BYTES, Place, Sealed, VaultKey};
use crate::domain::{SecretValue, SecretVersion};

/// What is shown of a secret.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SecretRow {
    pub name: String,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

type Columns = (String, i64, [u8; KEY_ID_BYTES], [u8; NONCE_BYTES], Vec<u8>);

impl Store {
    /// Gives a secret a value, whether or not it had one; its new version. The value before is
    /// gone when it returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Invalid`] for a value beyond all bounds.
    pub async fn set_secret(
        &self,
        key: &VaultKey,
        tenant: &str,
        name: &str,
        value: &SecretValue,
    ) -> Result<i64, Error> {
        const SET: &str = "set secret";
        let version: i64 = sqlx::query_scalar("SELECT nextval('secret_versions')")
            .fetch_one(self.pool())
            .await
            .map_err(Error::during(SET))?;
        let sealed = key.seal(Place { tenant, name, version }, value).ok_or_else(|| Error::Invalid {
            operation: SET,
            field: "value",
            id: name.to_owned(),
            reason: "is too long",
        })?;
        // Of two that are set at once the one with the later version stays.
        sqlx::query(
            "INSERT INTO secrets (tenant, name, version, key_id, nonce, ciphertext) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (tenant, name) DO UPDATE SET version = $3, key_id = $4, nonce = $5, ciphertext = $6, \
                 updated_at = clock_timestamp() WHERE secrets.version < $3",
        )
        .bind(tenant)
        .bind(name)
        .bind(version)
        .bind(sealed.key_id)
        .bind(sealed.nonce)
        .bind(sealed.ciphertext)
        .execute(self.pool())
        .await
        .map_err(Error::during(SET))?;
        Ok(version)
    }

    /// A tenant's secrets by name, without values.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn secrets(&self, tenant: &str) -> Result<Vec<SecretRow>, Error> {
        sqlx::query_as("SELECT name, version, created_at, updated_at FROM secrets WHERE tenant = $1 ORDER BY name")
            .bind(tenant)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list secrets"))
    }

    /// Removes a secret; the version it had, `None` when there was none.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn remove_secret(&self, tenant: &str, name: &str) -> Result<Option<i64>, Error> {
        sqlx::query_scalar("DELETE FROM secrets WHERE tenant = $1 AND name = $2 RETURNING version")
            .bind(tenant)
            .bind(name)
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("remove secret"))
    }

    /// Which of the names are set, and in which version.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn secret_versions(&self, tenant: &str, names: &[String]) -> Result<Vec<SecretVersion>, Error> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, version FROM secrets WHERE tenant = $1 AND name = ANY ($2) ORDER BY name")
                .bind(tenant)
                .bind(names)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("look for secrets"))?;
        Ok(rows.into_iter().map(|(name, version)| SecretVersion { name, version }).collect())
    }

    /// Those of the named secrets that are set, with their values.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for one that this key does not open; [`Error::Unavailable`].
    pub async fn open_secrets(
        &self,
        key: &VaultKey,
        tenant: &str,
        names: &[String],
    ) -> Result<Vec<(SecretVersion, SecretValue)>, Error> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT name, version, key_id, nonce, ciphertext FROM secrets WHERE tenant = $1 AND name = ANY ($2) \
             ORDER BY name",
        )
        .bind(tenant)
        .bind(names)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("open secrets"))?;
        rows.into_iter()
            .map(|(name, version, key_id, nonce, ciphertext)| {
                let value = key
                    .open(Place { tenant, name: &name, version }, &Sealed { key_id, nonce, ciphertext })
                    .map_err(|reason| Error::corrupt("secrets", &name, "ciphertext", reason))?;
                Ok((SecretVersion { name, version }, value))
            })
            .collect()
    }
}

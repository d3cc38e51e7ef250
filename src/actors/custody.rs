//! Where secrets are kept between a tenant's hand and a job's: sealed in the store, opened for an
//! attempt.

use std::sync::Arc;

use crate::domain::{SecretUse, SecretValue, SecretVersion};
use crate::store::{self, SecretRow, Store, VaultKey};

/// The tenants' secrets.
#[derive(Clone)]
pub struct Custody {
    store: Store,
    key: Option<Arc<VaultKey>>,
}

/// Why a secret cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this server has no key for secrets: set secrets.key_file, or TAKO_VM_SECRETS__KEY in its environment")]
    NoKey,
    #[error("secret {0} is not set")]
    NotSet(String),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Custody {
    pub fn new(store: Store, key: Option<VaultKey>) -> Self {
        Self { store, key: key.map(Arc::new) }
    }

    fn key(&self) -> Result<&VaultKey, Error> {
        self.key.as_deref().ok_or(Error::NoKey)
    }

    pub async fn set(&self, tenant: &str, name: &str, value: &SecretValue) -> Result<i64, Error> {
        Ok(self.store.set_secret(self.key()?, tenant, name, value).await?)
    }

    pub async fn list(&self, tenant: &str) -> Result<Vec<SecretRow>, Error> {
        self.key()?;
        Ok(self.store.secrets(tenant).await?)
    }

    /// The version that it had.
    pub async fn remove(&self, tenant: &str, name: &str) -> Result<i64, Error> {
        self.key()?;
        self.store.remove_secret(tenant, name).await?.ok_or_else(|| Error::NotSet(name.to_owned()))
    }

    /// The present versions of all that are wanted.
    pub async fn versions(&self, tenant: &str, wanted: &[SecretUse]) -> Result<Vec<SecretVersion>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.key()?;
        let found = self.store.secret_versions(tenant, &names(wanted)).await?;
        all_of(wanted, found.iter().map(|secret| secret.name.as_str()))?;
        Ok(found)
    }

    /// All that are wanted, open.
    pub async fn open(&self, tenant: &str, wanted: &[SecretUse]) -> Result<Vec<(SecretVersion, SecretValue)>, Error> {
        let found = self.store.open_secrets(self.key()?, tenant, &names(wanted)).await?;
        all_of(wanted, found.iter().map(|(secret, _)| secret.name.as_str()))?;
        Ok(found)
    }
}

/// Says which of the secrets of an earlier run are not what they were.
pub fn changed(then: &[SecretVersion], now: &[SecretVersion]) -> Option<String> {
    let changed = then.iter().find(|secret| !now.contains(secret))?;
    Some(format!(
        "secret {} has another value than the one that it ran with (version {})",
        changed.name, changed.version
    ))
}

fn names(wanted: &[SecretUse]) -> Vec<String> {
    wanted.iter().map(|secret| secret.name.clone()).collect()
}

fn all_of<'a>(wanted: &[SecretUse], found: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let found: Vec<&str> = found.collect();
    let missing = wanted.iter().find(|secret| !found.contains(&secret.name.as_str()));
    missing.map_or(Ok(()), |secret| Err(Error::NotSet(secret.name.clone())))
}

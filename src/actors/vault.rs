//! Takes a tenant's wishes about its secrets, and tells the node's journal what was done.

use actix::prelude::*;
use tokio::runtime;

use super::custody::{self, Custody};
use super::journal::Journal;
use super::refusal::{Refusal, answer};
use super::submission::{FieldFault, Origin};
use crate::domain::{SecretRemoved, SecretSet, SecretValue, SecretVersion, secret_name_fault, secret_value_fault};
use crate::store::SecretRow;

/// Gives a secret a value; answers with its version.
#[derive(Debug, Message)]
#[rtype(result = "Result<SecretVersion, Refusal>")]
pub struct Set {
    pub origin: Origin,
    pub name: String,
    pub value: SecretValue,
}

/// Names a tenant's secrets.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<SecretRow>, Refusal>")]
pub struct List {
    pub origin: Origin,
}

/// Removes a secret; answers with the version it had.
#[derive(Debug, Message)]
#[rtype(result = "Result<SecretVersion, Refusal>")]
pub struct Remove {
    pub origin: Origin,
    pub name: String,
}

pub struct Vault {
    custody: Custody,
    journal: Journal,
    io: runtime::Handle,
}

impl Vault {
    pub fn new(custody: Custody, journal: Journal, io: runtime::Handle) -> Self {
        Self { custody, journal, io }
    }
}

impl From<custody::Error> for Refusal {
    fn from(error: custody::Error) -> Self {
        match error {
            custody::Error::NoKey => Self::NoSecretKey,
            custody::Error::NotSet(name) => Self::NoSecret { name },
            custody::Error::Store(error) => Self::from(error),
        }
    }
}

impl Actor for Vault {
    type Context = Context<Self>;
}

impl Handler<Set> for Vault {
    type Result = ResponseFuture<Result<SecretVersion, Refusal>>;

    fn handle(&mut self, Set { origin, name, value }: Set, _: &mut Self::Context) -> Self::Result {
        let (custody, journal) = (self.custody.clone(), self.journal.clone());
        answer(&self.io, async move {
            let fault = |field: &str, message: String| FieldFault { field: field.to_owned(), message, is_size: false };
            let faults: Vec<_> = secret_name_fault(&name)
                .map(|message| fault("name", message.to_owned()))
                .into_iter()
                .chain(secret_value_fault(value.expose()).map(|message| fault("value", message)))
                .collect();
            if !faults.is_empty() {
                return Err(Refusal::Invalid { faults });
            }
            let version = custody.set(&origin.tenant, &name, &value).await?;
            journal.write(SecretSet { tenant: origin.tenant, name: name.clone(), version, by: origin.by }).await;
            Ok(SecretVersion { name, version })
        })
    }
}

impl Handler<List> for Vault {
    type Result = ResponseFuture<Result<Vec<SecretRow>, Refusal>>;

    fn handle(&mut self, List { origin }: List, _: &mut Self::Context) -> Self::Result {
        let custody = self.custody.clone();
        answer(&self.io, async move { Ok(custody.list(&origin.tenant).await?) })
    }
}

impl Handler<Remove> for Vault {
    type Result = ResponseFuture<Result<SecretVersion, Refusal>>;

    fn handle(&mut self, Remove { origin, name }: Remove, _: &mut Self::Context) -> Self::Result {
        let (custody, journal) = (self.custody.clone(), self.journal.clone());
        answer(&self.io, async move {
            if secret_name_fault(&name).is_some() {
                return Err(Refusal::NoSecret { name: name.chars().take(64).collect() });
            }
            let version = custody.remove(&origin.tenant, &name).await?;
            journal.write(SecretRemoved { tenant: origin.tenant, name: name.clone(), version, by: origin.by }).await;
            Ok(SecretVersion { name, version })
        })
    }
}

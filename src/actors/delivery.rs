//! Gives an attempt the secrets that its job wants.

use std::time::Duration;

use super::attempt::{Attempt, Stuck};
use super::custody;
use super::ledger::Tracked;
use super::replay;
use crate::domain::{
    Command, Delivery, ErrorType, Failure, MAX_SECRET_ENVIRONMENT_BYTES, Phase, RefusalCause, SecretValue,
};
use crate::egress::Injection;
use crate::engine;

impl Attempt<'_> {
    /// Opens the job's secrets once the log says which versions it gets.
    pub(super) async fn deliver(&self, tracked: &mut Tracked) -> Result<Vec<engine::JobSecret>, Stuck> {
        let submitted = tracked.record.submitted.clone();
        if submitted.secrets.is_empty() {
            return Ok(Vec::new());
        }
        let original = replay::original(&tracked.record);
        let failed = |reason: String| match original {
            Some(_) => Stuck::ReplayRefused { cause: RefusalCause::SecretGone, reason },
            None => {
                let error = Failure::of_service(ErrorType::ConfigError, Phase::Startup, &reason);
                Stuck::Failed { error, retryable: false, retry_after: None }
            }
        };
        let opened = loop {
            match self.bench.custody.open(&submitted.tenant, &submitted.secrets).await {
                Ok(opened) => break opened,
                Err(custody::Error::Store(error)) if error.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        let (versions, values): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let delivery = |name: &str| submitted.secrets.iter().find(|secret| secret.name == name);
        if let Some(original) = original
            && let Some(original) = self.bench.ledger.load_surely(original).await?
            && let Some(reason) = custody::changed(&original.record.secrets, &versions)
        {
            return Err(failed(reason));
        }
        let command = Command::DeliverSecrets { lease: self.claim.lease, secrets: versions.clone() };
        let secrets = versions.into_iter().zip(values).filter_map(|(version, value)| {
            let delivery = delivery(&version.name)?.delivery.clone();
            Some(engine::JobSecret { name: version.name, value, delivery })
        });
        let secrets: Vec<_> = secrets.collect();
        if let Some(reason) = environment_fault(&secrets).or_else(|| header_fault(&secrets)) {
            return Err(failed(reason));
        }
        *tracked = self.commit(tracked.clone(), vec![command]).await?;
        Ok(secrets)
    }
}

/// Why some secrets cannot be variables, if so.
fn environment_fault(secrets: &[engine::JobSecret]) -> Option<String> {
    let variables = || secrets.iter().filter(|secret| secret.delivery == Delivery::Env);
    let is_text = |value: &[u8]| std::str::from_utf8(value).is_ok_and(|text| !text.contains('\0'));
    if let Some(bad) = variables().find(|secret| !is_text(secret.value.expose())) {
        return Some(format!("secret {} is not text and cannot be a variable: name it as a file", bad.name));
    }
    let bytes: usize = variables().map(|secret| secret.name.len() + secret.value.expose().len()).sum();
    let is_large = bytes > MAX_SECRET_ENVIRONMENT_BYTES;
    is_large.then(|| {
        format!("secrets of {bytes} bytes cannot be variables, which hold {MAX_SECRET_ENVIRONMENT_BYTES} in all: name some as files")
    })
}

/// Why some secrets cannot be headers, if so.
fn header_fault(secrets: &[engine::JobSecret]) -> Option<String> {
    let fault = |secret: &engine::JobSecret| match &secret.delivery {
        Delivery::Header { header } => {
            header.value(secret.value.expose()).err().map(|fault| format!("secret {} {fault}", secret.name))
        }
        Delivery::File | Delivery::Env => None,
    };
    secrets.iter().find_map(fault)
}

/// Parts what the egress proxy gets from what the sandbox gets.
pub(super) fn part(secrets: Vec<engine::JobSecret>) -> (Vec<Injection>, Vec<engine::JobSecret>) {
    let mut injections = Vec::new();
    let mut given = Vec::new();
    for secret in secrets {
        match &secret.delivery {
            Delivery::Header { header } => {
                // One that fits no header was found before.
                let value = header.value(secret.value.expose()).ok().map(SecretValue::new);
                let rules = header.rules();
                injections.extend(value.map(|value| Injection::new(&header.name, value, rules, header.plain_http)));
            }
            Delivery::File | Delivery::Env => given.push(secret),
        }
    }
    (injections, given)
}

//! Secrets as events and jobs speak of them: by name and version, and values that never show.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::header_use::HeaderUse;

/// The shortest value that can be a secret. A shorter one would be found in any output, so that
/// it could not be taken out again.
pub const MIN_SECRET_BYTES: usize = 8;
/// The longest value.
pub const MAX_SECRET_BYTES: usize = 64 << 10;
/// Secrets of one job.
pub const MAX_SECRETS: usize = 32;
/// All values of one job that are delivered as environment variables, with their names.
pub const MAX_SECRET_ENVIRONMENT_BYTES: usize = 24 << 10;
/// The folder in a sandbox in which secrets are files.
pub const SECRETS_FOLDER: &str = "/secrets";

/// How a secret is put to use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "delivery", rename_all = "snake_case")]
pub enum Delivery {
    /// `/secrets/NAME`, in memory.
    File,
    /// An environment variable of its name.
    Env,
    /// A header of the code's requests, which the egress proxy writes. The code does not get it.
    Header { header: HeaderUse },
}

/// A secret that a job wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretUse {
    pub name: String,
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// One value that a secret has had. Versions grow, and none is given twice in an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVersion {
    pub name: String,
    pub version: i64,
}

/// The code was given secrets. Their values are in no event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsDelivered {
    /// As they were when the attempt began.
    pub secrets: Vec<SecretVersion>,
}

/// Somebody gave a tenant's secret a value, the first or another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSet {
    pub tenant: String,
    pub name: String,
    pub version: i64,
    pub by: String,
}

/// Somebody removed a tenant's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRemoved {
    pub tenant: String,
    pub name: String,
    /// The one that it had.
    pub version: i64,
    pub by: String,
}

/// The bytes of a secret, which debug as `***` and cannot be serialized.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<[u8]>);

impl SecretValue {
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes; the caller must not show them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a text is no secret's name, as the end of a sentence that begins with it.
pub fn secret_name_fault(name: &str) -> Option<&'static str> {
    let is_name = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (!is_name).then_some("must have 1 to 64 letters, digits and underscores, and no digit first")
}

/// Why bytes cannot be a secret's value, likewise.
pub fn secret_value_fault(value: &[u8]) -> Option<String> {
    match value.len() {
        MIN_SECRET_BYTES..=MAX_SECRET_BYTES => None,
        _ => Some(format!("must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_shown() {
        assert_eq!(format!("{:?}", SecretValue::new(*b"hunter2hunter2")), "***");
    }

    #[test]
    fn a_name_is_fit_for_a_file_and_a_variable() {
        for good in ["A", "_x", "API_KEY_2"] {
            assert_eq!(secret_name_fault(good), None, "{good}");
        }
        for bad in ["", "2A", "a-b", "a.b", "a/b", "..", "ä", "A B", "A=B", "A\0", &"A".repeat(65)] {
            assert!(secret_name_fault(bad).is_some(), "{bad}");
        }
    }
}

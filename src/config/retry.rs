//! When a job is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::units::seconds;
use crate::domain::RetryPolicy;

const DAY: f64 = 86_400.0;

/// Attempts after failures that are not the job's own doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    pub max_attempts: u32,
    /// Before the second attempt; doubled before each further one.
    #[serde(with = "seconds")]
    pub base_delay: Duration,
    #[serde(with = "seconds")]
    pub max_delay: Duration,
    /// The longest wait that an engine or a registry may ask for.
    #[serde(with = "seconds")]
    pub max_retry_after: Duration,
}

/// A job type's own number of attempts, and which ends of its code are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryOverride {
    pub max_attempts: u32,
    /// None, unless they are named.
    pub on: Vec<RetryOn>,
    /// Before the second attempt after such an end; 0 is as in general.
    #[serde(with = "seconds")]
    pub base_delay: Duration,
}

/// An end of code that another attempt may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    Failed,
    Timeout,
    Oom,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(900),
        }
    }
}

impl Default for RetryOverride {
    fn default() -> Self {
        Self { max_attempts: 1, on: Vec::new(), base_delay: Duration::ZERO }
    }
}

impl Retry {
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy { base: self.base_delay, cap: self.max_delay, longest_asked: self.max_retry_after }
    }

    pub(super) fn check(&self, bounds: &mut Bounds) {
        bounds.number("retry.max_attempts", self.max_attempts, 1, 100);
        bounds.seconds("retry.base_delay", self.base_delay, 0.0, 3_600.0);
        bounds.seconds("retry.max_delay", self.max_delay, 0.0, DAY);
        bounds.seconds("retry.max_retry_after", self.max_retry_after, 0.0, DAY);
        bounds.require(self.base_delay <= self.max_delay, "retry.base_delay", || {
            "must not exceed retry.max_delay".to_owned()
        });
    }
}

impl RetryOverride {
    pub(super) fn check(&self, bounds: &mut Bounds, at: &str) {
        bounds.number(&format!("{at}.max_attempts"), self.max_attempts, 1, 100);
        bounds.seconds(&format!("{at}.base_delay"), self.base_delay, 0.0, 3_600.0);
        bounds.require(self.on.is_empty() || self.max_attempts > 1, &format!("{at}.max_attempts"), || {
            "must be at least 2 where retry.on names an end: with one attempt nothing is tried again".to_owned()
        });
    }
}

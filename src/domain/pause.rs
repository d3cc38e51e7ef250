//! Job types that are held back.

use serde::{Deserialize, Serialize};

/// No job of the type starts on any node until it is resumed; those that run go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTypePaused {
    /// `*` for all job types.
    pub job_type: String,
    pub by: String,
    pub reason: Option<String>,
}

/// Jobs of the type start again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTypeResumed {
    pub job_type: String,
    pub by: String,
    pub reason: Option<String>,
}

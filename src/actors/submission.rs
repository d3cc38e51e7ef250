//! What a client asks for, and whether it may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::config::Config;
use crate::domain::{
    AfterPolicy, ConcurrencyKey, Delivery, Digest, FileSource, HeaderUse, JobLimits, JsonObject, MAX_AFTER,
    MAX_SECRETS, Requirement, SecretUse, canonical_json_digest, secret_name_fault,
};

/// Of a submission that names none.
pub const DEFAULT_PRIORITY: i16 = 5;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub tenant: String,
    /// An API key's name, or `anonymous`.
    pub by: String,
    pub client_ip: Option<String>,
    pub correlation_id: String,
}

/// A file that a client gives to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    Bytes(Bytes),
    /// What another execution made.
    Artifact(FileSource),
}

impl Given {
    /// Of the bytes, or the place of the artifact.
    fn fingerprint(&self) -> String {
        match self {
            Self::Bytes(bytes) => Digest::of(bytes).to_string(),
            Self::Artifact(FileSource { execution_id, name }) => format!("{execution_id}/{name}"),
        }
    }

    fn sent_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Artifact(_) => 0,
        }
    }
}

/// A job as a client describes it; absent values are filled from the job type.
#[derive(Debug, Clone)]
pub struct Submission {
    pub code: String,
    pub input: JsonObject,
    pub timeout: Option<Duration>,
    pub startup_timeout: Option<Duration>,
    /// A name, or a pinned `name@sha256:<hex>`.
    pub job_type: String,
    pub requirements: Vec<String>,
    pub idempotency_key: Option<String>,
    pub priority: i16,
    pub not_before: Option<DateTime<Utc>>,
    pub max_attempts: Option<u32>,
    /// Further files below `/input`.
    pub files: Vec<(String, Given)>,
    pub callback_url: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub secrets: Vec<SecretUse>,
    /// Of the tenant's jobs with this key, [`Submission::concurrency_limit`] run at the same time.
    pub concurrency_key: Option<String>,
    /// 1 where there is a key and no limit.
    pub concurrency_limit: Option<u32>,
    /// Executions that must end first, each once.
    pub after: Vec<Uuid>,
    pub after_policy: AfterPolicy,
}

/// Of a key. More than any installation runs at the same time.
const MAX_CONCURRENCY: u32 = 100_000;

impl Submission {
    /// Of the canonical JSON of what shapes the result beside code and input.
    pub(super) fn params_digest(&self, job_type: &str, limits: &JobLimits) -> Digest {
        let mut params = json!({"job_type": job_type, "limits": limits, "requirements": self.requirements});
        if !self.secrets.is_empty() {
            params["secrets"] = json!(self.secrets);
        }
        canonical_json_digest(&params)
    }

    /// A job of the default type with nothing but code.
    pub fn of_code(code: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            input: JsonObject::empty(),
            timeout: None,
            startup_timeout: None,
            job_type: "default".to_owned(),
            requirements: Vec::new(),
            idempotency_key: None,
            priority: DEFAULT_PRIORITY,
            not_before: None,
            max_attempts: None,
            files: Vec::new(),
            callback_url: None,
            tags: BTreeMap::new(),
            secrets: Vec::new(),
            concurrency_key: None,
            concurrency_limit: None,
            after: Vec::new(),
            after_policy: AfterPolicy::Succeeded,
        }
    }

    /// Of everything asked for but the key itself.
    pub fn fingerprint(&self) -> Digest {
        let files: BTreeMap<_, _> = self.files.iter().map(|(name, given)| (name, given.fingerprint())).collect();
        let mut asked = json!({
            "code": Digest::of(self.code.as_bytes()),
            "input": self.input.canonical_digest(),
            "timeout_ms": self.timeout.map(|limit| limit.as_millis() as u64),
            "startup_timeout_ms": self.startup_timeout.map(|limit| limit.as_millis() as u64),
            "job_type": self.job_type,
            "requirements": self.requirements,
            "priority": self.priority,
            "not_before": self.not_before,
            "max_attempts": self.max_attempts,
            "files": files,
            "callback_url": self.callback_url,
            "tags": self.tags,
        });
        if !self.secrets.is_empty() {
            asked["secrets"] = json!(self.secrets);
        }
        if let Some(concurrency) = self.concurrency() {
            asked["concurrency"] = json!(concurrency);
        }
        if !self.after.is_empty() {
            asked["after"] = json!(self.after);
            asked["after_policy"] = json!(self.after_policy);
        }
        canonical_json_digest(&asked)
    }

    /// The key that it shares with others.
    pub fn concurrency(&self) -> Option<ConcurrencyKey> {
        let key = self.concurrency_key.clone()?;
        Some(ConcurrencyKey { key, limit: self.concurrency_limit.unwrap_or(1) })
    }

    /// All that is wrong with it, by field; nothing when it may be submitted.
    pub fn faults(&self, config: &Config) -> Vec<FieldFault> {
        let mut faults = Faults::default();
        self.check_code(config, &mut faults);
        self.check_input(config, &mut faults);
        self.check_times(config, &mut faults);
        self.check_requirements(config, &mut faults);
        self.check_files(config, &mut faults);
        self.check_words(&mut faults);
        self.check_secrets(&mut faults);
        self.check_concurrency(&mut faults);
        if self.after.len() > MAX_AFTER {
            faults.add("after", format!("must be at most {MAX_AFTER} executions"));
        }
        faults.0
    }

    fn check_code(&self, config: &Config, faults: &mut Faults) {
        if self.code.trim().is_empty() {
            faults.add("code", "must not be empty: send the Python source of the job");
        }
        if self.code.contains('\0') {
            faults.add("code", "contains a NUL character, which Python source must not");
        }
        faults.size("code", self.code.len() as u64, config.limits.max_code_bytes);
    }

    fn check_input(&self, config: &Config, faults: &mut Faults) {
        faults.size("input_data", self.input.text().len() as u64, config.limits.max_input_bytes);
    }

    fn check_times(&self, config: &Config, faults: &mut Faults) {
        let limits = &config.limits;
        for (field, value, min, max) in [
            ("timeout", self.timeout, limits.min_timeout, limits.max_timeout),
            ("startup_timeout", self.startup_timeout, limits.min_startup_timeout, limits.max_startup_timeout),
        ] {
            if value.is_some_and(|value| value < min || value > max) {
                let (min, max) = (min.as_secs_f64(), max.as_secs_f64());
                faults.add(field, format!("must be from {min} to {max} seconds"));
            }
        }
        if self.max_attempts.is_some_and(|attempts| !(1..=20).contains(&attempts)) {
            faults.add("max_attempts", "must be from 1 to 20");
        }
        if !(0..=9).contains(&self.priority) {
            faults.add("priority", "must be from 0 to 9; 9 runs first");
        }
    }

    fn check_requirements(&self, config: &Config, faults: &mut Faults) {
        if self.requirements.is_empty() {
            return;
        }
        if !config.allow_runtime_requirements {
            faults.add(
                "requirements",
                "are not allowed here: use a job type that has them, or set allow_runtime_requirements",
            );
        }
        if self.requirements.len() > config.limits.max_requirements as usize {
            faults.add("requirements", format!("must be at most {}", config.limits.max_requirements));
        }
        for requirement in &self.requirements {
            if let Err(error) = Requirement::parse(requirement) {
                faults.add("requirements", format!("are not all packages: {error}"));
            }
        }
    }

    fn check_files(&self, config: &Config, faults: &mut Faults) {
        if self.files.len() > config.limits.max_files as usize {
            faults.add("files", format!("must be at most {} files", config.limits.max_files));
        }
        for (name, _) in &self.files {
            if let Some(fault) = file_name_fault(name) {
                let shown: String = name.chars().take(60).collect();
                faults.add("files", format!("{shown:?} {fault}"));
            }
        }
        let total: u64 = self.files.iter().map(|(_, given)| given.sent_bytes()).sum();
        faults.size("files", total, config.limits.max_body_bytes);
    }

    fn check_secrets(&self, faults: &mut Faults) {
        if self.secrets.len() > MAX_SECRETS {
            faults.add("secrets", format!("must be at most {MAX_SECRETS}"));
        }
        let mut names = BTreeSet::new();
        let mut headers: Vec<&HeaderUse> = Vec::new();
        for SecretUse { name, delivery } in &self.secrets {
            if let Delivery::Header { header } = delivery {
                if let Some(fault) = header.fault() {
                    faults.add("secrets", format!("{name:.64?} {fault}"));
                }
                if headers.iter().any(|other| header.clashes(other)) {
                    faults.add("secrets", format!("have two values for the header {:.64?} of one host", header.name));
                }
                headers.push(header);
            }
            if let Some(fault) = secret_name_fault(name) {
                faults.add("secrets", format!("{:?} {fault}", name.chars().take(60).collect::<String>()));
            }
            if !names.insert(name) {
                faults.add("secrets", format!("{name:.64?} is named twice"));
            }
        }
    }

    fn check_concurrency(&self, faults: &mut Faults) {
        if let Some(key) = &self.concurrency_key {
            if !(1..=128).contains(&key.chars().count()) {
                faults.add("concurrency_key", "must have from 1 to 128 characters");
            }
            if key.contains(char::is_control) {
                faults.add("concurrency_key", "must not contain control characters");
            }
        }
        if let Some(limit) = self.concurrency_limit {
            if !(1..=MAX_CONCURRENCY).contains(&limit) {
                faults.add("concurrency_limit", format!("must be from 1 to {MAX_CONCURRENCY}"));
            }
            if self.concurrency_key.is_none() {
                faults.add("concurrency_limit", "limits the jobs of a concurrency_key, which is missing");
            }
        }
    }

    fn check_words(&self, faults: &mut Faults) {
        if let Some(key) = &self.idempotency_key {
            if !(1..=128).contains(&key.chars().count()) {
                faults.add("idempotency_key", "must have from 1 to 128 characters");
            }
            if key.contains(char::is_control) {
                faults.add("idempotency_key", "must not contain control characters");
            }
        }
        if self.tags.len() > 32 {
            faults.add("tags", "must be at most 32");
        }
        for (key, value) in &self.tags {
            let length = |text: &str| text.chars().count();
            if !(1..=64).contains(&length(key)) || length(value) > 256 {
                faults.add("tags", "must have names of 1 to 64 and values of at most 256 characters");
            }
            if key.contains(char::is_control) || value.contains(char::is_control) {
                faults.add("tags", "must not contain control characters");
            }
        }
        if let Some(url) = &self.callback_url
            && (url.len() > 2048
                || url.contains(char::is_control)
                || !(url.starts_with("https://") || url.starts_with("http://")))
        {
            faults.add("callback_url", "must be an http or https URL of at most 2048 characters");
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    pub field: String,
    /// Continues a sentence that begins with the field's name.
    pub message: String,
    /// It is the size that is wrong: answered with 413 instead of 422.
    #[serde(skip)]
    pub is_size: bool,
}

#[derive(Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(FieldFault { field: field.to_owned(), message: message.into(), is_size: false });
    }

    fn size(&mut self, field: &str, bytes: u64, limit: u64) {
        if bytes > limit {
            let message = format!("has {bytes} bytes, more than the limit of {limit}");
            self.0.push(FieldFault { field: field.to_owned(), message, is_size: true });
        }
    }
}

/// Why a file name cannot be used below `/input`, if so.
fn file_name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 255 {
        return Some("must have from 1 to 255 bytes");
    }
    if name.contains(char::is_control) {
        return Some("must not contain control characters");
    }
    if name.starts_with('/') || name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Some("must be a relative path without empty, \".\" or \"..\" parts");
    }
    if name == "data.json" {
        return Some("is taken by the input; choose another name");
    }
    None
}

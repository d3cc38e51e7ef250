//! How long records and bytes are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::settings::Config;
use super::units::seconds;

/// A hundred years.
const LONGEST: u32 = 36_500;

/// How long records and bytes are kept once an execution has ended. The log's proof is always kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Code, input, output and artifacts, in days; 0 keeps them as long as the record.
    pub blobs_days: u32,
    /// Execution records, in days; 0 keeps them.
    pub records_days: u32,
    /// Dead letters, in days; 0 keeps them as long as the record.
    pub dlq_days: u32,
    /// Instead of both, and of what a job type says, for a tenant's own executions.
    pub tenants: BTreeMap<String, RetentionOverride>,
    /// Between two removals, of whichever node.
    #[serde(with = "seconds")]
    pub every: Duration,
    /// Encrypts what is private in events, so that it can be shredded: see docs/retention.md.
    pub encrypt_payloads: bool,
    /// The key under which tenants' keys are kept: 32 bytes, or 64 hex digits, in a file.
    pub master_key_file: PathBuf,
}

/// A tenant's or a job type's own times; what is absent is as elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionOverride {
    pub blobs_days: Option<u32>,
    pub records_days: Option<u32>,
}

/// What holds for one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// `None` keeps for ever.
    pub records_days: Option<u32>,
    /// Never longer than the record.
    pub blobs_days: Option<u32>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            blobs_days: 30,
            records_days: 90,
            dlq_days: 30,
            tenants: BTreeMap::new(),
            every: Duration::from_secs(6 * 3600),
            encrypt_payloads: false,
            master_key_file: PathBuf::new(),
        }
    }
}

impl Config {
    /// How long an execution of a tenant and a job type is kept: as its tenant says, else as its job
    /// type says, else as is general.
    pub fn kept(&self, tenant: &str, job_type: &str) -> Kept {
        let general = &self.retention;
        let tenant = general.tenants.get(tenant).copied().unwrap_or_default();
        let job_type = self.job_types.get(job_type).and_then(|job_type| job_type.retention).unwrap_or_default();
        let days = |days: u32| (days > 0).then_some(days);
        let records = tenant.records_days.or(job_type.records_days).unwrap_or(general.records_days);
        let blobs = tenant.blobs_days.or(job_type.blobs_days).unwrap_or(general.blobs_days);
        let (records_days, blobs_days) = (days(records), days(blobs));
        let blobs_days = match (records_days, blobs_days) {
            (Some(records), Some(blobs)) => Some(records.min(blobs)),
            (records, blobs) => blobs.or(records),
        };
        Kept { records_days, blobs_days }
    }

    /// The shortest times there are, for records and for bytes; `None` where everything is kept.
    pub fn shortest_kept(&self) -> Kept {
        let names = |name: &String| name.clone();
        let tenants: Vec<String> = self.retention.tenants.keys().map(names).chain([String::new()]).collect();
        let job_types: Vec<String> = self.job_types.keys().map(names).chain([String::new()]).collect();
        let all: Vec<Kept> = tenants
            .iter()
            .flat_map(|tenant| job_types.iter().map(move |job_type| (tenant, job_type)))
            .map(|(tenant, job_type)| self.kept(tenant, job_type))
            .collect();
        Kept {
            records_days: all.iter().filter_map(|kept| kept.records_days).min(),
            blobs_days: all.iter().filter_map(|kept| kept.blobs_days).min(),
        }
    }

    pub(super) fn check_retention(&self, bounds: &mut Bounds) {
        let retention = &self.retention;
        bounds.number("retention.blobs_days", retention.blobs_days, 0, LONGEST);
        bounds.number("retention.records_days", retention.records_days, 0, LONGEST);
        bounds.number("retention.dlq_days", retention.dlq_days, 0, LONGEST);
        bounds.seconds("retention.every", retention.every, 0.01, 30.0 * 86_400.0);
        bounds.count("retention.tenants", retention.tenants.len(), 10_000);
        for (tenant, own) in &retention.tenants {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let at = format!("retention.tenants.{tenant}");
            let is_tenant = (1..=64).contains(&tenant.len()) && tenant.chars().all(is_word);
            bounds.require(is_tenant, &at, || "is not the name of a tenant".to_owned());
            check_override(bounds, &at, own);
        }
        for (name, job_type) in &self.job_types {
            if let Some(own) = &job_type.retention {
                check_override(bounds, &format!("job_types.{name}.retention"), own);
            }
        }
        let key = &retention.master_key_file;
        bounds.require(key.as_os_str().is_empty() || key.is_absolute(), "retention.master_key_file", || {
            format!("{} must be an absolute path", key.display())
        });
        bounds.require(!retention.encrypt_payloads || !key.as_os_str().is_empty(), "retention.master_key_file", || {
            "must name a key when retention.encrypt_payloads is true; make one with tako-vm audit keygen --master"
                .to_owned()
        });
    }
}

fn check_override(bounds: &mut Bounds, at: &str, own: &RetentionOverride) {
    for (field, days) in [("blobs_days", own.blobs_days), ("records_days", own.records_days)] {
        bounds.number(&format!("{at}.{field}"), days.unwrap_or_default(), 0, LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_word_counts_before_a_job_types_and_that_before_the_general_one() {
        let mut config = Config::default();
        let own = |blobs_days, records_days| RetentionOverride { blobs_days, records_days };
        let kept = |records_days, blobs_days| Kept { records_days, blobs_days };
        config.retention.tenants.insert("acme".to_owned(), own(None, Some(0)));
        assert_eq!(config.kept("other", "default"), kept(Some(90), Some(30)));
        assert_eq!(config.kept("acme", "default"), kept(None, Some(30)));
        if let Some(job_type) = config.job_types.get_mut("default") {
            job_type.retention = Some(own(Some(60), Some(7)));
        }
        // Bytes that no record names are of no use to anybody.
        assert_eq!(config.kept("other", "default"), kept(Some(7), Some(7)));
        assert_eq!(config.kept("acme", "default"), kept(None, Some(60)));
        assert_eq!(config.shortest_kept(), kept(Some(7), Some(7)));
        config.retention.tenants.insert("keeps".to_owned(), own(Some(0), Some(0)));
        assert_eq!(config.kept("keeps", "default"), kept(None, None));
    }
}

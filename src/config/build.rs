//! How the images of job types are built, and where their packages come from.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pip::Pip;
use super::secret::Secret;
use super::units::{bytes, seconds};

/// Building the images of job types. What is empty is as this host's own pip has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// A whole build.
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// Memory of a build's containers.
    #[serde(with = "bytes")]
    pub memory: u64,
    /// All packages of one job type, as they are downloaded.
    #[serde(with = "bytes")]
    pub max_size: u64,
    /// Kept of a build's log.
    #[serde(with = "bytes")]
    pub log_size: u64,
    /// Where packages come from; hidden, since it may hold a password.
    pub index_url: Secret,
    /// Certificates that vouch for the index.
    pub ca_bundle: PathBuf,
    /// Hidden, since it may hold a password.
    pub proxy: Secret,
    /// Docker network in which packages are downloaded; `none` asks no index at all.
    pub network: String,
    /// Wheels that count beside those of the index.
    pub wheel_dir: PathBuf,
    /// Whether packages without a wheel are built, which runs their code.
    pub source_distributions: bool,
    /// All images of job types on this node; beyond it the least recently used go. 0 keeps all.
    #[serde(with = "bytes")]
    pub disk_budget: u64,
    /// Wheels kept for later builds.
    #[serde(with = "bytes")]
    pub wheel_cache: u64,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(900),
            memory: 2 << 30,
            max_size: 4 << 30,
            log_size: 1 << 20,
            index_url: Secret::default(),
            ca_bundle: PathBuf::new(),
            proxy: Secret::default(),
            network: "bridge".to_owned(),
            wheel_dir: PathBuf::new(),
            source_distributions: false,
            disk_budget: 20 << 30,
            wheel_cache: 2 << 30,
        }
    }
}

impl Build {
    /// Where packages come from, with what the host's pip says where nothing else does.
    pub fn sources(&self, host: Pip) -> Pip {
        let given = |secret: &Secret| Some(secret.expose().to_owned()).filter(|text| !text.is_empty());
        let path = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        Pip {
            // Whoever names an index means that one alone.
            extra_index_urls: if given(&self.index_url).is_some() { Vec::new() } else { host.extra_index_urls },
            index_url: given(&self.index_url).or(host.index_url),
            ca_bundle: path(&self.ca_bundle).or(host.ca_bundle),
            proxy: given(&self.proxy).or(host.proxy),
            wheel_dir: path(&self.wheel_dir).or(host.wheel_dir),
        }
    }
}

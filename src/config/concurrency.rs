//! How many jobs run at the same time on all nodes together, and which nodes they ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::settings::Config;

/// More jobs at the same time than any installation runs.
const MOST: u32 = 100_000;

/// Jobs of one tenant at the same time, on all nodes together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Concurrency {
    /// By tenant; 0 means no limit.
    pub tenants: BTreeMap<String, u32>,
    /// Of every other tenant; 0 means no limit.
    pub default_tenant: u32,
}

/// What a node says of itself, for job types that ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub labels: BTreeMap<String, String>,
}

/// What a job type asks of the nodes that run it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// `runc`, `runsc`, `namespaces`, or an engine: `docker`, `native`. Absent means any.
    pub runtime: Option<String>,
    /// Labels that a node must have, with these values.
    pub labels: BTreeMap<String, String>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl Config {
    pub(super) fn check_concurrency(&self, bounds: &mut Bounds) {
        bounds.seconds("queue.ageing", self.queue.ageing, 0.0, 86_400.0);
        bounds.seconds("queue.warm_grace", self.queue.warm_grace, 0.0, 300.0);
        let concurrency = &self.concurrency;
        bounds.number("concurrency.default_tenant", concurrency.default_tenant, 0, MOST);
        bounds.count("concurrency.tenants", concurrency.tenants.len(), 10_000);
        for (tenant, limit) in &concurrency.tenants {
            let key = format!("concurrency.tenants.{tenant}");
            bounds.number(&key, *limit, 0, MOST);
            bounds.text(&key, tenant, 64, is_word);
            bounds.require(!tenant.is_empty(), &key, || "must be the name of a tenant".to_owned());
        }
        check_labels(bounds, "node.labels", &self.node.labels);
    }
}

pub(super) fn check_placement(bounds: &mut Bounds, at: &str, placement: &Placement) {
    check_labels(bounds, &format!("{at}.labels"), &placement.labels);
    if let Some(runtime) = &placement.runtime {
        let key = format!("{at}.runtime");
        bounds.text(&key, runtime, 64, is_word);
        bounds.require(!runtime.is_empty(), &key, || {
            "must be a runtime (runc, runsc, namespaces), an engine (docker, native), or null".to_owned()
        });
    }
}

fn check_labels(bounds: &mut Bounds, at: &str, labels: &BTreeMap<String, String>) {
    bounds.count(at, labels.len(), 32);
    for (name, value) in labels {
        let key = format!("{at}.{name}");
        for text in [name, value] {
            bounds.text(&key, text, 64, is_word);
            bounds.require(!text.is_empty(), &key, || "must have a name and a value".to_owned());
        }
    }
}

//! What decides which waiting job is claimed next beside its age and priority. It is in the database, so
//! that every node obeys it; `claim_jobs` in the migrations reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::types::Json;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// What holds for all jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSettings {
    /// So much waiting counts as one priority more; zero: none does.
    pub ageing: Duration,
    /// How long a node without a job type's image leaves its jobs to those that have it.
    pub warm_grace: Duration,
    /// Without a heartbeat for so long, a node is taken for dead.
    pub dead_after: Duration,
    /// Jobs of one tenant at the same time; 0: no limit.
    pub tenant_limit: u32,
    /// Instead of it, by tenant.
    pub tenant_limits: BTreeMap<String, u32>,
}

/// What one job type demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobTypeRule {
    pub job_type: String,
    /// Jobs at the same time; `None` for no limit.
    pub concurrency: Option<u32>,
    /// Runtime or engine of the node.
    pub runtime: Option<String>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Vendor of its GPUs.
    pub gpu: Option<String>,
}

impl JobTypeRule {
    fn is_empty(&self) -> bool {
        self.concurrency.is_none() && self.runtime.is_none() && self.labels.is_empty() && self.gpu.is_none()
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advert {
    pub engine: String,
    pub runtime: String,
    pub labels: BTreeMap<String, String>,
    /// Vendors of GPUs that its sandboxes can have.
    pub gpus: Vec<String>,
}

impl Store {
    /// Puts them in force for every node, from its next claim on.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn put_claim_settings(&self, settings: &ClaimSettings) -> Result<(), Error> {
        sqlx::query(
            "UPDATE claim_settings SET ageing = $1, warm_grace = $2, dead_after = $3, tenant_limit = $4, \
                 tenant_limits = $5",
        )
        .bind(settings.ageing.as_secs_f64())
        .bind(settings.warm_grace.as_secs_f64())
        .bind(settings.dead_after.as_secs_f64())
        .bind(i32::try_from(settings.tenant_limit).unwrap_or(i32::MAX))
        .bind(Json(&settings.tenant_limits))
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put claim settings"))
    }

    /// Puts what job types demand in force for every node, from its next claim on.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn put_job_type_rules(&self, rules: &[JobTypeRule]) -> Result<(), Error> {
        let run = Error::during("put job type rules");
        let (free, bound): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.is_empty());
        let names: Vec<_> = free.iter().map(|rule| rule.job_type.as_str()).collect();
        sqlx::query("DELETE FROM job_type_rules WHERE job_type = ANY ($1)")
            .bind(names)
            .execute(self.pool())
            .await
            .map_err(&run)?;
        for rule in bound {
            sqlx::query(
                "INSERT INTO job_type_rules (job_type, concurrency, runtime, labels, gpu) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (job_type) DO UPDATE SET concurrency = $2, runtime = $3, labels = $4, gpu = $5",
            )
            .bind(&rule.job_type)
            .bind(rule.concurrency.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)))
            .bind(&rule.runtime)
            .bind(Json(&rule.labels))
            .bind(&rule.gpu)
            .execute(self.pool())
            .await
            .map_err(&run)?;
        }
        Ok(())
    }

    /// Says what a registered node is and has.
    ///
    /// # Errors
    /// [`Error::Affected`] for a node that is not registered; [`Error::Unavailable`].
    pub async fn advertise(&self, node_id: Uuid, advert: &Advert) -> Result<(), Error> {
        let advertise = "UPDATE nodes SET engine = $2, runtime = $3, labels = $4, gpus = $5 WHERE node_id = $1";
        let done = sqlx::query(advertise)
            .bind(node_id)
            .bind(&advert.engine)
            .bind(&advert.runtime)
            .bind(Json(&advert.labels))
            .bind(&advert.gpus)
            .execute(self.pool())
            .await
            .map_err(Error::during("advertise"))?;
        Error::unless_one(done.rows_affected(), "advertise", "nodes", node_id)
    }

    /// Says of which job types a registered node has the present image.
    ///
    /// # Errors
    /// As [`Store::advertise`].
    pub async fn advertise_warm(&self, node_id: Uuid, job_types: &[String]) -> Result<(), Error> {
        let done = sqlx::query("UPDATE nodes SET warm = $2 WHERE node_id = $1")
            .bind(node_id)
            .bind(job_types)
            .execute(self.pool())
            .await
            .map_err(Error::during("advertise"))?;
        Error::unless_one(done.rows_affected(), "advertise", "nodes", node_id)
    }
}

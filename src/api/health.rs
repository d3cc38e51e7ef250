//! Whether the service works, for people and for orchestrators.

use actix_web::{HttpResponse, web};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::app::App;
use super::params::Params;
use super::pool;
use super::problem::Problem;

/// What is known of the engine. Asked on every look at the service's health, so it answers at
/// once, from what it learnt at most two seconds ago.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    async fn look(&self) -> Sight;
}

/// The engine as it was seen last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sight {
    /// Whether this node's engine starts sandboxes now.
    pub engine_available: bool,
    /// `docker`, `native` or `scripted`.
    pub engine: String,
    /// `runc`, `runsc`, `namespaces`.
    pub runtime: String,
    pub docker_available: bool,
    pub gvisor_available: bool,
    /// Limits of jobs that the engine cannot hold here.
    pub missing_limits: Vec<&'static str>,
    pub circuit_breaker: CircuitBreaker,
    pub pool: crate::engine::pool::PoolStats,
}

/// The circuit breaker before the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CircuitBreaker {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    pub failure_count: u64,
    pub success_count: u64,
    pub last_failure: Option<DateTime<Utc>>,
}

/// GET /health: always 200, so that the figures can be read when it matters.
pub async fn health(app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let sight = app.health.look().await;
    let queue_stats = pool::figures(&app).await;
    let database_available = queue_stats.is_ok();
    let blobs = app.objects_health().await?;
    let role = app.config.role;
    let engine_is_well = sight.engine_available || !role.works();
    let database_writable = database_available && app.writes.refusal().is_none();
    let is_well = database_writable && engine_is_well && blobs.is_available;
    let status = if is_well { "healthy" } else { "degraded" };
    Ok(HttpResponse::Ok().json(json!({
        "status": status,
        "role": role,
        "nodes": {"answering": app.fleet.answering(), "working": app.fleet.working()},
        "database_available": database_available,
        "database_writable": database_writable,
        "blobs": {"store": blobs.kind, "available": blobs.is_available, "circuit_open": blobs.is_open},
        "engine": sight.engine,
        "engine_available": sight.engine_available,
        "runtime": sight.runtime,
        "docker_available": sight.docker_available,
        "gvisor_available": sight.gvisor_available,
        "missing_limits": sight.missing_limits,
        "circuit_breaker": sight.circuit_breaker,
        "version": env!("CARGO_PKG_VERSION"),
        "production_mode": app.config.production_mode,
        "queue_stats": queue_stats.ok(),
    })))
}

/// GET /livez: the process answers.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// GET /readyz: jobs sent here now would run, or be queued on a node that runs none itself.
pub async fn readyz(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let figures = pool::figures(&app).await?;
    if figures.draining {
        return Err(Problem::unavailable("the server is stopping"));
    }
    if let Some(cause) = app.writes.refusal() {
        return Err(Problem::unavailable(format!("the database takes no writes: {cause}")));
    }
    if !app.objects_health().await?.is_available {
        return Err(Problem::unavailable("the object store does not answer"));
    }
    if app.config.role.works() && !app.health.look().await.engine_available {
        return Err(Problem::unavailable("the engine starts no sandboxes now"));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
}

//! How busy the service is.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::Params;
use super::problem::Problem;
use crate::actors::queue::GetStats;
use crate::engine::pool::PoolStats;

/// The queue of the installation and the slots and sandboxes of this node.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Jobs that wait, of the whole installation.
    pub pending: u64,
    /// Jobs that run, on this node.
    pub running: u32,
    pub max_workers: u32,
    pub max_queue_size: u32,
    pub draining: bool,
    /// Job types of which no job starts; `*` stands for all.
    pub paused: Vec<String>,
    pub warm_pool: PoolStats,
}

pub async fn figures(app: &App) -> Result<Figures, Problem> {
    let queue = app.read(|store| async move { store.queue_stats().await }).await?;
    let pauses = app.read(|store| async move { store.pauses().await }).await?;
    let slots = app.queue.send(GetStats).await?;
    Ok(Figures {
        pending: queue.pending,
        running: slots.running,
        max_workers: slots.slots,
        max_queue_size: app.config.max_queue_size,
        draining: slots.draining,
        paused: pauses.into_iter().filter(|pause| pause.is_paused).map(|pause| pause.job_type).collect(),
        warm_pool: app.health.look().await.pool,
    })
}

/// GET /pool/stats
pub async fn stats(_caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    Ok(HttpResponse::Ok().json(figures(&app).await?))
}

//! The nodes of the installation.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::app::App;
use super::caller::{Caller, Read};
use super::params::Params;
use super::problem::Problem;

/// GET /nodes: those that gave a sign of life within a day, the latest first.
pub async fn list(_caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let members = app.read(|store| async move { store.fleet().await }).await?;
    let nodes: Vec<Value> = members
        .iter()
        .map(|member| {
            let node = &member.node;
            json!({
                "node_id": node.node_id,
                "state": if member.is_dead { "dead" } else { &node.state },
                "heartbeat_age": (member.silent_s.max(0.0) * 1e3).round() / 1e3,
                "started_at": node.started_at,
                "version": node.version,
                "slots": node.slots,
                "claimed": member.claimed,
                "engine": node.engine,
                "runtime": node.runtime,
                "gpus": node.gpus,
                "labels": node.labels,
                "warm_job_types": node.warm,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(nodes))
}

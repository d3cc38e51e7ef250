//! Whether the log is what it was, and what proves it to others.

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokio::sync::Semaphore;

use super::app::App;
use super::caller::{Admin, Caller, Read};
use super::params::{Id, Params};
use super::problem::Problem;
use crate::store::audit::{Trust, Verification};

/// Events that one request verifies, unless it asks for another number.
const EVENTS: u64 = 100_000;
const MOST_EVENTS: u64 = 1_000_000;

/// Seals of one answer at most.
const MOST_SEALS: u32 = 1000;

/// Verifies on behalf of clients: one at a time, for it takes a whole core.
#[derive(Debug)]
pub struct Desk {
    trust: Trust,
    free: Semaphore,
}

impl Desk {
    pub fn new(trust: Trust) -> Self {
        Self { trust, free: Semaphore::new(1) }
    }
}

/// GET /audit/verify?since_seal=&max_events=
pub async fn verify(_caller: Caller<Admin>, app: web::Data<App>, mut params: Params) -> Result<HttpResponse, Problem> {
    let since_seal = params.number("since_seal", 0, i64::MAX - 1, 0);
    let at_most = params.number("max_events", 1, MOST_EVENTS, EVENTS);
    params.done()?;
    let Ok(_turn) = app.audit.free.try_acquire() else {
        return Err(Problem::unavailable("another request has the log verified; try again later"));
    };
    let verification = Verification { trust: app.audit.trust.clone(), since_seal, at_most, lanes: 1 };
    let verified = app.read(move |store| async move { store.verify_log(&verification, &|_| {}).await }).await?;
    let mut answer = json!(&verified);
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("ok".to_owned(), verified.holds().into());
        fields.insert("first_bad".to_owned(), json!(verified.faults.first()));
        // Where the next request goes on; nothing is left behind a complete one.
        let next = (!verified.complete).then_some(verified.last_seal);
        fields.insert("next_since_seal".to_owned(), json!(next));
        let keys: Vec<_> = app.audit.trust.keys.iter().map(ToString::to_string).collect();
        fields.insert("trusted_keys".to_owned(), json!(keys));
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// GET /audit/seals?after=&limit=
pub async fn seals(_caller: Caller<Admin>, app: web::Data<App>, mut params: Params) -> Result<HttpResponse, Problem> {
    let after = params.number("after", 0, i64::MAX - 1, 0);
    let limit = params.number("limit", 1, MOST_SEALS, 100);
    params.done()?;
    let (seals, end) =
        app.read(move |store| async move { Ok((store.seals(after, limit).await?, store.seal_end().await?)) }).await?;
    let next = seals.last().map_or(after, |seal| seal.seal_no);
    Ok(HttpResponse::Ok().json(json!({
        "count": seals.len(),
        "items": seals,
        "after": after,
        "limit": limit,
        "next_after": next,
        "newest_position": end.newest,
        "sealed_through": end.sealed,
    })))
}

/// GET /executions/{id}/proof
pub async fn proof(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    app.record_or_expired(&caller, id).await?;
    let proof = app.read(move |store| async move { store.proof(id).await }).await?;
    let proof = proof.ok_or_else(|| Problem::no_execution(id))?;
    Ok(HttpResponse::Ok().json(proof))
}

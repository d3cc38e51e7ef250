//! Where an execution comes from, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::{Id, Params};
use super::problem::Problem;
use super::view;
use crate::domain::{DeadLetter, ExecutionRecord};

/// Executions of one graph at most.
const MOST: usize = 1000;

/// GET /executions/{id}/lineage
pub async fn graph(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let own = app.record(&caller, id).await?;
    let relatives = app
        .read(move |store| async move {
            let mut relatives = store.ancestors(id).await?;
            relatives.extend(store.descendants(id).await?);
            Ok(relatives)
        })
        .await?;
    let mut family: Vec<_> = std::iter::once(own)
        .chain(relatives.into_iter().map(|stored| stored.record))
        .filter(|record| record.submitted.tenant == caller.tenant)
        .collect();
    let truncated = family.len() > MOST;
    family.truncate(MOST);
    Ok(HttpResponse::Ok().json(shown(id, &family, truncated)))
}

fn shown(id: Uuid, family: &[ExecutionRecord], truncated: bool) -> Value {
    let by_id: BTreeMap<_, _> = family.iter().map(|record| (record.execution_id, record)).collect();
    let parent =
        |record: &ExecutionRecord| record.submitted.parent.filter(|parent| by_id.contains_key(&parent.execution_id));
    let edges: Vec<_> = by_id
        .values()
        .filter_map(|record| {
            let parent = parent(record)?;
            Some(json!({
                "from": parent.execution_id,
                "to": record.execution_id,
                "relationship": parent.relationship,
            }))
        })
        .collect();
    let ancestors = ancestors(id, &by_id);
    json!({
        "execution_id": id,
        "root": ancestors.last().copied().unwrap_or(id),
        "ancestors": ancestors,
        "descendants": descendants(id, &by_id),
        "nodes": by_id.values().map(|record| node(record)).collect::<Vec<_>>(),
        "edges": edges,
        "truncated": truncated,
    })
}

/// The nearest first. An id is made after its parent's, so there is no circle to walk in.
fn ancestors(id: Uuid, by_id: &BTreeMap<Uuid, &ExecutionRecord>) -> Vec<Uuid> {
    let parent = |id: &Uuid| {
        by_id.get(id)?.submitted.parent.map(|parent| parent.execution_id).filter(|id| by_id.contains_key(id))
    };
    std::iter::successors(parent(&id), parent).take(by_id.len()).collect()
}

/// The oldest first; a child is younger than its parent, so one pass in order finds them all.
fn descendants(id: Uuid, by_id: &BTreeMap<Uuid, &ExecutionRecord>) -> Vec<Uuid> {
    let mut family = BTreeSet::from([id]);
    let mut found = Vec::new();
    let mut in_order: Vec<_> = by_id.values().collect();
    in_order.sort_by_key(|record| (record.created_at, record.execution_id));
    for record in in_order {
        if record.submitted.parent.is_some_and(|parent| family.contains(&parent.execution_id)) {
            family.insert(record.execution_id);
            found.push(record.execution_id);
        }
    }
    found
}

fn node(record: &ExecutionRecord) -> Value {
    let (submitted, observed) = (&record.submitted, view::observed(record));
    json!({
        "execution_id": record.execution_id,
        "status": record.status(),
        "created_at": record.created_at,
        "job_type": submitted.job_type,
        "job_version": submitted.job_version,
        "parent_execution_id": submitted.parent.map(|parent| parent.execution_id),
        "relationship": submitted.parent.map(|parent| parent.relationship),
        "code_hash": submitted.code,
        "input_hash": submitted.input_canonical,
        "params_hash": submitted.params,
        "input_artifacts_hash": submitted.input_artifacts,
        "image_digest": record.sandbox().map(|sandbox| &sandbox.image_digest),
        "stdout_hash": observed.map(|observed| observed.stdout.hash),
        "output_hash": observed.and_then(|observed| observed.output),
        "artifacts": observed.map(|observed| &observed.artifacts),
        "replay": record.replay_verdict,
        "requeued_as": match record.dead_letter {
            Some(DeadLetter::Requeued { execution_id }) => Some(execution_id),
            Some(DeadLetter::Waiting | DeadLetter::Discarded) | None => None,
        },
    })
}

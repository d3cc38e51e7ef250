//! Where an execution comes from, and what came of it.

mod openlineage;
mod prov;

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::{Id, Page, Params};
use super::problem::{Kind, Problem};
use super::view;
use crate::domain::{DeadLetter, Digest, ExecutionRecord};
use crate::store::{self, Family, Member, Reach};

/// Executions of one graph at most.
const MOST: usize = 1000;

/// Steps up and down at most.
const DEEPEST: u32 = 100;

#[derive(Clone, Copy)]
enum Format {
    Json,
    Prov,
    OpenLineage,
}

/// GET /executions/{id}/lineage?depth=&format=
pub async fn graph(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
) -> Result<HttpResponse, Problem> {
    let depth = params.number("depth", 0, DEEPEST, DEEPEST);
    let format = match params.text("format").as_deref() {
        None | Some("json") => Format::Json,
        Some("prov") => Format::Prov,
        Some("openlineage") => Format::OpenLineage,
        Some(other) => {
            params.fault("format", format!("must be json, prov or openlineage, not {other:.40?}"));
            Format::Json
        }
    };
    params.done()?;
    let tenant = caller.tenant.clone();
    let reach = Reach { depth, most: MOST };
    let family = app.read(move |store| async move { store.family(&tenant, id, reach).await }).await?;
    let family = family.ok_or_else(|| Problem::no_execution(id))?;
    if let Some(at) = family.own.record.expired_at {
        return Err(Problem::expired(id, at));
    }
    Ok(HttpResponse::Ok().json(match format {
        Format::Json => shown(&family),
        Format::Prov => prov::document(&Graph::of(&family)),
        Format::OpenLineage => openlineage::events(&Graph::of(&family)),
    }))
}

/// A family by id, with what leads from one to another.
struct Graph<'a> {
    members: BTreeMap<Uuid, &'a Member>,
}

/// An artifact of one execution that was given to another.
struct Given<'a> {
    from: Uuid,
    artifact: &'a str,
    to: Uuid,
    file: &'a str,
    hash: Digest,
}

impl<'a> Graph<'a> {
    fn of(family: &'a Family) -> Self {
        let members = std::iter::once(&family.own).chain(&family.ancestors).chain(&family.descendants);
        Self { members: members.map(|member| (member.record.execution_id, member)).collect() }
    }

    fn records(&self) -> impl Iterator<Item = &'a ExecutionRecord> {
        self.members.values().map(|member| &member.record)
    }

    /// Parent and child, where both are here.
    fn children(&self) -> impl Iterator<Item = (&'a ExecutionRecord, &'a ExecutionRecord)> {
        self.records().filter_map(|record| {
            let parent = record.submitted.parent?.execution_id;
            Some((&self.members.get(&parent)?.record, record))
        })
    }

    /// Who was waited for, by whom, where both are here.
    fn awaited(&self) -> impl Iterator<Item = (Uuid, &'a ExecutionRecord)> {
        let is_here = |from: &Uuid| self.members.contains_key(from);
        self.records().flat_map(move |record| {
            let after = record.dependencies.iter().flat_map(|dependencies| dependencies.after.iter().copied());
            after.filter(is_here).map(move |from| (from, record))
        })
    }

    fn given(&self) -> impl Iterator<Item = Given<'a>> {
        let is_here = |from: &Uuid| self.members.contains_key(from);
        self.records().flat_map(move |record| {
            record.submitted.files.iter().filter_map(move |file| {
                let source = file.source.as_ref().filter(|source| is_here(&source.execution_id))?;
                Some(Given {
                    from: source.execution_id,
                    artifact: &source.name,
                    to: record.execution_id,
                    file: &file.name,
                    hash: file.hash,
                })
            })
        })
    }
}

fn shown(family: &Family) -> Value {
    let graph = Graph::of(family);
    let id = family.own.record.execution_id;
    let parents = graph.children().map(|(parent, child)| {
        json!({
            "kind": "parent",
            "from": parent.execution_id,
            "to": child.execution_id,
            "relationship": child.submitted.parent.map(|parent| parent.relationship),
        })
    });
    let artifacts = graph.given().map(|given| {
        json!({
            "kind": "artifact",
            "from": given.from,
            "to": given.to,
            "artifact": given.artifact,
            "file": given.file,
            "sha256": given.hash,
        })
    });
    let awaited = graph
        .awaited()
        .map(|(from, to)| json!({"kind": "dependency", "from": from, "to": to.execution_id, "relationship": "after"}));
    let ids = |members: &[Member]| members.iter().map(|member| member.record.execution_id).collect::<Vec<_>>();
    json!({
        "execution_id": id,
        "root": root(id, &graph),
        "ancestors": ids(&family.ancestors),
        "descendants": ids(&family.descendants),
        "nodes": graph.members.values().map(|member| node_of(member)).collect::<Vec<_>>(),
        "edges": parents.chain(artifacts).chain(awaited).collect::<Vec<_>>(),
        "truncated": family.truncated,
    })
}

/// The oldest by way of parents.
fn root(id: Uuid, graph: &Graph<'_>) -> Uuid {
    let parent = |id: &Uuid| {
        let parent = graph.members.get(id)?.record.submitted.parent?.execution_id;
        graph.members.contains_key(&parent).then_some(parent)
    };
    // A parent is in the log before its child, so there is no circle to walk in.
    std::iter::successors(Some(id), parent).take(graph.members.len()).last().unwrap_or(id)
}

fn node_of(member: &Member) -> Value {
    let mut node = node(&member.record);
    if let (Some(fields), true) = (node.as_object_mut(), member.attempts.len() > 1) {
        fields.insert("attempts".to_owned(), json!(member.attempts));
    }
    node
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
        "attempt": record.attempt,
        "code_hash": submitted.code,
        "input_hash": submitted.input_canonical,
        "params_hash": submitted.params,
        "input_artifacts_hash": submitted.input_artifacts,
        "files": submitted.files,
        "image_digest": record.sandbox().map(|sandbox| &sandbox.image_digest),
        "stdout_hash": observed.map(|observed| observed.stdout.hash),
        "output_hash": observed.and_then(|observed| observed.output),
        "artifacts": observed.map(|observed| &observed.artifacts),
        "after": record.dependencies.as_ref().map(|dependencies| &dependencies.after),
        "schedule": record.schedule,
        "replay": record.replay_verdict,
        "requeued_as": match record.dead_letter {
            Some(DeadLetter::Requeued { execution_id }) => Some(execution_id),
            Some(DeadLetter::Waiting | DeadLetter::Discarded) | None => None,
        },
    })
}

/// GET /code/{sha256}/executions?limit=&offset=: every run of a code, newest first.
pub async fn executions_of_code(
    caller: Caller<Read>,
    app: web::Data<App>,
    params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    listed(caller, app, params, request, |store, tenant, hash, at| async move {
        store.executions_of_code(&tenant, hash, at).await
    })
    .await
}

/// GET /artifacts/{sha256}/consumers?limit=&offset=: whoever was given a file with those bytes,
/// newest first.
pub async fn consumers(
    caller: Caller<Read>,
    app: web::Data<App>,
    params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    listed(
        caller,
        app,
        params,
        request,
        |store, tenant, hash, at| async move { store.consumers(&tenant, hash, at).await },
    )
    .await
}

/// A page of what is found by the hash in the path.
async fn listed<F>(
    caller: Caller<Read>,
    app: web::Data<App>,
    mut params: Params,
    request: HttpRequest,
    find: impl FnOnce(store::Store, String, Digest, (u32, u64)) -> F,
) -> Result<HttpResponse, Problem>
where
    F: Future<Output = Result<store::Page, store::Error>> + Send + 'static,
{
    let (hash, page) = (hash_of(&request)?, Page::of(&mut params));
    params.done()?;
    let tenant = caller.tenant.clone();
    let at = (page.limit, u64::from(page.offset));
    let found = app.read(move |store| find(store, tenant, hash, at)).await?;
    let records = found.records.iter().map(|stored| node(&stored.record)).collect();
    Ok(HttpResponse::Ok().json(page.answer(records, found.has_more)))
}

fn hash_of(request: &HttpRequest) -> Result<Digest, Problem> {
    let text = request.match_info().get("sha256").unwrap_or_default();
    text.parse().map_err(|error: crate::domain::NotADigest| Problem::new(Kind::Malformed, error.to_string()))
}

/// Of the graph, ids that stand for something in an export; the same bytes at two places are two
/// things there.
fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> BTreeSet<T> {
    items.collect()
}

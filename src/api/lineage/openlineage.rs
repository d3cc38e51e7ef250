//! The lineage as OpenLineage run events: for each execution a START, and how it ended.
//!
//! OpenLineage 2-0-2 (`spec/OpenLineage.json` of its repository) with the facets `parent`, `tags`,
//! `errorMessage` and `version` of `spec/facets`. A data set that an execution made is named by its
//! place, so that whoever takes it names the same; its version is its hash.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::super::view;
use super::Graph;
use crate::domain::{Digest, ExecutionRecord, Status};

const PRODUCER: &str = concat!("urn:tako-vm:", env!("CARGO_PKG_VERSION"));
const RUN_EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const PARENT: &str = "https://openlineage.io/spec/facets/1-0-1/ParentRunFacet.json#/$defs/ParentRunFacet";
const TAGS: &str = "https://openlineage.io/spec/facets/2-0-3/TagsRunFacet.json#/$defs/TagsRunFacet";
const ERROR: &str = "https://openlineage.io/spec/facets/1-0-0/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet";
const VERSION: &str =
    "https://openlineage.io/spec/facets/1-0-0/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet";

pub fn events(graph: &Graph<'_>) -> Value {
    let mut events: Vec<(DateTime<Utc>, Value)> = graph.records().flat_map(|record| events_of(record, graph)).collect();
    events.sort_by_key(|(time, _)| *time);
    events.into_iter().map(|(_, event)| event).collect()
}

fn events_of(record: &ExecutionRecord, graph: &Graph<'_>) -> Vec<(DateTime<Utc>, Value)> {
    let moments = view::Moments::of(record);
    let event = |kind: &str, time: DateTime<Utc>, outputs: Vec<Value>| {
        let event = json!({
            "eventType": kind,
            "eventTime": time,
            "run": {"runId": record.execution_id, "facets": run_facets(record, graph)},
            "job": job(record),
            "inputs": inputs(record),
            "outputs": outputs,
            "producer": PRODUCER,
            "schemaURL": RUN_EVENT,
        });
        (time, event)
    };
    let started = moments.started_at.or(moments.dequeued_at).unwrap_or(record.created_at);
    let end = match record.status() {
        Status::Queued => return Vec::new(),
        Status::Running => None,
        Status::Succeeded => Some("COMPLETE"),
        Status::Cancelled => Some("ABORT"),
        Status::Failed | Status::Timeout | Status::Oom => Some("FAIL"),
    };
    let end = end.zip(moments.ended_at).map(|(kind, time)| event(kind, time, outputs(record)));
    std::iter::once(event("START", started, Vec::new())).chain(end).collect()
}

fn run_facets(record: &ExecutionRecord, graph: &Graph<'_>) -> Map<String, Value> {
    let mut facets = Map::new();
    let mut tags = vec![
        ("status", record.status().to_string()),
        ("code_sha256", record.submitted.code.to_string()),
        ("job_version", record.submitted.job_version.clone()),
        ("attempt", record.attempt.to_string()),
    ];
    if let Some(parent) = record.submitted.parent {
        tags.push(("relationship", parent.relationship.as_str().to_owned()));
        if let Some(member) = graph.members.get(&parent.execution_id) {
            let of = json!({"run": {"runId": parent.execution_id}, "job": job(&member.record)});
            facets.insert("parent".to_owned(), facet(PARENT, of));
        }
    }
    let tags: Vec<_> =
        tags.into_iter().map(|(key, value)| json!({"key": key, "value": value, "source": "INTEGRATION"})).collect();
    facets.insert("tags".to_owned(), facet(TAGS, json!({ "tags": tags })));
    if let Some(fault) = view::fault(record) {
        let message = json!({"message": fault.message, "programmingLanguage": "PYTHON"});
        facets.insert("errorMessage".to_owned(), facet(ERROR, message));
    }
    facets
}

fn job(record: &ExecutionRecord) -> Value {
    json!({"namespace": namespace(record), "name": record.submitted.job_type})
}

fn inputs(record: &ExecutionRecord) -> Vec<Value> {
    let submitted = &record.submitted;
    let own = [submitted.code, submitted.input].map(|hash| dataset(record, format!("sha256/{hash}"), hash));
    let files = submitted.files.iter().map(|file| {
        let name = match &file.source {
            Some(source) => format!("{}/{}", source.execution_id, source.name),
            None => format!("sha256/{}", file.hash),
        };
        dataset(record, name, file.hash)
    });
    own.into_iter().chain(files).collect()
}

fn outputs(record: &ExecutionRecord) -> Vec<Value> {
    let made = view::observed(record).map(|observed| observed.artifacts.as_slice()).unwrap_or_default();
    made.iter().map(|made| dataset(record, format!("{}/{}", record.execution_id, made.name), made.hash)).collect()
}

fn dataset(record: &ExecutionRecord, name: String, hash: Digest) -> Value {
    let version = facet(VERSION, json!({"datasetVersion": format!("sha256:{hash}")}));
    json!({"namespace": namespace(record), "name": name, "facets": {"version": version}})
}

fn namespace(record: &ExecutionRecord) -> String {
    format!("tako-vm:{}", record.submitted.tenant)
}

fn facet(schema: &str, content: Value) -> Value {
    let mut facet =
        Map::from_iter([("_producer".to_owned(), PRODUCER.into()), ("_schemaURL".to_owned(), schema.into())]);
    if let Value::Object(content) = content {
        facet.extend(content);
    }
    facet.into()
}

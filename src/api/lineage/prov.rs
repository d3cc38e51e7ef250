//! The lineage as a PROV document in its JSON form.
//!
//! W3C PROV-DM, and PROV-JSON (W3C member submission of 24 April 2013). An execution is an
//! activity; code, input, files, images and artifacts are entities. What came with a submission
//! is named by its hash; what an execution made is named by its place, because in PROV an entity
//! is generated once, and two executions may make the same bytes.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::view;
use super::{Graph, distinct};
use crate::domain::{Digest, ExecutionRecord};

#[derive(Default)]
struct Document(Map<String, Value>);

impl Document {
    fn put(&mut self, section: &str, id: String, attributes: Value) {
        let section = self.0.entry(section).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(section) = section {
            section.entry(id).or_insert(attributes);
        }
    }

    /// A statement that needs no name of its own gets a blank one.
    fn say(&mut self, section: &str, attributes: Value) {
        let count = self.0.get(section).and_then(Value::as_object).map_or(0, Map::len);
        self.put(section, format!("_:{section}{}", count + 1), attributes);
    }
}

pub fn document(graph: &Graph<'_>) -> Value {
    let mut document = Document::default();
    document.0.insert("prefix".to_owned(), json!({"tako": "urn:tako-vm:"}));
    document.put("agent", "tako:service".to_owned(), json!({"prov:type": qname("prov:SoftwareAgent")}));
    for tenant in distinct(graph.records().map(|record| record.submitted.tenant.as_str())) {
        document.put("agent", format!("tako:tenant.{tenant}"), json!({"prov:label": tenant}));
    }
    for record in graph.records() {
        add_execution(&mut document, record, graph);
    }
    for (parent, child) in graph.children() {
        let relationship = child.submitted.parent.map(|parent| parent.relationship.as_str());
        let informed = json!({
            "prov:informed": activity(child.execution_id),
            "prov:informant": activity(parent.execution_id),
            "tako:relationship": relationship,
        });
        document.say("wasInformedBy", informed);
    }
    document.0.into()
}

fn add_execution(document: &mut Document, record: &ExecutionRecord, graph: &Graph<'_>) {
    let (id, submitted, moments) = (record.execution_id, &record.submitted, view::Moments::of(record));
    let mut attributes = Map::from_iter([
        ("prov:type".to_owned(), qname("tako:Execution")),
        ("tako:status".to_owned(), json!(record.status())),
        ("tako:jobVersion".to_owned(), json!(submitted.job_version)),
        ("tako:attempt".to_owned(), json!(record.attempt)),
    ]);
    for (name, moment) in [("prov:startTime", moments.started_at), ("prov:endTime", moments.ended_at)] {
        attributes.extend(moment.map(|moment| (name.to_owned(), json!(moment))));
    }
    document.put("activity", activity(id), attributes.into());

    let code = by_hash("code", submitted.code);
    let plan = json!({"prov:type": qname("prov:Plan"), "tako:sha256": submitted.code});
    document.put("entity", code.clone(), plan);
    let by = |agent: String| json!({"prov:activity": activity(id), "prov:agent": agent, "prov:plan": code});
    document.say("wasAssociatedWith", by("tako:service".to_owned()));
    document.say("wasAssociatedWith", by(format!("tako:tenant.{}", submitted.tenant)));
    used(document, id, &code, "code");

    let input = by_hash("input", submitted.input);
    document.put("entity", input.clone(), json!({"tako:sha256": submitted.input}));
    used(document, id, &input, "input");
    for file in &submitted.files {
        let made = file.source.as_ref().and_then(|source| place(graph, source.execution_id, &source.name));
        let entity = made.unwrap_or_else(|| by_hash("file", file.hash));
        document.put("entity", entity.clone(), json!({"prov:label": file.name, "tako:sha256": file.hash}));
        used(document, id, &entity, &file.name);
    }
    if let Some(sandbox) = record.sandbox() {
        let image = format!("tako:image.{}", sandbox.image_digest.trim_start_matches("sha256:"));
        let attributes = json!({"prov:label": sandbox.image, "tako:digest": sandbox.image_digest});
        document.put("entity", image.clone(), attributes);
        used(document, id, &image, "image");
    }
    let Some(observed) = view::observed(record) else { return };
    let streams = [("stdout", observed.stdout.hash), ("stderr", observed.stderr.hash)];
    let streams = streams.map(|(name, hash)| (format!("tako:{name}.{id}"), name, hash));
    let artifacts = observed.artifacts.iter().enumerate();
    let artifacts = artifacts.map(|(index, made)| (artifact(id, index), made.name.as_str(), made.hash));
    for (entity, label, hash) in streams.into_iter().chain(artifacts) {
        // It may stand there as somebody's file already, under that file's name.
        if let Some(Value::Object(entities)) = document.0.get_mut("entity") {
            entities.remove(&entity);
        }
        document.put("entity", entity.clone(), json!({"prov:label": label, "tako:sha256": hash}));
        let generated = json!({"prov:entity": entity, "prov:activity": activity(id), "prov:time": moments.ended_at});
        document.say("wasGeneratedBy", generated);
    }
}

fn used(document: &mut Document, id: Uuid, entity: &str, role: &str) {
    document.say("used", json!({"prov:activity": activity(id), "prov:entity": entity, "prov:role": role}));
}

fn activity(id: Uuid) -> String {
    format!("tako:execution.{id}")
}

fn by_hash(kind: &str, hash: Digest) -> String {
    format!("tako:{kind}.{hash}")
}

/// Artifacts have any name; a qualified name may not.
fn artifact(id: Uuid, index: usize) -> String {
    format!("tako:artifact.{id}.{index}")
}

fn place(graph: &Graph<'_>, id: Uuid, name: &str) -> Option<String> {
    let observed = view::observed(&graph.members.get(&id)?.record)?;
    let index = observed.artifacts.iter().position(|made| made.name == name)?;
    Some(artifact(id, index))
}

fn qname(name: &str) -> Value {
    json!({"$": name, "type": "prov:QUALIFIED_NAME"})
}

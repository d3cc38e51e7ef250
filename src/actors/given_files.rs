//! The input files of a submission: bytes that came with it, and artifacts of other executions.

use std::collections::HashMap;

use bytes::Bytes;
use uuid::Uuid;

use super::intake::Doors;
use super::refusal::Refusal;
use super::submission::{FieldFault, Given};
use crate::domain::{Digest, Ending, ExecutionRecord, FileSource, InputFile};
use crate::store;

/// Files as the log names them, and the bytes that must be kept for them.
#[derive(Default)]
pub(super) struct GivenFiles {
    pub files: Vec<InputFile>,
    pub blobs: Vec<store::Blob>,
}

impl Doors {
    /// Finds out which bytes each file has. An artifact must be one of the tenant's own, of an
    /// execution that has ended, and still be kept.
    pub(super) async fn given_files(&self, tenant: &str, given: &[(String, Given)]) -> Result<GivenFiles, Refusal> {
        let sources = self.sources(tenant, given).await?;
        let mut found = GivenFiles::default();
        let mut faults = Vec::new();
        let mut taken_bytes = 0;
        for (name, given) in given {
            match given {
                Given::Bytes(bytes) => {
                    let blob = store::Blob::new(Bytes::clone(bytes));
                    let (hash, bytes) = (blob.hash(), bytes.len() as u64);
                    found.files.push(InputFile { name: name.clone(), hash, bytes, source: None });
                    found.blobs.push(blob);
                }
                Given::Artifact(source) => match artifact(&sources, source) {
                    Ok((hash, bytes)) => {
                        taken_bytes += bytes;
                        if bytes == 0 {
                            // Nobody keeps the bytes of an artifact that has none.
                            found.blobs.push(store::Blob::new(Bytes::new()));
                        }
                        found.files.push(InputFile { name: name.clone(), hash, bytes, source: Some(source.clone()) });
                    }
                    Err(message) => faults.push(fault(name, message)),
                },
            }
        }
        let most = self.config.limits.max_artifacts_total_bytes;
        if taken_bytes > most {
            let message = format!("take {taken_bytes} bytes of artifacts, more than the limit of {most}");
            faults.push(FieldFault { field: "files".to_owned(), message, is_size: true });
        }
        let taken = found.files.iter().filter(|file| file.source.is_some() && file.bytes > 0);
        let hashes: Vec<Digest> = taken.map(|file| file.hash).collect();
        if !hashes.is_empty() {
            let gone = self.store.hold_blobs(&hashes).await?;
            let gone = found.files.iter().filter(|file| file.source.is_some() && gone.contains(&file.hash));
            faults.extend(gone.map(|file| fault(&file.name, format!("(sha256 {}) is no longer kept", file.hash))));
        }
        if faults.is_empty() { Ok(found) } else { Err(Refusal::Invalid { faults }) }
    }

    async fn sources(
        &self,
        tenant: &str,
        given: &[(String, Given)],
    ) -> Result<HashMap<Uuid, ExecutionRecord>, Refusal> {
        let mut ids: Vec<_> = given
            .iter()
            .filter_map(|(_, given)| match given {
                Given::Artifact(source) => Some(source.execution_id),
                Given::Bytes(_) => None,
            })
            .collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        ids.sort_unstable();
        ids.dedup();
        let records = self.store.records(&ids).await?.into_iter().map(|stored| stored.record);
        let own = records.filter(|record| record.submitted.tenant == tenant);
        Ok(own.map(|record| (record.execution_id, record)).collect())
    }
}

/// The artifact's hash and size, or what is wrong with asking for it.
fn artifact(sources: &HashMap<Uuid, ExecutionRecord>, source: &FileSource) -> Result<(Digest, u64), String> {
    let FileSource { execution_id, name } = source;
    let record =
        sources.get(execution_id).ok_or_else(|| format!("names execution {execution_id}, which does not exist"))?;
    let Some(ending) = record.ending() else {
        return Err(format!("names execution {execution_id}, which has not ended yet; wait for its result first"));
    };
    let made = Ending::observed(ending).map(|observed| observed.artifacts.as_slice()).unwrap_or_default();
    let found = made.iter().find(|made| made.name == *name);
    found.map(|made| (made.hash, made.bytes)).ok_or_else(|| {
        let shown: String = name.chars().take(60).collect();
        format!("names artifact {shown:?}, which execution {execution_id} did not make")
    })
}

fn fault(name: &str, message: String) -> FieldFault {
    let shown: String = name.chars().take(60).collect();
    FieldFault { field: format!("files[{shown:?}]"), message, is_size: false }
}

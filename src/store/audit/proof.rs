//! What shows somebody without the database that events were in a sealed log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::Wrong;
use super::keys::PublicKey;
use super::merkle;
use super::seal::Seal;
use super::verify::Trust;
use crate::domain::Digest;
use crate::store::append::StreamKind;
use crate::store::chain::{Broken, Link, Verifier};

/// What a proof says it is.
const FORMAT: &str = "tako-vm proof v1";

/// The events of an execution so far, each with its way to the root of the seal that covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    format: String,
    pub execution_id: Uuid,
    pub events: Vec<ProofEvent>,
    /// Those that cover the events.
    pub seals: Vec<Seal>,
}

/// An event with all that its hash covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofEvent {
    pub position: i64,
    pub version: i32,
    pub event_id: Uuid,
    #[serde(rename = "type")]
    pub event_type: String,
    pub schema_version: i16,
    pub recorded_at: DateTime<Utc>,
    pub actor: String,
    pub correlation_id: Option<String>,
    pub causation_id: Option<Uuid>,
    /// The JSON text inside a string, so that whoever formats the proof does not change it.
    pub payload: String,
    pub prev_hash: Option<Digest>,
    pub hash: Digest,
    /// `None` for an event that no seal covers yet.
    pub seal_no: Option<i64>,
    /// The siblings on the way from the event's leaf to the seal's root, the lowest first.
    pub path: Vec<Digest>,
}

/// What a proof that holds shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Events that a seal covers; they are the first ones.
    pub sealed: usize,
    /// Events at the end that no seal covers yet. Their chain holds.
    pub unsealed: usize,
    /// Who signed the seals.
    pub keys: Vec<PublicKey>,
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refuted {
    #[error("it says that it is {0:?}, not {FORMAT:?}")]
    Format(String),
    #[error("it has no events")]
    Empty,
    #[error(transparent)]
    Chain(#[from] Broken),
    #[error("version {version} stands at position {position}, not behind the event before it")]
    Position { version: i32, position: i64 },
    #[error("seal {seal_no}: {wrong}")]
    Seal { seal_no: i64, wrong: Wrong },
    #[error("version {version} names a seal that is not there, or that does not cover its position")]
    NoSuchSeal { version: i32 },
    #[error("version {version} does not lead to the root of seal {seal_no}")]
    Path { version: i32, seal_no: i64 },
    #[error("version {version} is sealed, but one before it is not")]
    Gap { version: i32 },
}

impl Proof {
    pub(super) fn new(execution_id: Uuid, events: Vec<ProofEvent>, seals: Vec<Seal>) -> Self {
        Self { format: FORMAT.to_owned(), execution_id, events, seals }
    }

    /// Whether a seal covers every event.
    pub fn is_complete(&self) -> bool {
        self.events.iter().all(|event| event.seal_no.is_some())
    }

    /// Checks the proof, from nothing but itself and whom to believe.
    ///
    /// # Errors
    /// The first thing in it that does not fit.
    pub fn check(&self, trust: &Trust) -> Result<Proven, Refuted> {
        if self.format != FORMAT {
            return Err(Refuted::Format(self.format.chars().take(80).collect()));
        }
        if self.events.is_empty() {
            return Err(Refuted::Empty);
        }
        for seal in &self.seals {
            let refuted = |wrong| Refuted::Seal { seal_no: seal.seal_no, wrong };
            if seal.computed_hash() != seal.hash || seal.event_count != seal.last_position - seal.first_position + 1 {
                return Err(refuted(Wrong::SealChanged));
            }
            trust.judge(seal).map_err(refuted)?;
        }
        let mut chain = Verifier::default();
        let mut position = 0;
        let mut sealed = 0;
        for (index, event) in self.events.iter().enumerate() {
            let version = event.version;
            chain.push(&event.link(self.execution_id), event.prev_hash.as_ref(), &event.hash)?;
            if event.position <= position {
                return Err(Refuted::Position { version, position: event.position });
            }
            position = event.position;
            let Some(seal_no) = event.seal_no else { continue };
            if sealed < index {
                return Err(Refuted::Gap { version });
            }
            sealed += 1;
            let seal = self.seals.iter().find(|seal| seal.seal_no == seal_no && seal.covers(position));
            let seal = seal.ok_or(Refuted::NoSuchSeal { version })?;
            let leaf = merkle::leaf(position, StreamKind::Execution as i16, &event.hash);
            let index = (position - seal.first_position).unsigned_abs();
            let root = merkle::root_of_path(leaf, index, seal.event_count.unsigned_abs(), &event.path);
            if root != Some(seal.root) {
                return Err(Refuted::Path { version, seal_no });
            }
        }
        let mut keys: Vec<PublicKey> = Vec::new();
        for key in self.seals.iter().filter_map(|seal| seal.public_key.as_ref()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        Ok(Proven { sealed, unsealed: self.events.len() - sealed, keys })
    }
}

impl ProofEvent {
    fn link(&self, stream_id: Uuid) -> Link<'_> {
        Link {
            stream_id,
            version: self.version,
            event_id: self.event_id,
            event_type: &self.event_type,
            schema_version: self.schema_version,
            recorded_at: self.recorded_at,
            actor: &self.actor,
            correlation_id: self.correlation_id.as_deref(),
            causation_id: self.causation_id,
            payload: &self.payload,
        }
    }
}

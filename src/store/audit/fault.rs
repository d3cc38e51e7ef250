//! What can be wrong with a log.

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::keys::PublicKey;

/// One record that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Of the event; of the first one that is concerned, where it is about several.
    pub position: Option<i64>,
    pub stream_id: Option<Uuid>,
    pub version: Option<i32>,
    pub seal_no: Option<i64>,
    #[serde(flatten)]
    pub wrong: Wrong,
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Positions have no gaps, so somebody removed what stood there.
    #[error("the events at positions {first} to {last} are missing")]
    Missing { first: i64, last: i64 },
    #[error("there is more than one event at this position")]
    Doubled,
    #[error("{column} holds what this program never writes")]
    Unreadable { column: &'static str },
    #[error("the event is not what its hash was made of")]
    Changed,
    #[error("it is version {found} of its stream, where version {expected} belongs")]
    OutOfOrder { expected: i32, found: i32 },
    #[error("the event before it in its stream is missing, or stands behind it")]
    Orphan,
    #[error("it does not carry the hash of the event before it in its stream")]
    Unlinked,
    /// Each event fits its own hash, but not all are the ones that were sealed.
    #[error(
        "the events at positions {first} to {last} are not those that were sealed: one was replaced, inserted, moved or removed"
    )]
    NotTheSealed { first: i64, last: i64 },
    #[error("the seal is missing")]
    SealMissing,
    #[error("the seal is not what its hash was made of")]
    SealChanged,
    #[error("the seal does not carry the hash of the one before it")]
    SealUnlinked,
    #[error("the seal begins at position {found}, where {expected} belongs")]
    SealRange { expected: i64, found: i64 },
    #[error("the signature is not one of the key that the seal names")]
    BadSignature,
    #[error("the seal is signed by the key {key}, which is not trusted")]
    UntrustedKey { key: PublicKey },
    #[error("nobody signed the seal")]
    Unsigned,
    #[error("the log ends at position {log_end}, but the seal covers positions up to {last}: its tail was cut off")]
    CutOff { last: i64, log_end: i64 },
    #[error("the seal kept elsewhere is itself not what its hash or signature was made of")]
    AnchorBroken,
    #[error(
        "the seal kept elsewhere covers positions up to {last}, but the log has no such seal any more: its tail was cut off"
    )]
    AnchorGone { last: i64 },
    #[error("the seal is not the one that was kept elsewhere: the history before it was made anew")]
    AnchorDiffers,
    #[error("line {line} of the archive cannot be read: {why}")]
    Line { line: u64, why: String },
    #[error("the archive does not end as it was written: it says {said}, but {found} were read")]
    ArchiveCounts { said: String, found: String },
    #[error("the archive ends without its last line: it was cut off")]
    ArchiveCutOff,
    #[error("the events from position {first} on stand under no seal of the archive")]
    NotSealed { first: i64 },
}

impl Wrong {
    /// One word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Doubled => "doubled",
            Self::Unreadable { .. } => "unreadable",
            Self::Changed => "changed",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::Orphan => "orphan",
            Self::Unlinked => "unlinked",
            Self::NotTheSealed { .. } => "not_the_sealed",
            Self::SealMissing => "seal_missing",
            Self::SealChanged => "seal_changed",
            Self::SealUnlinked => "seal_unlinked",
            Self::SealRange { .. } => "seal_range",
            Self::BadSignature => "bad_signature",
            Self::UntrustedKey { .. } => "untrusted_key",
            Self::Unsigned => "unsigned",
            Self::CutOff { .. } => "cut_off",
            Self::AnchorBroken => "anchor_broken",
            Self::AnchorGone { .. } => "anchor_gone",
            Self::AnchorDiffers => "anchor_differs",
            Self::Line { .. } => "line",
            Self::ArchiveCounts { .. } => "archive_counts",
            Self::ArchiveCutOff => "archive_cut_off",
            Self::NotSealed { .. } => "not_sealed",
        }
    }
}

/// As `kind` and `what`.
impl Serialize for Wrong {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut fields = serializer.serialize_map(Some(2))?;
        fields.serialize_entry("kind", self.kind())?;
        fields.serialize_entry("what", &self.to_string())?;
        fields.end()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        let mut part = |f: &mut std::fmt::Formatter<'_>, name, value: Option<String>| {
            let Some(value) = value else { return Ok(()) };
            let result = write!(f, "{separator}{name} {value}");
            separator = ", ";
            result
        };
        part(f, "seal", self.seal_no.map(|number| number.to_string()))?;
        part(f, "position", self.position.map(|position| position.to_string()))?;
        part(f, "stream", self.stream_id.map(|id| id.to_string()))?;
        part(f, "version", self.version.map(|version| version.to_string()))?;
        write!(f, ": {}", self.wrong)
    }
}

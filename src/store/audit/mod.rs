//! Proof that the log is what it was: seals over ranges of positions, and their verification.
//!
//! A [`Seal`] is the root of a [`merkle`] tree over the events at some positions, with the hash
//! of the seal before it, signed. [`Store::seal_next`](super::Store::seal_next) makes them,
//! [`Store::verify_log`](super::Store::verify_log) holds the whole log against them and names each
//! [`Fault`], and a [`Proof`] shows somebody without the database that an execution's events were
//! sealed. `docs/audit.md` tells all of it, to the byte.

mod archive;
mod archive_check;
mod checked;
mod fault;
mod heads;
mod keys;
pub mod merkle;
mod parquet;
mod proof;
mod proving;
mod seal;
mod sealing;
mod verify;
mod walk;

pub use archive::{Exported, NotExported};
pub use archive_check::verify_archives;
pub use fault::{Fault, Wrong};
pub use keys::{NotAKey, PublicKey, Signature, SigningKey};
pub use parquet::{NotConverted, to_parquet};
pub use proof::{Proof, ProofEvent, Proven, Refuted};
pub use seal::Seal;
pub use sealing::{SealEnd, Sealing};
pub use verify::{Progress, Trust, Verification, Verified};

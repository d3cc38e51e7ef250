//! Checking the log against its hashes.

use super::chain::{Broken, Verifier};
use super::database::Store;
use super::error::Error;
use super::streams::Streams;

/// What a walk through all streams found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub events: u64,
    pub streams: u64,
    /// The first thing wrong of each broken stream, at most 100.
    pub broken: Vec<Broken>,
}

const MAX_BROKEN: usize = 100;

impl Store {
    /// Recomputes every hash of every stream. A changed, removed or reordered event is found; a
    /// stream cut at its end is not, for that takes a seal of the log.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for a row that does not read.
    pub async fn verify_chains(&self) -> Result<Verified, Error> {
        let mut verified = Verified::default();
        let mut streams = Streams::new(self, None);
        while let Some(events) = streams.next().await? {
            verified.events += events.len() as u64;
            for stream in events.chunk_by(|one, next| one.stream_id == next.stream_id) {
                verified.streams += 1;
                let mut verifier = Verifier::default();
                let result = stream
                    .iter()
                    .try_for_each(|event| verifier.push(&event.link(), event.prev_hash.as_ref(), &event.hash));
                if let Err(broken) = result
                    && verified.broken.len() < MAX_BROKEN
                {
                    verified.broken.push(broken);
                }
            }
        }
        Ok(verified)
    }
}

//! The full check of a log, straight from the database.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::checked::{self, Checked};
use super::fault::{Fault, Wrong};
use super::keys::PublicKey;
use super::seal::Seal;
use super::walk::Walk;
use crate::store::database::Store;
use crate::store::error::Error;

/// Positions that are copied and hashed together.
const PAGE: i64 = 8192;

/// Seals that are read at once.
const SEALS: u32 = 1000;

/// Whom to believe.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Who may sign seals. Without any, a signature says only that one key made it.
    pub keys: Vec<PublicKey>,
    /// Take seals that nobody signed, where there are `keys`.
    pub allow_unsigned: bool,
    /// Seals that were kept elsewhere: the log must still have them.
    pub anchors: Vec<Seal>,
}

impl Trust {
    /// Whether a seal's signature is to be believed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, seal: &Seal) -> Result<(), Wrong> {
        match &seal.public_key {
            None if self.keys.is_empty() || self.allow_unsigned => Ok(()),
            None => Err(Wrong::Unsigned),
            Some(_) if !seal.is_signed() => Err(Wrong::BadSignature),
            Some(key) if !self.keys.is_empty() && !self.keys.contains(key) => {
                Err(Wrong::UntrustedKey { key: key.clone() })
            }
            Some(_) => Ok(()),
        }
    }
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct Verification {
    pub trust: Trust,
    /// Go on behind this seal, which an earlier verification found to be right; 0 begins with
    /// the log.
    pub since_seal: i64,
    /// Stop at the end of a seal before so many events; a single seal is always read to its end.
    pub at_most: u64,
    /// Pages that are read and hashed at the same time. Each takes a connection.
    pub lanes: usize,
}

impl Default for Verification {
    /// Everything, as fast as it goes.
    fn default() -> Self {
        Self { trust: Trust::default(), since_seal: 0, at_most: u64::MAX, lanes: 4 }
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub events: u64,
    pub of: u64,
}

/// What a verification read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub events: u64,
    /// Positions whose events were archived and dropped: their seals alone are looked at here.
    pub archived: u64,
    /// Streams that begin among the events.
    pub streams: u64,
    pub first_position: i64,
    pub last_position: i64,
    pub seals: u64,
    /// Those of the seals that name who signed them.
    pub signed: u64,
    /// The last seal that was looked at; 0 for none. The next verification may begin behind it.
    pub last_seal: i64,
    /// Up to here the events are those that were sealed.
    pub sealed_through: i64,
    /// Whether it came to the end of the log.
    pub complete: bool,
    /// The first things that are wrong, in the order of the log.
    pub faults: Vec<Fault>,
    /// All of them.
    pub fault_count: u64,
    #[serde(skip)]
    pub took: Duration,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.fault_count == 0
    }
}

impl Store {
    /// Recomputes the hash of every event from its stored bytes, follows every stream's chain,
    /// and holds the events against the seals, these against one another and against `anchors`.
    ///
    /// What was appended after the call began is not looked at. Memory is bounded. It says where
    /// it is after each page.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for a seal that does not read at all. A log that
    /// was tampered with is no error, but has faults.
    pub async fn verify_log(
        &self,
        verification: &Verification,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Verified, Error> {
        let start = Instant::now();
        let log = self.seal_end().await?;
        let base = match verification.since_seal {
            0 => None,
            number => self.seals(number - 1, 1).await?.into_iter().find(|seal| seal.seal_no == number),
        };
        let mut walk = Walk::after(base.clone(), &verification.trust);
        for anchor in &verification.trust.anchors {
            if anchor.computed_hash() != anchor.hash || verification.trust.judge(anchor).is_err() {
                walk.say_of_seal(anchor.seal_no, Some(anchor.first_position), Wrong::AnchorBroken);
            }
        }
        if base.is_none() && verification.since_seal > 0 {
            walk.say_of_seal(verification.since_seal, None, Wrong::SealMissing);
        }
        let first = walk.verified.first_position;
        let end = self.end(first, log.newest, verification.at_most).await?;
        let is_complete = end == log.newest;
        let mut seals = Seals {
            store: self,
            after: walk.verified.last_seal,
            last: log.seal_no,
            end: if is_complete { i64::MAX } else { end },
            through: first - 1,
        };

        let pages = (first..=end).step_by(PAGE as usize).map(|from| self.page(from, (from + PAGE - 1).min(end)));
        let mut pages = stream::iter(pages).buffered(verification.lanes.max(1));
        let of = u64::try_from(end - first + 1).unwrap_or_default();
        while let Some(page) = pages.try_next().await? {
            let Some(last) = page.last() else { continue };
            for (seal, is_elsewhere) in seals.up_to(last.position).await? {
                walk.admit_with(seal, is_elsewhere);
            }
            let unknown = walk.unknown(&page);
            walk.heads.look_up(self, &unknown).await?;
            walk.push(&page);
            progress(Progress { events: walk.verified.events, of });
        }
        if is_complete {
            for (seal, is_elsewhere) in seals.up_to(i64::MAX).await? {
                walk.admit_with(seal, is_elsewhere);
            }
        }
        walk.finish(end, is_complete.then_some(log.newest));
        Ok(Verified { complete: is_complete, took: start.elapsed(), ..walk.verified })
    }

    /// Where to stop: at the log's end if it is near enough, else where a seal ends.
    async fn end(&self, first: i64, newest: i64, at_most: u64) -> Result<i64, Error> {
        let far = first.saturating_add(i64::try_from(at_most).unwrap_or(i64::MAX)).saturating_sub(1);
        if newest <= far {
            return Ok(newest);
        }
        let of_a_seal: Option<i64> = sqlx::query_scalar(
            "SELECT coalesce((SELECT max(last_position) FROM seals WHERE last_position BETWEEN $1 AND $2), \
                             (SELECT min(last_position) FROM seals WHERE last_position >= $1))",
        )
        .bind(first)
        .bind(far)
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("read seals"))?;
        Ok(of_a_seal.unwrap_or(far).min(newest))
    }

    /// Those of the seals behind one and up to another whose events were all archived.
    pub(super) async fn archived_seals(&self, after: i64, last: i64) -> Result<HashSet<i64>, Error> {
        let numbers: Vec<i64> =
            sqlx::query_scalar("SELECT seal_no FROM archived_seals WHERE seal_no > $1 AND seal_no <= $2")
                .bind(after)
                .bind(last)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("read archived seals"))?;
        Ok(numbers.into_iter().collect())
    }

    async fn page(&self, first: i64, last: i64) -> Result<Vec<Checked>, Error> {
        // Twice the page, should somebody have doubled positions.
        let copied = self
            .copy_events(&format!("position BETWEEN {first} AND {last}"), "position, stream_id, version", 2 * PAGE)
            .await?;
        let archived: Vec<(i64, i16, [u8; 32])> =
            sqlx::query_as("SELECT position, stream_kind, hash FROM archived_leaves WHERE position BETWEEN $1 AND $2")
                .bind(first)
                .bind(last)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("read archived leaves"))?;
        let mut checked = match tokio::task::spawn_blocking(move || checked::check(&copied)).await {
            Ok(checked) => checked?,
            Err(lost) => std::panic::resume_unwind(lost.into_panic()),
        };
        if !archived.is_empty() {
            let leaf =
                |(position, kind, hash)| Checked::archived(position, kind, &crate::domain::Digest::from_bytes(hash));
            checked.extend(archived.into_iter().map(leaf));
            checked.sort_by_key(|checked| checked.position);
        }
        Ok(checked)
    }
}

/// The seals, read as they are needed.
struct Seals<'a> {
    store: &'a Store,
    after: i64,
    /// The newest there was when the verification began.
    last: i64,
    /// Seals that go beyond it are not looked at.
    end: i64,
    /// Seals are loaded up to here.
    through: i64,
}

impl Seals<'_> {
    /// Those not yet given of which one covers something up to the position, and whether their events were
    /// all archived.
    async fn up_to(&mut self, position: i64) -> Result<Vec<(Seal, bool)>, Error> {
        let mut seals = Vec::new();
        while self.through < position && self.after < self.last {
            let mut page = self.store.seals(self.after, SEALS).await?;
            page.retain(|seal| seal.seal_no <= self.last && seal.last_position <= self.end);
            let Some(last) = page.last() else {
                self.after = self.last;
                break;
            };
            let elsewhere = self.store.archived_seals(self.after, last.seal_no).await?;
            self.after = last.seal_no;
            self.through = self.through.max(last.last_position);
            seals.extend(page.into_iter().map(|seal| {
                let is_elsewhere = elsewhere.contains(&seal.seal_no);
                (seal, is_elsewhere)
            }));
        }
        Ok(seals)
    }
}

//! Holding events and seals against each other, in the order of positions.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

use super::checked::{Checked, Found, Own};
use super::fault::{Fault, Wrong};
use super::heads::Heads;
use super::merkle::Growing;
use super::seal::Seal;
use super::verify::{Trust, Verified};
use crate::domain::Digest;

/// Faults that are told one by one; the others are counted.
const MAX_FAULTS: usize = 100;

/// Goes through checked events and loaded seals. No I/O: whoever drives it loads seals that cover
/// what comes, and the heads that [`Walk::unknown`] asks for.
pub(super) struct Walk<'a> {
    trust: &'a Trust,
    pub heads: Heads,
    /// The position that must come next.
    next: i64,
    /// Admitted seals whose last event has not come yet, in their order.
    open: VecDeque<Open>,
    /// The seal that was admitted last.
    newest: Option<Seal>,
    begins_late: bool,
    pub verified: Verified,
}

struct Open {
    seal: Seal,
    tree: Growing,
    /// An event of it is missing or unreadable, so that its root cannot fit.
    is_incomplete: bool,
    /// All its events were archived: it links the seals, and its root shows nothing here.
    is_elsewhere: bool,
}

impl<'a> Walk<'a> {
    /// After a seal that is taken as it is, or from the beginning.
    pub(super) fn after(base: Option<Seal>, trust: &'a Trust) -> Self {
        let next = base.as_ref().map_or(1, |seal| seal.last_position + 1);
        let mut walk = Self {
            trust,
            heads: Heads::default(),
            next,
            open: VecDeque::new(),
            newest: None,
            begins_late: base.is_some(),
            verified: Verified { first_position: next, last_position: next - 1, ..Verified::default() },
        };
        if let Some(base) = &base {
            walk.verified.sealed_through = base.last_position;
            walk.verified.last_seal = base.seal_no;
            walk.vouch(base);
        }
        walk.newest = base;
        walk
    }

    /// Takes the next seal.
    pub(super) fn admit(&mut self, seal: Seal) {
        self.admit_with(seal, false);
    }

    /// Takes the next seal; all its events may have been archived.
    pub(super) fn admit_with(&mut self, seal: Seal, is_elsewhere: bool) {
        let previous = self.newest.as_ref();
        let expected = previous.map_or(0, |previous| previous.seal_no) + 1;
        if seal.seal_no > expected {
            self.say_of_seal(expected, None, Wrong::SealMissing);
        } else if seal.previous_hash != previous.map(|previous| previous.hash) {
            self.say_of_seal(seal.seal_no, Some(seal.first_position), Wrong::SealUnlinked);
        }
        let begins = self.newest.as_ref().map_or(0, |previous| previous.last_position) + 1;
        if seal.first_position != begins && seal.seal_no <= expected {
            let wrong = Wrong::SealRange { expected: begins, found: seal.first_position };
            self.say_of_seal(seal.seal_no, Some(seal.first_position), wrong);
        }
        self.vouch(&seal);
        self.verified.seals += 1;
        self.verified.last_seal = seal.seal_no;
        let is_incomplete = seal.first_position < self.next;
        self.open.push_back(Open { seal: seal.clone(), tree: Growing::default(), is_incomplete, is_elsewhere });
        self.newest = Some(seal);
    }

    /// The seal by itself: its hash, who signed it, and whether it is the one kept elsewhere.
    fn vouch(&mut self, seal: &Seal) {
        let at = Some(seal.first_position);
        if seal.computed_hash() != seal.hash || seal.event_count != seal.last_position - seal.first_position + 1 {
            self.say_of_seal(seal.seal_no, at, Wrong::SealChanged);
        }
        if let Err(wrong) = self.trust.judge(seal) {
            self.say_of_seal(seal.seal_no, at, wrong);
        }
        if seal.public_key.is_some() {
            self.verified.signed += 1;
        }
        if self.trust.anchors.iter().any(|anchor| anchor.seal_no == seal.seal_no && anchor.hash != seal.hash) {
            self.say_of_seal(seal.seal_no, at, Wrong::AnchorDiffers);
        }
    }

    /// The streams in a page whose last event so far is not known: stream, version and position of
    /// the first event of each.
    pub(super) fn unknown(&self, page: &[Checked]) -> Vec<(Uuid, i32, i64)> {
        let mut seen = HashSet::new();
        let unknown = page.iter().filter_map(|checked| {
            let own = checked.own()?;
            let is_first = self.heads.get(&own.stream_id).is_none() && seen.insert(own.stream_id);
            (is_first && own.version > 1).then_some((own.stream_id, own.version, checked.position))
        });
        unknown.collect()
    }

    /// Takes the next events.
    pub(super) fn push(&mut self, page: &[Checked]) {
        for checked in page {
            self.push_one(checked);
        }
    }

    fn push_one(&mut self, checked: &Checked) {
        let position = checked.position;
        self.pass(position - 1);
        self.close_before(position);
        if position > self.next {
            self.miss(self.next, position - 1);
        } else if position < self.next {
            self.say(Some(position), None, Wrong::Doubled);
            self.spoil(position);
            return;
        }
        self.next = position + 1;
        self.verified.last_position = position;
        if let Found::Archived(leaf) = checked.event {
            self.verified.archived += 1;
            self.grow(position, leaf);
            return;
        }
        self.verified.events += 1;
        match checked.event {
            Found::Archived(_) => {}
            Found::Unreadable(column) => {
                self.say(Some(position), None, Wrong::Unreadable { column });
                self.spoil(position);
            }
            Found::Here(own) => {
                self.follow(position, &own);
                self.grow(position, own.leaf);
            }
        }
    }

    fn grow(&mut self, position: i64, leaf: Digest) {
        if let Some(open) = self.open.iter_mut().find(|open| open.seal.covers(position)) {
            open.tree.push(leaf);
        }
    }

    /// Goes over what stands under seals of which nothing is here, up to a position.
    fn pass(&mut self, last: i64) {
        while self.next <= last {
            let next = self.next;
            let Some(open) = self.open.iter().find(|open| open.seal.covers(next)) else { return };
            if !open.is_elsewhere {
                return;
            }
            let end = last.min(open.seal.last_position);
            self.verified.archived += (end - next + 1).unsigned_abs();
            self.verified.last_position = end;
            self.next = end + 1;
        }
    }

    /// The event by itself, and after the one before it in its stream.
    fn follow(&mut self, position: i64, own: &Own) {
        if !own.fits {
            self.say(Some(position), Some(own), Wrong::Changed);
        }
        match self.heads.get(&own.stream_id) {
            None if own.version == 1 => {
                self.verified.streams += 1;
                if own.prev_hash.is_some() {
                    self.say(Some(position), Some(own), Wrong::Unlinked);
                }
            }
            None => self.say(Some(position), Some(own), Wrong::Orphan),
            Some((version, _)) if own.version != version + 1 => {
                let wrong = Wrong::OutOfOrder { expected: version + 1, found: own.version };
                self.say(Some(position), Some(own), wrong);
            }
            Some((_, hash)) => {
                if own.prev_hash != Some(hash) {
                    self.say(Some(position), Some(own), Wrong::Unlinked);
                }
            }
        }
        self.heads.set(own.stream_id, (own.version, own.hash));
    }

    /// Ends at a position; `log_end` is the log's own, where it was read to it.
    pub(super) fn finish(&mut self, end: i64, log_end: Option<i64>) {
        self.pass(end);
        if self.next <= end {
            self.miss(self.next, end);
        }
        self.close_before(end + 1);
        let Some(log_end) = log_end else { return };
        self.find_cut_off(log_end);
        let newest = self.newest.as_ref().map_or(0, |seal| seal.seal_no);
        if let Some(anchor) =
            self.trust.anchors.iter().filter(|anchor| anchor.seal_no > newest).min_by_key(|a| a.seal_no)
        {
            let wrong = Wrong::AnchorGone { last: anchor.last_position };
            self.say_of_seal(anchor.seal_no, Some(anchor.first_position), wrong);
        }
    }

    fn find_cut_off(&mut self, log_end: i64) {
        if let Some(open) = self.open.front() {
            let (number, first, last) = (open.seal.seal_no, open.seal.first_position, open.seal.last_position);
            let at = first.max(log_end + 1);
            self.say_of_seal(number, Some(at), Wrong::CutOff { last, log_end });
        }
    }

    /// Ends with an archive, in which every event is under a seal and every seal whole. It need not reach
    /// the anchors.
    pub(super) fn finish_archive(&mut self) {
        let elsewhere = self.open.iter().rev().take_while(|open| open.is_elsewhere);
        let end = elsewhere.map(|open| open.seal.last_position).max().unwrap_or(0).max(self.next - 1);
        self.finish(end, None);
        self.find_cut_off(end);
        let sealed = self.newest.as_ref().map_or(0, |seal| seal.last_position);
        if sealed < end {
            self.say(Some(sealed + 1), None, Wrong::NotSealed { first: sealed + 1 });
        }
    }

    /// Takes events whose streams may have begun before what is walked over, and cannot be looked up.
    pub(super) fn push_without_look_up(&mut self, page: &[Checked]) {
        if self.begins_late || self.heads.has_forgotten() {
            for checked in page {
                let Some(own) = checked.own() else { continue };
                // Its seal vouches for what it says of the event before it.
                if let (None, Some(previous)) = (self.heads.get(&own.stream_id), own.prev_hash)
                    && own.version > 1
                {
                    self.heads.set(own.stream_id, (own.version - 1, previous));
                }
            }
        }
        self.push(page);
    }

    /// Closes the seals whose events must all have come before a position.
    fn close_before(&mut self, position: i64) {
        while self.open.front().is_some_and(|open| open.seal.last_position < position) {
            let Some(Open { seal, tree, is_incomplete, is_elsewhere }) = self.open.pop_front() else { return };
            let (first, last) = (seal.first_position, seal.last_position);
            if self.next <= last {
                // Told as missing in a moment, or as cut off.
                continue;
            }
            if is_elsewhere && tree.leaves() == 0 {
                self.verified.sealed_through = last;
                continue;
            }
            let fits = tree.leaves() == seal.event_count.unsigned_abs() && tree.root() == Some(seal.root);
            if fits {
                self.verified.sealed_through = last;
            } else if !is_incomplete {
                self.say_of_seal(seal.seal_no, Some(first), Wrong::NotTheSealed { first, last });
            }
        }
    }

    fn miss(&mut self, first: i64, last: i64) {
        self.say(Some(first), None, Wrong::Missing { first, last });
        for open in &mut self.open {
            open.is_incomplete |= open.seal.first_position <= last && open.seal.last_position >= first;
        }
    }

    fn spoil(&mut self, position: i64) {
        for open in self.open.iter_mut().filter(|open| open.seal.covers(position)) {
            open.is_incomplete = true;
        }
    }

    pub(super) fn say_of_file(&mut self, wrong: Wrong) {
        self.tell(Fault { position: None, stream_id: None, version: None, seal_no: None, wrong });
    }

    pub(super) fn say_of_seal(&mut self, seal_no: i64, position: Option<i64>, wrong: Wrong) {
        self.tell(Fault { position, stream_id: None, version: None, seal_no: Some(seal_no), wrong });
    }

    fn say(&mut self, position: Option<i64>, own: Option<&Own>, wrong: Wrong) {
        let (stream_id, version) = (own.map(|own| own.stream_id), own.map(|own| own.version));
        self.tell(Fault { position, stream_id, version, seal_no: None, wrong });
    }

    fn tell(&mut self, fault: Fault) {
        self.verified.fault_count += 1;
        if self.verified.faults.len() < MAX_FAULTS {
            self.verified.faults.push(fault);
        }
    }
}

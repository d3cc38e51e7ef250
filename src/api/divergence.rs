//! What differs between a replay and its original, for people: made from the blobs each time it
//! is asked for, because the log keeps hashes alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use similar::TextDiff;

use super::app::App;
use super::problem::Problem;
use super::view;
use crate::domain::{
    Difference, Digest, ExecutionRecord, Normaliser, Part, ReplayVerdictRecorded, Verdict, first_difference,
};

/// Characters of one diff at most.
const MAX_DIFF: usize = 20_000;

/// Bytes of a text that a diff is made of at most.
const MAX_TEXT: usize = 1 << 20;

/// Characters of one value in an output at most; a longer one is told by its beginning.
const MAX_VALUE: usize = 2_000;

/// Names of artifacts that differ, at most.
const MAX_NAMES: usize = 100;

/// How long one diff may take; what was found by then is shown.
const PATIENCE: Duration = Duration::from_millis(200);

/// The recorded differences, each with what it looks like where the bytes are still kept.
pub async fn shown(
    app: &App,
    original: &ExecutionRecord,
    replay: &ExecutionRecord,
    recorded: &ReplayVerdictRecorded,
) -> Result<Value, Problem> {
    let Verdict::Diverged { differences } = &recorded.verdict else { return Ok(Value::Null) };
    let hashes = differences.iter().flat_map(|difference| hashes(original, replay, difference)).flatten().collect();
    let sides = Sides {
        original,
        replay,
        blobs: app.blobs(hashes).await?,
        rules: recorded.rules.iter().filter_map(|rule| Normaliser::of(rule).ok()).collect(),
    };
    Ok(differences.iter().map(|difference| sides.shown(difference)).collect())
}

/// The two blobs that a difference is about.
fn hashes(original: &ExecutionRecord, replay: &ExecutionRecord, difference: &Difference) -> [Option<Digest>; 2] {
    [original, replay].map(|record| {
        let observed = view::observed(record)?;
        match difference.part {
            Part::Status | Part::ExitCode => None,
            Part::Stdout => Some(observed.stdout.hash),
            Part::Stderr => Some(observed.stderr.hash),
            Part::Output => observed.output,
            Part::Artifacts => artifacts(record).get(difference.artifact.as_deref()?).copied(),
        }
    })
}

fn artifacts(record: &ExecutionRecord) -> BTreeMap<&str, Digest> {
    let made = view::observed(record).map(|observed| observed.artifacts.as_slice()).unwrap_or_default();
    made.iter().map(|made| (made.name.as_str(), made.hash)).collect()
}

struct Sides<'a> {
    original: &'a ExecutionRecord,
    replay: &'a ExecutionRecord,
    blobs: HashMap<Digest, Bytes>,
    rules: Vec<Normaliser>,
}

impl Sides<'_> {
    fn shown(&self, difference: &Difference) -> Value {
        let mut shown = match json!(difference) {
            Value::Object(shown) => shown,
            _ => Map::new(),
        };
        let texts = hashes(self.original, self.replay, difference).map(|hash| self.text(hash?));
        match difference.part {
            Part::Status | Part::ExitCode => {}
            Part::Stdout | Part::Stderr => self.add_diff(&mut shown, texts),
            Part::Output => self.add_output(&mut shown, texts),
            Part::Artifacts => {
                shown.insert("artifacts".to_owned(), self.artifacts());
                self.add_diff(&mut shown, texts);
            }
        }
        shown.into()
    }

    /// Text that is still kept and not too long.
    fn text(&self, hash: Digest) -> Option<&str> {
        let bytes = self.blobs.get(&hash).filter(|bytes| bytes.len() <= MAX_TEXT)?;
        std::str::from_utf8(bytes).ok()
    }

    /// A unified diff of what is left once the rules were applied.
    fn add_diff(&self, shown: &mut Map<String, Value>, texts: [Option<&str>; 2]) {
        if let [Some(original), Some(replay)] = texts {
            let [original, replay] = [original, replay].map(|text| Normaliser::apply_all(&self.rules, text));
            insert_diff(shown, &original, &replay);
        }
    }

    /// The first difference with both values, and a diff line by line.
    fn add_output(&self, shown: &mut Map<String, Value>, texts: [Option<&str>; 2]) {
        let [Some(one), Some(other)] = texts.map(|text| serde_json::from_str::<Value>(text?).ok()) else {
            return self.add_diff(shown, texts);
        };
        if let Some(first) = first_difference(&one, &other, &self.rules) {
            shown.insert("original_value".to_owned(), bounded(first.original));
            shown.insert("replay_value".to_owned(), bounded(first.replay));
        }
        let [one, other] = [one, other].map(|value| format!("{value:#}\n"));
        let [one, other] = [&one, &other].map(|text| Normaliser::apply_all(&self.rules, text));
        insert_diff(shown, &one, &other);
    }

    /// Every artifact that one side has and the other has not, or not with these bytes.
    fn artifacts(&self) -> Value {
        let (one, other) = (artifacts(self.original), artifacts(self.replay));
        let names: BTreeSet<_> = one.keys().chain(other.keys()).copied().collect();
        let differing = names.into_iter().filter(|name| one.get(name) != other.get(name)).take(MAX_NAMES);
        differing.map(|name| json!({"name": name, "original": one.get(name), "replay": other.get(name)})).collect()
    }
}

fn insert_diff(shown: &mut Map<String, Value>, original: &str, replay: &str) {
    let diff = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(original, replay)
        .unified_diff()
        .header("original", "replay")
        .to_string();
    let cut = diff.char_indices().nth(MAX_DIFF).map(|(at, _)| at);
    shown.insert("diff".to_owned(), diff.get(..cut.unwrap_or(diff.len())).into());
    if cut.is_some() {
        shown.insert("diff_truncated".to_owned(), true.into());
    }
}

/// The value, or the beginning of its text when it is long; null where there is none.
fn bounded(value: Option<&Value>) -> Value {
    let Some(value) = value else { return Value::Null };
    let text = value.to_string();
    match text.char_indices().nth(MAX_VALUE) {
        Some((at, _)) => format!("{}…", &text[..at]).into(),
        None => value.clone(),
    }
}

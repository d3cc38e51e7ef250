//! Compares a replay's result with the original's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use serde_json::Value;

use super::event::{Difference, Part, Verdict};
use super::execution_record::Ending;
use super::job::Observed;
use super::{Digest, Normaliser};

/// Larger texts are compared by their hashes alone.
const MAX_NORMALISED_BYTES: usize = 1 << 20;

/// What was observed, as the log knows it, and what of its bytes is at hand.
pub struct Comparison<'a> {
    pub original: &'a Ending,
    pub replay: &'a Ending,
    pub rules: &'a [Normaliser],
    pub blobs: &'a HashMap<Digest, Bytes>,
}

impl Comparison<'_> {
    /// The blobs that must be read to compare well: none for what is the same by its hash.
    pub fn wanted(original: &Ending, replay: &Ending, rules: &[Normaliser]) -> Vec<Digest> {
        let (Some(one), Some(other)) = (original.observed(), replay.observed()) else { return Vec::new() };
        let mut pairs = vec![(one.output, other.output)];
        if !rules.is_empty() {
            pairs.push((Some(one.stdout.hash), Some(other.stdout.hash)));
            pairs.push((Some(one.stderr.hash), Some(other.stderr.hash)));
            let (one, other) = (artifacts(one), artifacts(other));
            pairs.extend(one.iter().map(|(name, hash)| (Some(*hash), other.get(name).copied())));
        }
        let differing = pairs.into_iter().filter(|(one, other)| one != other);
        differing.flat_map(|(one, other)| [one, other]).flatten().collect()
    }

    /// Identical, or what differs.
    pub fn verdict(&self) -> Verdict {
        let mut found = Found::default();
        let (one, other) = (self.original.status(), self.replay.status());
        found.unless(one == other, Part::Status, Some(one.to_string()), Some(other.to_string()));
        match (self.original.observed(), self.replay.observed()) {
            (Some(one), Some(other)) => self.observations(one, other, &mut found),
            (None, None) => {}
            (one, other) => found.unless(false, Part::ExitCode, one.map(exit), other.map(exit)),
        }
        if found.differences.is_empty() {
            return Verdict::Identical { normalised: found.normalised };
        }
        Verdict::Diverged { differences: found.differences }
    }

    fn observations(&self, one: &Observed, other: &Observed, found: &mut Found) {
        found.unless(
            (one.exit_code, one.signal) == (other.exit_code, other.signal),
            Part::ExitCode,
            Some(exit(one)),
            Some(exit(other)),
        );
        for (part, one, other) in
            [(Part::Stdout, &one.stdout, &other.stdout), (Part::Stderr, &one.stderr, &other.stderr)]
        {
            let same = one.truncated == other.truncated && self.same(Some(one.hash), Some(other.hash), found);
            found.unless(same, part, Some(one.hash.to_string()), Some(other.hash.to_string()));
        }
        if !self.same(one.output, other.output, found) {
            let json = |hash: Option<Digest>| serde_json::from_str::<Value>(&self.text(hash?)?).ok();
            let pointer = json(one.output).zip(json(other.output)).and_then(|(one, other)| {
                first_difference(&one, &other, self.rules).map(|difference| difference.pointer)
            });
            found.differences.push(Difference { pointer, ..difference(Part::Output, one.output, other.output) });
        }
        let (one, other) = (artifacts(one), artifacts(other));
        let names: BTreeSet<_> = one.keys().chain(other.keys()).copied().collect();
        for name in names {
            let (one, other) = (one.get(name).copied(), other.get(name).copied());
            if !self.same(one, other, found) {
                let artifact = Some(name.to_owned());
                found.differences.push(Difference { artifact, ..difference(Part::Artifacts, one, other) });
                break;
            }
        }
    }

    fn same(&self, one: Option<Digest>, other: Option<Digest>, found: &mut Found) -> bool {
        if one == other {
            return true;
        }
        let (Some(one), Some(other)) = (one, other) else { return false };
        if self.rules.is_empty() {
            return false;
        }
        let (Some(one), Some(other)) = (self.text(one), self.text(other)) else { return false };
        let same = Normaliser::apply_all(self.rules, &one) == Normaliser::apply_all(self.rules, &other);
        found.normalised |= same;
        same
    }

    fn text(&self, hash: Digest) -> Option<Cow<'_, str>> {
        let bytes = self.blobs.get(&hash)?;
        if bytes.len() > MAX_NORMALISED_BYTES {
            return None;
        }
        std::str::from_utf8(bytes).ok().map(Cow::Borrowed)
    }
}

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    normalised: bool,
}

impl Found {
    fn unless(&mut self, same: bool, part: Part, original: Option<String>, replay: Option<String>) {
        if !same {
            self.differences.push(Difference { part, original, replay, pointer: None, artifact: None });
        }
    }
}

fn difference(part: Part, original: Option<Digest>, replay: Option<Digest>) -> Difference {
    let text = |hash: Option<Digest>| hash.map(|hash| hash.to_string());
    Difference { part, original: text(original), replay: text(replay), pointer: None, artifact: None }
}

fn exit(observed: &Observed) -> String {
    match (observed.exit_code, observed.signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// By name, without the one that is the output and compared as such.
fn artifacts(observed: &Observed) -> BTreeMap<&str, Digest> {
    let is_output = |name: &str| name == "result.json" && observed.output.is_some();
    let made = observed.artifacts.iter().filter(|artifact| !is_output(&artifact.name));
    made.map(|artifact| (artifact.name.as_str(), artifact.hash)).collect()
}

/// Where two JSON values first differ, and what stands there; absent is not the same as null.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonDifference<'a> {
    /// RFC 6901; empty for the whole value.
    pub pointer: String,
    pub original: Option<&'a Value>,
    pub replay: Option<&'a Value>,
}

/// The first difference of two JSON values that the rules do not take out, members in the order
/// of their names.
pub fn first_difference<'a>(
    original: &'a Value,
    replay: &'a Value,
    rules: &[Normaliser],
) -> Option<JsonDifference<'a>> {
    walk(original, replay, rules, "", "")
}

fn walk<'a>(
    one: &'a Value,
    other: &'a Value,
    rules: &[Normaliser],
    at: &str,
    name: &str,
) -> Option<JsonDifference<'a>> {
    let step = |key: &str, one: Option<&'a Value>, other: Option<&'a Value>| {
        let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        match (one, other) {
            (Some(one), Some(other)) => walk(one, other, rules, &at, key),
            (original, replay) => Some(JsonDifference { pointer: at, original, replay }),
        }
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            keys.into_iter().find_map(|key| step(key, one.get(key), other.get(key)))
        }
        (Value::Array(one), Value::Array(other)) => {
            (0..one.len().max(other.len())).find_map(|index| step(&index.to_string(), one.get(index), other.get(index)))
        }
        (one, other) if one == other || is_same_leaf(one, other, rules, name) => None,
        (one, other) => Some(JsonDifference { pointer: at.to_owned(), original: Some(one), replay: Some(other) }),
    }
}

/// A rule may need the member's name to know what it looks at.
fn is_same_leaf(one: &Value, other: &Value, rules: &[Normaliser], name: &str) -> bool {
    let normalised =
        |value: &Value| Normaliser::apply_all(rules, &format!("{}: {value}", Value::from(name))).into_owned();
    !rules.is_empty() && normalised(one) == normalised(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named_by_a_pointer() {
        for (one, other, pointer) in [
            (json!({"a": 1}), json!({"a": 2}), "/a"),
            (json!({"a": [1, {"b/c": 1}]}), json!({"a": [1, {"b/c": 2}]}), "/a/1/b~1c"),
            (json!({"x~y": 1}), json!({}), "/x~0y"),
            (json!([1, 2]), json!([1]), "/1"),
            (json!(1), json!("1"), ""),
            (json!({"b": 1, "a": 1}), json!({"b": 2, "a": 2}), "/a"),
            (json!({"a": null}), json!({}), "/a"),
        ] {
            let found = first_difference(&one, &other, &[]).unwrap();
            assert_eq!(found.pointer, pointer, "{one} {other}");
            assert_eq!((found.original, found.replay), (one.pointer(pointer), other.pointer(pointer)));
        }
        assert_eq!(first_difference(&json!({"a": [1]}), &json!({"a": [1]}), &[]), None);
    }

    #[test]
    fn what_the_rules_take_out_is_no_difference() {
        let rules = ["timestamps", r#"regex:"took": [0-9.]+"#].map(|rule| Normaliser::of(rule).unwrap());
        let one = json!({"at": "2026-01-01T00:00:00Z", "took": 0.25, "n": 1});
        let other = json!({"at": "2026-02-02T00:00:00Z", "took": 0.75, "n": 2});
        assert_eq!(first_difference(&one, &other, &rules).unwrap().pointer, "/n");
        assert_eq!(first_difference(&one, &other, &[]).unwrap().pointer, "/at");
    }
}

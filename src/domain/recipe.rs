//! What a job type's image is made of, and the version that is its digest.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::{Digest, canonical_json, canonical_json_digest};

/// The shortest part of a digest that may stand for the whole, hexadecimal digits.
const SHORTEST_PREFIX: usize = 4;

/// Everything that shapes the image of a job type, or what its interpreter finds in it. Two equal
/// recipes have one digest, and are built once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    pub python_version: String,
    /// Named instead of the usual image of the Python version.
    pub base_image: Option<String>,
    /// Identity of what the image stands on, as the engine knows it. Absent while the engine
    /// has no such image yet.
    pub base_digest: Option<String>,
    /// Of the guest and of what is put beside it.
    pub guest: Digest,
    /// As they are written.
    pub requirements: Vec<String>,
    /// Of the archive of the shared files.
    pub shared_code: Option<Digest>,
    pub environment: BTreeMap<String, String>,
    pub preload: Vec<String>,
    /// Further fields of the job type by name, each only where it is not at its default, so that
    /// a new one changes no digest.
    #[serde(flatten)]
    pub further: BTreeMap<String, Value>,
}

impl Recipe {
    /// The text that is hashed and kept: JSON with sorted keys and no spaces.
    pub fn canonical(&self) -> String {
        canonical_json(&self.value())
    }

    pub fn digest(&self) -> Digest {
        canonical_json_digest(&self.value())
    }

    /// Whether the image is the executor image itself: there is nothing to build.
    pub fn is_plain(&self) -> bool {
        self.requirements.is_empty() && self.shared_code.is_none()
    }

    fn value(&self) -> Value {
        // A struct of text, maps with text keys and digests always serializes.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A job type at one digest, written `name@sha256:<12 hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    pub name: String,
    pub digest: Digest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@sha256:{}", self.name, self.digest.short())
    }
}

/// What a client calls a job type by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    pub name: &'a str,
    /// The beginning of the digest, lowercase; absent for the present version.
    pub prefix: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Reads `name` or `name@sha256:<hex>`; `None` for anything else.
    pub fn parse(text: &'a str) -> Option<Self> {
        let Some((name, version)) = text.split_once('@') else { return Some(Self { name: text, prefix: None }) };
        let prefix = version.strip_prefix("sha256:")?;
        let is_hex = prefix.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        ((SHORTEST_PREFIX..=64).contains(&prefix.len()) && is_hex).then_some(Self { name, prefix: Some(prefix) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            python_version: "3.11".to_owned(),
            base_image: None,
            base_digest: Some("sha256:aa".to_owned()),
            guest: Digest::of(b"guest"),
            requirements: vec!["numpy==2.2.6".to_owned(), "pandas==2.2.3".to_owned()],
            shared_code: None,
            environment: BTreeMap::from([("B".to_owned(), "é".to_owned()), ("A".to_owned(), String::new())]),
            preload: vec!["pandas".to_owned()],
            further: BTreeMap::new(),
        }
    }

    /// The vectors anybody can check with `sha256sum`.
    #[test]
    fn a_digest_is_the_sha256_of_the_canonical_text() {
        let guest = Digest::of(b"guest");
        let text = format!(
            "{{\"base_digest\":\"sha256:aa\",\"base_image\":null,\"environment\":{{\"A\":\"\",\"B\":\"é\"}},\
             \"guest\":\"{guest}\",\"preload\":[\"pandas\"],\"python_version\":\"3.11\",\
             \"requirements\":[\"numpy==2.2.6\",\"pandas==2.2.3\"],\"shared_code\":null}}"
        );
        assert_eq!(recipe().canonical(), text);
        assert_eq!(recipe().digest(), Digest::of(text.as_bytes()));
        assert_eq!(recipe().digest().to_string(), "1932be04e057c708c8bf452d565020e13cb91132066eff0a99257dfc5475509d");
        let mut with_gpu = recipe();
        with_gpu.further.insert("gpu".to_owned(), json!({"count": 1, "enabled": true}));
        assert!(with_gpu.canonical().contains("\"gpu\":{\"count\":1,\"enabled\":true},\"guest\""));
        assert_eq!(with_gpu.digest().to_string(), "296b8231f1f9fefc60755512082fa40c63be80fd052d3ed1740f2b7803d1092c");
    }

    #[test]
    fn every_field_changes_the_digest() {
        type Change = fn(&mut Recipe);
        let changes: [Change; 9] = [
            |recipe| recipe.python_version = "3.12".to_owned(),
            |recipe| recipe.base_image = Some("x".to_owned()),
            |recipe| recipe.base_digest = None,
            |recipe| recipe.guest = Digest::of(b"other"),
            |recipe| recipe.requirements.reverse(),
            |recipe| recipe.shared_code = Some(Digest::of(b"")),
            |recipe| drop(recipe.environment.remove("A")),
            |recipe| recipe.preload.clear(),
            |recipe| drop(recipe.further.insert("gpu".to_owned(), json!(1))),
        ];
        let mut digests: Vec<_> = changes
            .iter()
            .map(|change| {
                let mut changed = recipe();
                change(&mut changed);
                changed.digest()
            })
            .chain([recipe().digest()])
            .collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), changes.len() + 1);
    }

    #[test]
    fn a_recipe_reads_back_from_its_text() {
        let mut with_gpu = recipe();
        with_gpu.further.insert("gpu".to_owned(), json!({"enabled": true}));
        for recipe in [recipe(), with_gpu] {
            assert_eq!(serde_json::from_str::<Recipe>(&recipe.canonical()).unwrap(), recipe);
        }
    }

    #[test]
    fn a_reference_is_a_name_or_a_name_with_the_beginning_of_a_digest() {
        let parse = Reference::parse;
        assert_eq!(parse("default"), Some(Reference { name: "default", prefix: None }));
        assert_eq!(parse("a@sha256:0123"), Some(Reference { name: "a", prefix: Some("0123") }));
        for bad in ["a@0123", "a@sha256:", "a@sha256:012", "a@sha256:012G", "a@sha256:ABCD", "a@sha1:0123456789ab"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("a@sha256:{}", "0".repeat(65))), None);
    }
}

//! JSON that is kept as text, so that huge integers and the order of keys survive.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Digest;

/// Deeper nesting is refused: Python's own parser gives up near 1,000, ours recurses.
pub const MAX_DEPTH: usize = 100;

/// A JSON object as text: no white space between tokens, everything else as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonObject {
    text: String,
    canonical: Digest,
}

/// Why a text cannot be a job's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonTextError {
    #[error("must be a JSON object, like {{\"key\": \"value\"}}")]
    NotAnObject,
    #[error("is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("contains a lone surrogate (\\ud800 to \\udfff without its other half), which is not Unicode text")]
    LoneSurrogate,
}

impl JsonObject {
    pub fn empty() -> Self {
        Self { text: "{}".to_owned(), canonical: Digest::of(b"{}") }
    }

    /// Takes JSON text that was already parsed once (a [`RawValue`]).
    ///
    /// # Errors
    /// [`JsonTextError`]; its text continues a sentence that names the field.
    pub fn from_raw(raw: &RawValue) -> Result<Self, JsonTextError> {
        let text = minify(raw.get())?;
        if !text.starts_with('{') {
            return Err(JsonTextError::NotAnObject);
        }
        let mut canonical = String::with_capacity(text.len());
        canonicalize(&text, &mut canonical)?;
        Ok(Self { canonical: Digest::of(canonical.as_bytes()), text })
    }

    /// The bytes the job reads in `/input/data.json`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Of the canonical form: sorted keys, no spaces, UTF-8; a repeated key keeps its last value.
    pub fn canonical_digest(&self) -> Digest {
        self.canonical
    }
}

/// Drops white space outside strings, and refuses deep nesting before anything recurses.
fn minify(text: &str) -> Result<String, JsonTextError> {
    let mut out = String::with_capacity(text.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for char in text.chars() {
        if in_string {
            out.push(char);
            (in_string, escaped) = match (char, escaped) {
                (_, true) => (true, false),
                ('\\', false) => (true, true),
                ('"', false) => (false, false),
                (_, false) => (true, false),
            };
            continue;
        }
        match char {
            ' ' | '\t' | '\n' | '\r' => continue,
            '"' => in_string = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(JsonTextError::TooDeep);
        }
        out.push(char);
    }
    Ok(out)
}

fn canonicalize(text: &str, out: &mut String) -> Result<(), JsonTextError> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let map: BTreeMap<String, &RawValue> = parse(text)?;
            out.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_string(key, out);
                out.push(':');
                canonicalize(value.get(), out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = parse(text)?;
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonicalize(item.get(), out)?;
            }
            out.push(']');
        }
        Some(b'"') => push_string(&parse::<String>(text)?, out),
        _ => out.push_str(text),
    }
    Ok(())
}

fn push_string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// The text is valid JSON already, so all that can fail is a string that is no Unicode text.
fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, JsonTextError> {
    serde_json::from_str(text).map_err(|_| JsonTextError::LoneSurrogate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<JsonObject, JsonTextError> {
        JsonObject::from_raw(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn numbers_and_the_order_of_keys_reach_the_job_as_they_were_written() {
        let input = object("{ \"b\": 123456789012345678901234567890,\n \"a\" : [1.10, \" x \"] }").unwrap();
        assert_eq!(input.text(), r#"{"b":123456789012345678901234567890,"a":[1.10," x "]}"#);
    }

    #[test]
    fn the_digest_knows_neither_spacing_nor_the_order_of_keys() {
        let one = object(r#"{"b": {"d": 1, "c": "é"}, "a": []}"#).unwrap();
        let other = object("{\"a\":[],\"b\":{\"c\":\"\\u00e9\",\"d\":1}}").unwrap();
        assert_eq!(one.canonical_digest(), other.canonical_digest());
        assert_eq!(one.canonical_digest(), Digest::of("{\"a\":[],\"b\":{\"c\":\"é\",\"d\":1}}".as_bytes()));
    }

    #[test]
    fn a_nul_stays_an_escape() {
        assert_eq!(object(r#"{"a":"\u0000"}"#).unwrap().text(), r#"{"a":"\u0000"}"#);
    }

    #[test]
    fn what_is_no_input_is_refused_by_reason() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(object(&deep), Err(JsonTextError::TooDeep));
        assert_eq!(object("[1]"), Err(JsonTextError::NotAnObject));
        assert_eq!(object(r#"{"a":"\ud800"}"#), Err(JsonTextError::LoneSurrogate));
        assert_eq!(object(r#"{"\udfff":1}"#), Err(JsonTextError::LoneSurrogate));
    }
}

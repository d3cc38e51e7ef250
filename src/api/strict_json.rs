//! Reads JSON bodies strictly: what is wrong is told by field, nothing is guessed or ignored.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::problem::{Kind, Problem};
use crate::actors::submission::FieldFault;

/// Reads a JSON object into `T`.
///
/// # Errors
/// Malformed for what is not JSON, with line and column; invalid for what is JSON and not a `T`,
/// naming every unknown or repeated field at once, else the first field of a wrong type.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|error| Problem::new(Kind::Malformed, format!("the body is not valid JSON: {error}")))?;
    let Keys(keys) = serde_json::from_str(text).map_err(|error| {
        let said = match is_text_fault(&error) {
            true => "contains a field name with a lone surrogate, which is not Unicode text",
            false => "must be a JSON object, like {\"code\": \"print(1)\"}",
        };
        Problem::field("body", said)
    })?;
    let faults = key_faults(&keys, fields_of::<T>());
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        Problem::field(&field, said_of(error.inner()))
    })
}

/// Reads a JSON object of whatever fields, each given once.
///
/// # Errors
/// As [`read`].
pub fn object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, Problem> {
    let malformed =
        |error: serde_json::Error| Problem::new(Kind::Malformed, format!("the body is not valid JSON: {error}"));
    serde_json::from_str::<IgnoredAny>(text).map_err(malformed)?;
    let Keys(keys) = serde_json::from_str(text)
        .map_err(|_| Problem::field("body", "must be a JSON object, like {\"name\": \"x\"}"))?;
    let known: Vec<&str> = keys.iter().map(String::as_str).collect();
    let faults = key_faults(&keys, &known);
    match faults.is_empty() {
        true => serde_json::from_str(text).map_err(malformed),
        false => Err(Problem::invalid(faults)),
    }
}

/// What serde says, as the end of a sentence that begins with the field's name.
fn said_of(error: &serde_json::Error) -> String {
    if is_text_fault(error) {
        return "contains a lone surrogate (\\ud800 to \\udfff without its other half), which is not Unicode text"
            .into();
    }
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    if let Some(types) = said.strip_prefix("invalid type: ") {
        return format!("has the wrong type: {}", plain(types));
    }
    if let Some(value) = said.strip_prefix("invalid value: ") {
        return format!("has a wrong value: {}", plain(value));
    }
    if said.starts_with("number out of range") {
        return "is a number out of range".to_owned();
    }
    format!("is not valid: {said}")
}

/// Without the names of Rust's numbers.
fn plain(said: &str) -> String {
    match said.split_once("expected ") {
        Some((given, "f64")) => format!("{given}expected a number"),
        Some((given, "i16" | "i32" | "u32")) => format!("{given}expected a whole number in its bounds"),
        _ => said.to_owned(),
    }
}

/// The text was JSON before, so what is left to be wrong in the syntax of a string is an escape
/// that stands for no character.
fn is_text_fault(error: &serde_json::Error) -> bool {
    error.is_syntax() && (error.to_string().contains("surrogate") || error.to_string().contains("hex escape"))
}

fn key_faults(keys: &[String], known: &[&str]) -> Vec<FieldFault> {
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for key in keys {
        let message = if !known.contains(&key.as_str()) {
            unknown(key, known)
        } else if !seen.insert(key) {
            "is given twice".to_owned()
        } else {
            continue;
        };
        let field = key.chars().take(100).collect();
        faults.push(FieldFault { field, message, is_size: false });
        if faults.len() == 20 {
            break;
        }
    }
    faults
}

/// Says that a name is unknown, and which known one is near.
pub fn unknown(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.4)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match near {
        Some((_, candidate)) => format!("is not a known field; did you mean {candidate:?}?"),
        None => format!("is not a known field; known are {}", known.join(", ")),
    }
}

/// The field names of an object, in order and with repetitions.
struct Keys(Vec<String>);

impl<'de> serde::Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The fields that a struct's derived `Deserialize` asks for, so that no list of them is kept
/// beside it.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("only asked"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("not a struct"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    // The answer is in `fields`; the deserializer itself never succeeds.
    drop(T::deserialize(Asked(&mut fields)));
    fields
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        code: String,
        timeout: Option<f64>,
        requirements: Option<Vec<String>>,
    }

    fn refused(text: &str) -> (StatusCode, String) {
        let problem = read::<Body>(text).unwrap_err();
        (problem.kind().status(), problem.detail().to_owned())
    }

    #[test]
    fn a_good_body_reads_whatever_the_order() {
        let body: Body = read(r#" {"timeout": 3, "code": "\ud83d\ude00", "requirements": null} "#).unwrap();
        assert_eq!((body.code.as_str(), body.timeout, body.requirements), ("😀", Some(3.0), None));
    }

    #[test]
    fn what_is_not_json_is_malformed_and_says_where() {
        for text in ["{\"code\": \"x\"", "{'code': 1}", "{\"code\": \"x\"} x", "nul", "{\"code\": NaN}", "\u{feff}{}"] {
            let (status, detail) = refused(text);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
            assert!(detail.contains("line 1 column"), "{detail}");
        }
    }

    #[test]
    fn json_that_is_no_object_is_invalid() {
        for text in ["[]", "1", "null", "\"code\""] {
            let (status, detail) = refused(text);
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
            assert!(detail.contains("must be a JSON object"), "{detail}");
        }
    }

    #[test]
    fn unknown_fields_are_named_with_the_nearest_known_one_all_at_once() {
        let (status, detail) = refused(r#"{"cod": "x", "time_out": 1, "qqq": [{}]}"#);
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            detail,
            "cod is not a known field; did you mean \"code\"?; time_out is not a known field; did you mean \
             \"timeout\"?; qqq is not a known field; known are code, timeout, requirements"
        );
    }

    #[test]
    fn a_repeated_field_is_refused() {
        assert_eq!(refused(r#"{"code": "a", "code": "b"}"#).1, "code is given twice");
        assert_eq!(refused(r#"{"code": "a", "c\u006fde": "b"}"#).1, "code is given twice");
    }

    #[test]
    fn a_wrong_type_is_told_by_path() {
        let cases = [
            (r#"{"code": 5}"#, "code has the wrong type: integer `5`, expected a string"),
            (r#"{"code": "x", "requirements": ["a", 1]}"#, "requirements[1] has the wrong type: integer `1`"),
            (r#"{"code": "x", "timeout": "30"}"#, "timeout has the wrong type: string \"30\", expected a number"),
            (r#"{"code": "x", "timeout": 1e999}"#, "timeout is a number out of range"),
            ("{}", "body is not valid: missing field `code`"),
        ];
        for (text, expected) in cases {
            let (status, detail) = refused(text);
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
            assert!(detail.starts_with(expected), "{detail}");
        }
    }

    #[test]
    fn lone_surrogates_are_told_as_such() {
        for text in [r#"{"code": "\ud800"}"#, r#"{"code": "\udc00 x"}"#, r#"{"code": "\ud800\u0041"}"#] {
            let (status, detail) = refused(text);
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
            assert!(detail.starts_with("code contains a lone surrogate"), "{detail}");
        }
        assert!(refused(r#"{"\ud800": 1}"#).1.contains("lone surrogate"));
    }

    #[test]
    fn nesting_beyond_all_measure_is_no_crash() {
        let text = format!("{{\"code\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(refused(&text).0, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

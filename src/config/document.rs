//! A YAML text as JSON values, with the line each key stands on.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A parsed text: values, and the line of each dotted path.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub value: Value,
    pub lines: BTreeMap<String, u64>,
}

/// Why a text is not YAML: what, and on which line where that is known.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub message: String,
    pub line: Option<u64>,
}

impl Document {
    /// Parses one YAML document; an empty one is an empty map.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let root: Node = parse(text).map_err(|error| SyntaxError {
            message: first_line(&error.without_snippet().to_string()),
            line: error.location().map(|at| at.line()),
        })?;
        let mut lines = BTreeMap::new();
        let value = match root.into_value("", &mut lines) {
            Value::Null => Value::Object(Map::new()),
            value => value,
        };
        Ok(Self { value, lines })
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("not YAML").to_owned()
}

fn parse(text: &str) -> Result<Node, serde_saphyr::Error> {
    // Else `y`, `no` and `off` are booleans, as in YAML 1.1.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
}

/// Parses one value as it would stand behind a key.
pub(super) fn scalar(text: &str) -> Option<Value> {
    let node: Node = parse(text).ok()?;
    Some(node.into_value("", &mut BTreeMap::new()))
}

enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn into_value(self, at: &str, lines: &mut BTreeMap<String, u64>) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    let path = format!("{at}[{index}]");
                    lines.insert(path.clone(), item.referenced.line());
                    item.value.into_value(&path, lines)
                })
                .collect(),
            Self::Map(entries) => entries
                .into_iter()
                .map(|(key, node)| {
                    let path = super::known_keys::joined(at, &key.value);
                    lines.insert(path.clone(), key.referenced.line());
                    let value = node.into_value(&path, lines);
                    (key.value, value)
                })
                .collect(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
                Number::from_f64(value)
                    .map(|number| Node::Scalar(number.into()))
                    .ok_or_else(|| E::custom("not a finite number"))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = access.next_key()? {
                    entries.push((key, access.next_value()?));
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_knows_its_line() {
        let document = Document::parse("a: 1\n# note\nb:\n  c: [x, y]\n  d:\n  - e: 2\n").unwrap();
        assert_eq!(document.value, serde_json::json!({"a": 1, "b": {"c": ["x", "y"], "d": [{"e": 2}]}}));
        assert_eq!(document.lines["a"], 1);
        assert_eq!(document.lines["b"], 3);
        assert_eq!(document.lines["b.c"], 4);
        assert_eq!(document.lines["b.d[0].e"], 6);
    }

    #[test]
    fn a_text_that_is_not_yaml_names_the_line() {
        let error = Document::parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line.is_some(), "{error:?}");
        assert!(!error.message.contains('\n'));
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        assert_eq!(Document::parse("a: 1\na: 2\n").unwrap_err().line, Some(2));
    }

    #[test]
    fn an_empty_text_is_an_empty_map() {
        assert_eq!(Document::parse("# nothing\n").unwrap().value, serde_json::json!({}));
    }
}

//! The stored form of every event, as `events/` describes it.
//!
//! A released schema version never changes. A new shape of an event is a new version here and in
//! `events/`, and an upcaster in the store that makes the old payload the new one.

use serde_json::Value;

use super::event::EventKind;

/// One schema version of an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edition {
    /// 1 for the first.
    pub version: i16,
    /// JSON Schema (2020-12) of the payload.
    pub schema: &'static str,
    /// A payload with every field, as JSON.
    pub sample: &'static str,
}

macro_rules! catalog {
    ($($name:ident: $($version:literal)+;)*) => {
        impl EventKind {
            /// Its schema versions, from the first to the one written today.
            pub fn editions(self) -> &'static [Edition] {
                match self {
                    $(Self::$name => &[$(Edition {
                        version: $version,
                        schema: include_str!(concat!(
                            "../../events/", stringify!($name), "/v", $version, ".schema.json"
                        )),
                        sample: include_str!(concat!(
                            "../../events/", stringify!($name), "/v", $version, ".sample.json"
                        )),
                    }),+],)*
                }
            }

            /// The schema version that is written today.
            pub fn schema_version(self) -> i16 {
                match self {
                    $(Self::$name => newest(&[$($version),+]),)*
                }
            }
        }
    };
}

catalog! {
    JobSubmitted: 1 2 3 4;
    JobRejected: 1;
    JobDequeued: 1;
    ExecutionStarted: 1 2;
    ExecutionSucceeded: 1;
    ExecutionFailed: 1;
    ExecutionTimedOut: 1;
    ExecutionOutOfMemory: 1;
    CancelRequested: 1;
    ExecutionCancelled: 1;
    LeaseExpired: 1;
    RetryScheduled: 1;
    JobDeadLettered: 1;
    DeadLetterRequeued: 1;
    DeadLetterDiscarded: 1;
    ReplayVerdictRecorded: 1 2 3;
    SecretsDelivered: 1;
    EgressObserved: 1;
    BuildRequested: 1;
    BuildStarted: 1;
    BuildSucceeded: 1;
    BuildFailed: 1;
    JobTypeDefined: 1;
    NodeStarted: 1;
    NodeDraining: 1;
    NodeStopped: 1;
    SecretSet: 1;
    SecretRemoved: 1;
    ExecutionExpired: 1;
    PayloadShredded: 1;
    TenantShredded: 1;
    RetentionApplied: 1;
    LogArchived: 1;
}

const fn newest<const N: usize>(versions: &[i16; N]) -> i16 {
    versions[N - 1]
}

/// A schema's text in parts, to be explained to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    pub description: String,
    pub fields: Vec<Field>,
}

/// One field of a payload, at any depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Like `observed.timing.total_ms`; `[]` stands for each item of an array, `*` for any name.
    pub path: String,
    /// Like `integer`, `string or null`, `warm | cold`.
    pub kind: String,
    /// It may be absent.
    pub is_optional: bool,
    pub description: String,
}

impl Edition {
    /// # Errors
    /// When the schema is not JSON, which a test rules out.
    pub fn explain(&self) -> Result<Explained, serde_json::Error> {
        let schema: Value = serde_json::from_str(self.schema)?;
        let mut fields = Vec::new();
        add_fields(&schema, &schema, "", &mut fields);
        Ok(Explained { description: text(&schema, "description"), fields })
    }
}

/// The properties of an object, required ones first and in the schema's order.
fn add_fields(root: &Value, object: &Value, prefix: &str, fields: &mut Vec<Field>) {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let optional = properties.keys().map(String::as_str).filter(|name| !required.contains(name));
    for name in required.iter().copied().chain(optional) {
        let Some(property) = properties.get(name) else { continue };
        let shape = Shape::of(root, property);
        let path = format!("{prefix}{name}");
        fields.push(Field {
            path: path.clone(),
            kind: shape.name(root),
            is_optional: !required.contains(&name),
            description: text(property, "description"),
        });
        shape.add_parts(root, &path, fields);
    }
}

/// What a property is once its references are followed.
struct Shape<'a> {
    schema: &'a Value,
    is_nullable: bool,
}

impl<'a> Shape<'a> {
    fn of(root: &'a Value, property: &'a Value) -> Self {
        let alternatives = property.get("anyOf").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match alternatives {
            [one, null] if text(null, "type") == "null" => Self { schema: resolve(root, one), is_nullable: true },
            _ => Self { schema: resolve(root, property), is_nullable: false },
        }
    }

    fn name(&self, root: &Value) -> String {
        let title = text(self.schema, "title");
        let mut name = match (self.schema.get("enum"), self.schema.get("type")) {
            _ if !title.is_empty() => title,
            (Some(Value::Array(words)), _) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
            (_, Some(Value::Array(types))) => types.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            (_, Some(Value::String(kind))) if kind == "array" => match self.schema.get("items") {
                Some(items @ Value::Object(_)) => format!("array of {}", Shape::of(root, items).name(root)),
                _ => "array".to_owned(),
            },
            (_, Some(Value::String(kind))) => match text(self.schema, "format").as_str() {
                "" => kind.clone(),
                format => format!("{kind} ({format})"),
            },
            _ => "anything".to_owned(),
        };
        if self.is_nullable {
            name.push_str(" or null");
        }
        name
    }

    fn add_parts(&self, root: &Value, path: &str, fields: &mut Vec<Field>) {
        add_fields(root, self.schema, &format!("{path}."), fields);
        if let Some(items) = self.schema.get("items") {
            add_fields(root, resolve(root, items), &format!("{path}[]."), fields);
        }
    }
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn text(schema: &Value, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

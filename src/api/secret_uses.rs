//! The secrets that a submission names.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::{Delivery, HeaderUse, HostRule, SecretUse};

pub const SECRETS_FORM: &str = "must be a list of names, like [\"API_KEY\", {\"name\": \"DB_PASSWORD\", \"as\": \"env\"}, \
     {\"name\": \"TOKEN\", \"as\": \"header\", \"header\": \"Authorization\", \"template\": \"Bearer {}\", \"hosts\": [\"api.example.com\"]}]; \
     values are set with PUT /secrets/{name} and never sent with a job";

/// A secret as it is named: `"NAME"`, or with the way it is put to use.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    Full(Full),
}

#[derive(Deserialize)]
#[serde(tag = "as", rename_all = "snake_case", deny_unknown_fields)]
enum Full {
    File {
        name: String,
    },
    Env {
        name: String,
    },
    Header {
        name: String,
        header: String,
        #[serde(default = "whole")]
        template: String,
        hosts: Vec<String>,
        #[serde(default)]
        plain_http: bool,
    },
}

/// The secret and nothing else.
fn whole() -> String {
    "{}".to_owned()
}

/// `None` for what is no list of secrets, of which nothing may be repeated: it may hold values.
pub fn read(value: &RawValue) -> Option<Vec<SecretUse>> {
    if value.get().split_ascii_whitespace().collect::<String>() == "{}" {
        return Some(Vec::new());
    }
    let named: Vec<Named> = serde_json::from_str(value.get()).ok()?;
    let named = named.into_iter().map(|named| match named {
        Named::Name(name) | Named::Full(Full::File { name }) => SecretUse { name, delivery: Delivery::File },
        Named::Full(Full::Env { name }) => SecretUse { name, delivery: Delivery::Env },
        Named::Full(Full::Header { name, header, template, hosts, plain_http }) => {
            // In the one form in which rules are compared; what is none is refused as it stands.
            let canonical = |host: String| host.parse::<HostRule>().map_or(host, |rule| rule.to_string());
            let hosts = hosts.into_iter().map(canonical).collect();
            SecretUse {
                name,
                delivery: Delivery::Header { header: HeaderUse { name: header, template, hosts, plain_http } },
            }
        }
    });
    Some(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Vec<SecretUse>> {
        read(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn a_secret_is_a_file_unless_it_is_said_otherwise() {
        let read = of(r#"["A", {"name": "B", "as": "file"}, {"name": "C", "as": "env"},
            {"name": "D", "as": "header", "header": "X-Key", "hosts": ["API.example.com."]}]"#)
        .unwrap();
        let header = HeaderUse {
            name: "X-Key".to_owned(),
            template: "{}".to_owned(),
            hosts: vec!["api.example.com".to_owned()],
            plain_http: false,
        };
        let uses = [Delivery::File, Delivery::File, Delivery::Env, Delivery::Header { header }];
        assert_eq!(read.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["A", "B", "C", "D"]);
        assert_eq!(read.into_iter().map(|secret| secret.delivery).collect::<Vec<_>>(), uses);
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for bad in [
            r#"{"K": "v"}"#,
            r#"[{"name": "A"}]"#,
            r#"[{"name": "A", "as": "env", "hosts": []}]"#,
            r#"[{"name": "A", "as": "header", "header": "X"}]"#,
            r#"[{"name": "A", "as": "header", "hosts": ["a.b"]}]"#,
            r#"[{"name": "A", "as": "file", "value": "v"}]"#,
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}

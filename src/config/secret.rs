//! Values that are used but never shown.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const HIDDEN: &str = "***";

/// Text that prints, debugs and serializes as `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The text itself; the caller must not show it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Only text, and the error does not repeat what was given instead.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("must be text; put it in quotes")),
        }
    }
}

/// A PostgreSQL URL whose password prints, debugs and serializes as `***`. Empty means that
/// the embedded development cluster is used.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The URL with its password; the caller must not show it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL for people to see. What cannot be told apart from a password is hidden too.
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return if self.0.is_empty() { String::new() } else { HIDDEN.to_owned() };
        };
        let (base, query) = match rest.split_once('?') {
            Some((base, query)) => (base, Some(query)),
            None => (rest, None),
        };
        // The last `@` ends the credentials: a password may hold one that nobody escaped.
        let base = match base.rsplit_once('@') {
            Some((credentials, host)) => match credentials.split_once(':') {
                Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
                None => format!("{credentials}@{host}"),
            },
            None => base.to_owned(),
        };
        match query {
            Some(query) => format!("{scheme}://{base}?{}", redacted_query(query)),
            None => format!("{scheme}://{base}"),
        }
    }
}

fn redacted_query(query: &str) -> String {
    let shown = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.to_ascii_lowercase().contains("password") => {
            format!("{key}={HIDDEN}")
        }
        _ => pair.to_owned(),
    };
    query.split('&').map(shown).collect::<Vec<_>>().join("&")
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://tako:hunter2@localhost:5432/tako_vm",
            "postgres://tako:hun@ter2@localhost/tako_vm",
            "postgres://tako@localhost/tako_vm?password=hunter2&sslmode=require",
            "postgres:hunter2",
            "host=localhost password=hunter2",
        ] {
            let shown = format!("{0} {0:?} {1}", DatabaseUrl::new(url), DatabaseUrl::new(url).redacted());
            assert!(!shown.contains("ter2"), "{shown}");
            assert!(shown.contains(HIDDEN), "{shown}");
        }
        let secret = Secret::new("hunter2");
        let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_url_without_a_password_is_shown_whole() {
        let url = "postgres://tako@localhost/tako_vm?sslmode=require";
        assert_eq!(DatabaseUrl::new(url).redacted(), url);
        assert_eq!(DatabaseUrl::default().redacted(), "");
    }
}

//! Headers that hold secrets, and whose requests get them.

use crate::domain::{HostRule, SecretValue};

/// A header that the proxy writes into requests of the code, which never has it.
#[derive(Debug)]
pub struct Injection {
    name: String,
    value: SecretValue,
    hosts: Vec<HostRule>,
    over_plain_http: bool,
}

impl Injection {
    pub fn new(name: &str, value: SecretValue, hosts: Vec<HostRule>, over_plain_http: bool) -> Self {
        Self { name: name.to_owned(), value, hosts, over_plain_http }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn value(&self) -> &[u8] {
        self.value.expose()
    }

    /// Whether a request to there gets it.
    pub(super) fn goes_to(&self, host: &str, port: u16, is_tls: bool) -> bool {
        (is_tls || self.over_plain_http) && self.hosts.iter().any(|rule| rule.allows(host, port))
    }

    /// Whether it stands in the place of a header of the code's. Many servers take `_` for `-`.
    pub(super) fn replaces(&self, name: &str) -> bool {
        let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        name.bytes().map(plain).eq(self.name.bytes().map(plain))
    }
}

//! Secrets that travel in a header of the code's requests.

use serde::{Deserialize, Serialize};

use super::host_rule::HostRule;

/// Hosts that one secret goes to.
const MAX_HOSTS: usize = 16;
const MAX_NAME_BYTES: usize = 64;
const MAX_TEMPLATE_BYTES: usize = 256;
/// A header's value; many servers take no longer one.
const MAX_VALUE_BYTES: usize = 8 << 10;

/// Where the secret stands in the template.
const PLACE: &str = "{}";

/// What says where a message goes, or where it ends.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header that the egress proxy adds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeaderUse {
    /// The header's name.
    pub name: String,
    /// Its value, with the secret in the place of `{}`.
    pub template: String,
    /// Whose requests get it, as in a job type's `network.allow`.
    pub hosts: Vec<String>,
    /// Whether it goes over connections without TLS too.
    pub plain_http: bool,
}

impl HeaderUse {
    /// What is wrong with it, as the end of a sentence that begins with the secret's name.
    pub fn fault(&self) -> Option<String> {
        let name = self.name.to_ascii_lowercase();
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_token) {
            return Some(format!(
                "must have a header like Authorization, of 1 to {MAX_NAME_BYTES} letters and hyphens"
            ));
        }
        if RESERVED.contains(&name.as_str()) || name.starts_with("proxy-") {
            return Some(format!("cannot be the header {name}, which is the proxy's own; take another"));
        }
        let is_plain = self.template.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if self.template.matches(PLACE).count() != 1 || !is_plain || self.template.len() > MAX_TEMPLATE_BYTES {
            let most = MAX_TEMPLATE_BYTES;
            return Some(format!(
                "must have a template like \"Bearer {{}}\": up to {most} printable characters, one {{}}"
            ));
        }
        if !(1..=MAX_HOSTS).contains(&self.hosts.len()) {
            return Some(format!("must have 1 to {MAX_HOSTS} hosts that it goes to, like api.example.com"));
        }
        let faulty = |host: &String| {
            host.parse::<HostRule>().err().map(|error| format!("has a host {host:.100?}, which {error}"))
        };
        self.hosts.iter().find_map(faulty)
    }

    /// Whose requests get it. A use without fault has no host that is none.
    pub fn rules(&self) -> Vec<HostRule> {
        self.hosts.iter().filter_map(|host| host.parse().ok()).collect()
    }

    /// Whether some request could get the same header of both.
    pub fn clashes(&self, other: &Self) -> bool {
        let rules = other.rules();
        self.name.eq_ignore_ascii_case(&other.name)
            && self.rules().iter().any(|one| rules.iter().any(|two| one.meets(two)))
    }

    /// The header's value with the secret in it.
    ///
    /// # Errors
    /// Why the secret cannot stand in a header, as the end of a sentence that begins with its name.
    pub fn value(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        if !secret.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            return Err("has a line break or another character that no header can have: set it without".to_owned());
        }
        let (before, after) = self.template.split_once(PLACE).unwrap_or((&self.template, ""));
        let value = [before.as_bytes(), secret, after.as_bytes()].concat();
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "is too long for a header, which has up to {MAX_VALUE_BYTES} bytes: name it as a file"
            ));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, template: &str, hosts: &[&str]) -> HeaderUse {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        HeaderUse { name: name.to_owned(), template: template.to_owned(), hosts, plain_http: false }
    }

    #[test]
    fn a_header_that_steers_a_message_is_refused() {
        let good = ["a.example.com"];
        assert_eq!(header("X-Api-Key", "{}", &good).fault(), None);
        assert_eq!(header("Authorization", "Bearer {}", &["*.example.com:8443"]).fault(), None);
        for (name, template, hosts) in [
            ("", "{}", &good[..]),
            ("X Y", "{}", &good),
            ("X:", "{}", &good),
            ("X\r\nY", "{}", &good),
            ("hoST", "{}", &good),
            ("Content-Length", "{}", &good),
            ("Transfer-Encoding", "{}", &good),
            ("Proxy-Authorization", "{}", &good),
            ("X", "", &good),
            ("X", "{} {}", &good),
            ("X", "a\r\nHost: b {}", &good),
            ("X", "{}", &[]),
            ("X", "{}", &["10.0.0.1"]),
            ("X", "{}", &["*"]),
        ] {
            assert!(header(name, template, hosts).fault().is_some(), "{name:?} {template:?} {hosts:?}");
        }
    }

    #[test]
    fn a_value_that_would_be_more_than_one_header_is_refused() {
        let bearer = header("Authorization", "Bearer {}!", &["a.b.c"]);
        assert_eq!(bearer.value("k\u{e9}y".as_bytes()).unwrap(), "Bearer k\u{e9}y!".as_bytes());
        for bad in [&b"a\nb"[..], b"a\r", b"a\0", b"a\x7f", &[b'x'; MAX_VALUE_BYTES]] {
            assert!(bearer.value(bad).is_err());
        }
    }

    #[test]
    fn two_secrets_in_one_header_clash_only_where_they_meet() {
        let one = header("X-Key", "{}", &["*.example.com"]);
        assert!(one.clashes(&header("x-key", "{}", &["b.org", "a.example.com:80"])));
        assert!(!one.clashes(&header("x-other", "{}", &["a.example.com"])));
        assert!(!one.clashes(&header("x-key", "{}", &["a.example.com:8443", "example.com"])));
    }
}

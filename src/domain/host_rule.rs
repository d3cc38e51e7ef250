//! Which hosts a job may reach.

use std::fmt;
use std::str::FromStr;

/// One entry of an allowlist: `api.example.com`, `*.example.org`, either with `:port`.
///
/// A `*` stands for one label or several, and never for none. Without a port, 443 and 80 are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// Lowercase, without the `*.`.
    host: String,
    is_wildcard: bool,
    port: Option<u16>,
}

/// Why a text is no entry, as the end of a sentence that begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAHostRule {
    #[error("must be a host name like api.example.com or *.example.org, with or without :port")]
    NotAHost,
    #[error("is an address; allow hosts by name, because a name is what their certificates prove")]
    Address,
    #[error("must have at least two labels after the *")]
    TooWide,
    #[error("must have a port from 1 to 65535 after the colon")]
    BadPort,
}

impl FromStr for HostRule {
    type Err = NotAHostRule;

    fn from_str(text: &str) -> Result<Self, NotAHostRule> {
        if text.parse::<std::net::IpAddr>().is_ok() || text.starts_with('[') {
            return Err(NotAHostRule::Address);
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port_of(port).ok_or(NotAHostRule::BadPort)?)),
            None => (text, None),
        };
        let (host, is_wildcard) = match host.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (host, false),
        };
        if host.parse::<std::net::IpAddr>().is_ok() {
            return Err(NotAHostRule::Address);
        }
        if is_wildcard && !host.trim_end_matches('.').contains('.') {
            return Err(NotAHostRule::TooWide);
        }
        let host = host_name(host).ok_or(NotAHostRule::NotAHost)?;
        Ok(Self { host, is_wildcard, port })
    }
}

impl HostRule {
    /// Whether it lets a host through, whose name is as [`host_name`] gives it.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let is_port = self.port.map_or(matches!(port, 80 | 443), |own| own == port);
        let is_host = match self.is_wildcard {
            true => host.strip_suffix(&self.host).is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            false => host == self.host,
        };
        is_port && is_host
    }

    /// Whether some host and port are let through by both.
    pub fn meets(&self, other: &Self) -> bool {
        let is_below = |one: &Self, two: &Self| {
            one.host.strip_suffix(&two.host).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
        };
        let is_host = match (self.is_wildcard, other.is_wildcard) {
            (false, false) => self.host == other.host,
            (false, true) => is_below(self, other),
            (true, false) => is_below(other, self),
            (true, true) => self.host == other.host || is_below(self, other) || is_below(other, self),
        };
        let is_port = match (self.port, other.port) {
            (Some(one), Some(two)) => one == two,
            (Some(port), None) | (None, Some(port)) => matches!(port, 80 | 443),
            (None, None) => true,
        };
        is_host && is_port
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A port in decimal, without sign or leading zero.
pub fn port_of(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if is_plain { text.parse().ok() } else { None }
}

/// A host name in the one form in which names are compared: lowercase, without a dot at the end.
/// `None` for what is no fully qualified name, and for every way to write an address.
pub fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // Resolvers read 127.1, 0x7f.1 and 2130706433 as addresses; no top-level domain begins so.
    let is_name = name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && last.starts_with(|c: char| c.is_ascii_lowercase());
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> HostRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_lets_its_own_hosts_through() {
        assert!(rule("api.example.com").allows("api.example.com", 443));
        assert!(rule("api.example.com").allows("api.example.com", 80));
        assert!(!rule("api.example.com").allows("api.example.com", 22));
        assert!(!rule("api.example.com").allows("example.com", 443));
        assert!(!rule("api.example.com").allows("xapi.example.com", 443));
        assert!(!rule("api.example.com").allows("api.example.com.evil.org", 443));
        let wildcard = rule("*.Example.org:8443");
        assert!(wildcard.allows("a.example.org", 8443) && wildcard.allows("a.b.example.org", 8443));
        for host in ["example.org", "evilexample.org", ".example.org", "example.org.evil.com"] {
            assert!(!wildcard.allows(host, 8443), "{host}");
        }
        assert!(!wildcard.allows("a.example.org", 443));
        assert_eq!(wildcard.to_string(), "*.example.org:8443");
    }

    #[test]
    fn two_rules_meet_where_both_let_a_host_through() {
        for (one, two, meet) in [
            ("a.example.com", "a.example.com:443", true),
            ("a.example.com", "a.example.com:8443", false),
            ("a.example.com:80", "a.example.com:443", false),
            ("a.example.com", "*.example.com", true),
            ("example.com", "*.example.com", false),
            ("*.example.com", "*.a.example.com:80", true),
            ("*.example.com", "*.anexample.com", false),
            ("a.example.com", "b.example.com", false),
        ] {
            assert_eq!((rule(one).meets(&rule(two)), rule(two).meets(&rule(one))), (meet, meet), "{one} {two}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_host_is_refused() {
        for bad in [
            "",
            "*",
            "*.com",
            "**.a.b",
            "a.*.b",
            "localhost",
            "http://a.b",
            "a.b/c",
            "a b.c",
            "a..b",
            "-a.b",
            "a.b:0",
            "a.b:65536",
            "a.b:+80",
            "a.b:",
            "a.b:080",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:80",
            "::1",
            "127.1",
            "0x7f.0.0.1",
            "1.2.3.0x4",
            "ä.example.com",
            "a.b.c.1",
        ] {
            assert!(bad.parse::<HostRule>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("*.com".parse::<HostRule>(), Err(NotAHostRule::TooWide));
        assert_eq!("10.0.0.1:80".parse::<HostRule>(), Err(NotAHostRule::Address));
        assert_eq!(host_name("API.Example.COM."), Some("api.example.com".to_owned()));
    }
}

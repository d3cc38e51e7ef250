//! Takes out of a text what differs between two runs of the same code and means nothing.
//!
//! A job type declares what of it is known: a replay compares both sides after the same rules
//! were applied to each.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_lite::Regex;

/// Rules with a name: what they match, and what stands in its place.
static NAMED: LazyLock<Vec<(&str, Regex, &str)>> = LazyLock::new(|| {
    [
        // ISO 8601, the form of `time.ctime()`, a time of day, a date, and seconds to nanoseconds since 1970
        // of the years 2017 to 2033.
        (
            "timestamps",
            r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?( ?(Z|[+-]\d{2}:?\d{2})\b)?|\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d{2}:\d{2}:\d{2} \d{4}\b|\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}:\d{2}:\d{2}([.,]\d+)?\b|\b1[5-9]\d{8}(\d{3}|\d{6}|\d{9})?(\.\d+)?\b",
            "<timestamp>",
        ),
        // As in `<object at 0x7f31c2a4d0d0>`.
        ("addresses", r"\b0x[0-9a-fA-F]{4,16}\b", "<address>"),
        ("uuids", r"\b[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "<uuid>"),
        // A number with a unit.
        (
            "durations",
            r"\b\d+(\.\d+)?([eE][+-]?\d+)? ?(nanoseconds?|microseconds?|milliseconds?|seconds?|minutes?|hours?|secs?|mins?|hrs?|ns|us|µs|μs|ms|s|m|h)\b",
            "<duration>",
        ),
    ]
    .into_iter()
    .filter_map(|(name, pattern, with)| Some((name, Regex::new(pattern).ok()?, with)))
    .collect()
});

const PATTERN: &str = "regex:";

/// One rule.
#[derive(Debug, Clone)]
pub struct Normaliser(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Named(usize),
    Pattern(Regex),
}

/// No rule is written so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotARule {
    #[error("{0:?} is no rule; there are timestamps, addresses, uuids, durations and regex:PATTERN")]
    Unknown(String),
    #[error("the pattern cannot be read: {0}")]
    Pattern(String),
}

impl Normaliser {
    /// The rule of that name, or of `regex:PATTERN`.
    ///
    /// # Errors
    /// [`NotARule`].
    pub fn of(rule: &str) -> Result<Self, NotARule> {
        if let Some(pattern) = rule.strip_prefix(PATTERN) {
            return Regex::new(pattern)
                .map(|pattern| Self(Rule::Pattern(pattern)))
                .map_err(|error| NotARule::Pattern(error.to_string()));
        }
        let index = NAMED.iter().position(|(name, _, _)| *name == rule);
        index.map(|index| Self(Rule::Named(index))).ok_or_else(|| NotARule::Unknown(rule.chars().take(80).collect()))
    }

    /// As it is written.
    pub fn rule(&self) -> String {
        match &self.0 {
            Rule::Named(index) => NAMED.get(*index).map_or("", |(name, _, _)| name).to_owned(),
            Rule::Pattern(pattern) => format!("{PATTERN}{pattern}"),
        }
    }

    /// The text after all rules, one after the other.
    pub fn apply_all<'a>(rules: &[Self], text: &'a str) -> Cow<'a, str> {
        rules.iter().fold(Cow::Borrowed(text), |text, rule| match rule.apply(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(changed) => Cow::Owned(changed),
        })
    }

    fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.0 {
            Rule::Named(index) => match NAMED.get(*index) {
                Some((_, pattern, with)) => pattern.replace_all(text, *with),
                None => Cow::Borrowed(text),
            },
            Rule::Pattern(pattern) => pattern.replace_all(text, "<normalised>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(rules: &[&str], text: &str) -> String {
        let rules: Vec<_> = rules.iter().map(|rule| Normaliser::of(rule).unwrap()).collect();
        Normaliser::apply_all(&rules, text).into_owned()
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for rule in ["timestamps", "addresses", "uuids", "durations", r"regex:id=\d+"] {
            assert_eq!(Normaliser::of(rule).unwrap().rule(), rule);
        }
        assert!(matches!(Normaliser::of("time"), Err(NotARule::Unknown(_))));
        assert!(matches!(Normaliser::of("regex:("), Err(NotARule::Pattern(_))));
    }

    #[test]
    fn what_a_rule_names_goes_and_the_rest_stays() {
        for (rule, text, expected) in [
            ("timestamps", "at 2026-01-31T12:00:00.123456+01:00, done", "at <timestamp>, done"),
            ("timestamps", "2026-01-31 12:00:00,123 INFO x", "<timestamp> INFO x"),
            ("timestamps", "Sat Jan 31 12:00:00 2026", "<timestamp>"),
            (
                "timestamps",
                r#"{"day": "2026-01-31", "t": 1769857200.25}"#,
                r#"{"day": "<timestamp>", "t": <timestamp>}"#,
            ),
            ("timestamps", "1769857200123 of 12345 at 2.0", "<timestamp> of 12345 at 2.0"),
            ("addresses", "<A object at 0x7f31c2a4d0d0> 0x1f", "<A object at <address>> 0x1f"),
            ("uuids", "id 0192F0C1-2b3a-7c4d-8e5f-0123456789ab!", "id <uuid>!"),
            (
                "durations",
                "took 0.53 s, 12ms and 1e-05 seconds of 3 items",
                "took <duration>, <duration> and <duration> of 3 items",
            ),
            (r"regex:seed=\d+", "seed=17 n=17", "<normalised> n=17"),
        ] {
            assert_eq!(normalised(&[rule], text), expected, "{rule}");
        }
        assert_eq!(normalised(&["timestamps", "uuids"], "plain"), "plain");
    }
}

//! What a registry asked to be waited, as an engine passes it on.
//!
//! No engine hands over the header: of a pull that was refused for too many requests, all that comes
//! is the registry's error code and its message, like `toomanyrequests: retry-after: 1.5s, allowed: 44000/minute`.

use std::time::Duration;

/// The error code of the OCI distribution specification, and the status behind it.
const BUSY: [&str; 2] = ["toomanyrequests", "429 too many requests"];

/// Whether a registry refused for now; then what it asked for, if it did.
pub(super) fn busy(message: &str) -> Option<Option<Duration>> {
    let message = message.to_ascii_lowercase();
    BUSY.iter().any(|code| message.contains(code)).then(|| asked(&message))
}

fn asked(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("retry-after:").or_else(|| message.split_once("retry after"))?;
    let text = rest.trim_start();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == 'µ')).unwrap_or(text.len());
    seconds(text.get(..end)?)
}

/// `90`, `1.5s`, `2m30s`, `226.703µs`: a number of seconds, or as Go writes durations.
fn seconds(text: &str) -> Option<Duration> {
    let mut left = text.trim_end_matches('.');
    let mut total = 0.0;
    while !left.is_empty() {
        let digits = left.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(left.len());
        let number: f64 = left.get(..digits)?.parse().ok()?;
        let unit = left.get(digits..)?;
        let letters = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        total += number
            * match unit.get(..letters)? {
                "" | "s" | "seconds" => 1.0,
                "h" => 3600.0,
                "m" => 60.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        left = unit.get(letters..)?;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_registry_is_known_by_its_code_and_may_say_how_long() {
        for (message, asked) in [
            ("toomanyrequests: retry-after: 1.5s, allowed: 44000/minute", Some(1500)),
            ("toomanyrequests: retry-after: 226703.5µs, allowed: 44000/minute", Some(226)),
            ("received unexpected HTTP status: 429 Too Many Requests (Retry-After: 90)", Some(90_000)),
            ("TOOMANYREQUESTS: retry after 2m30s", Some(150_000)),
            ("toomanyrequests: You have reached your pull rate limit.", None),
            ("toomanyrequests: retry-after: soon", None),
        ] {
            let found = busy(message).map(|asked| asked.map(|asked| asked.as_millis()));
            assert_eq!(found, Some(asked), "{message}");
        }
        assert_eq!(busy("manifest unknown; retry-after: 5"), None);
    }
}

//! Takes out of the service's own error text what tells about the host.

use std::sync::LazyLock;

use regex_lite::Regex;

/// An error with everything that caused it, outermost first.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// Longer messages are cut; nobody reads them and the log keeps them.
const MAX_CHARS: usize = 2000;

static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9a-f]{64}", "<id>"),
        (r"\b(10|127)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", "<address>"),
        (r"\b192\.168\.\d{1,3}\.\d{1,3}\b", "<address>"),
        (r"\b172\.(1[6-9]|2\d|3[01])\.\d{1,3}\.\d{1,3}\b", "<address>"),
        (r"\b169\.254\.\d{1,3}\.\d{1,3}\b", "<address>"),
        (r"/(home|Users)/[^/\s'\x22]+", "/home/<user>"),
        (r"/(root|tmp|var|run|opt|srv|etc|mnt|proc|sys)(/[^\s'\x22:,)]*)+", "<path>"),
        (r"(postgres(ql)?|https?)://[^@\s/]+@", "$1://<credentials>@"),
    ]
    .into_iter()
    .filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, with)))
    .collect()
});

/// Replaces host paths, home folders, private addresses, container ids and credentials.
///
/// For the service's own words only: what a job wrote is the job's, and is kept as written.
pub fn scrub(message: &str) -> String {
    let cut: String = message.chars().take(MAX_CHARS).filter(|char| *char != '\0').collect();
    PATTERNS.iter().fold(cut, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(PATTERNS.len(), 8);
    }

    #[test]
    fn what_tells_about_the_host_is_taken_out() {
        let id = "4f".repeat(32);
        for (message, scrubbed) in [
            ("no such file: /var/lib/docker/overlay2/x", "no such file: <path>"),
            ("cannot read /home/alice/.ssh/id", "cannot read /home/<user>/.ssh/id"),
            ("connect to 172.17.0.1:5432 refused", "connect to <address>:5432 refused"),
            ("8.8.8.8 and version 1.2.3 stay", "8.8.8.8 and version 1.2.3 stay"),
            ("postgres://tako:secret@db/x", "postgres://<credentials>@db/x"),
            (&format!("container {id} is gone"), "container <id> is gone"),
        ] {
            assert_eq!(scrub(message), scrubbed);
        }
    }
}

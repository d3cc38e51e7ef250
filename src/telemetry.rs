//! What the process says about itself, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Log, LogFormat};

/// Said by libraries as errors or at every turn, and no news to an operator: any client can
/// send a malformed request, and the database notices that what is made is made already.
const HUSHED: &str = "actix_http=off,actix_server=warn,sqlx::postgres::notice=warn";

/// Reads a level (`info`) or a filter (`info,tako_vm::actors=debug`).
pub fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("{HUSHED},{level}"))
}

/// Sends the process's traces to standard error, once. A second call changes nothing.
///
/// # Errors
/// A level that is none; a loaded configuration has none such.
pub fn start(log: &Log) -> Result<(), ParseError> {
    // A line that cannot be written would be told of on the same standard error, by a panic in whoever
    // wrote it; a full disk takes lines of the log, never the work.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.level)?)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // The only other failure is that a subscriber is there already, as in tests.
    let _already_started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_refused() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,tako_vm::actors=debug").is_ok());
        assert!(filter("loud=very").is_err());
    }
}

//! Says how far a long work is.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line on standard error: moving on a terminal, else another one every few seconds.
pub(super) struct ProgressLine {
    doing: &'static str,
    is_terminal: bool,
    started: Instant,
    shown: Mutex<Option<Instant>>,
}

impl ProgressLine {
    pub(super) fn new(doing: &'static str) -> Self {
        Self { doing, is_terminal: stderr().is_terminal(), started: Instant::now(), shown: Mutex::new(None) }
    }

    pub(super) fn show(&self, events: u64, of: u64) {
        let every = Duration::from_millis(if self.is_terminal { 200 } else { 5000 });
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.unwrap_or(self.started).elapsed() < every {
            return;
        }
        *shown = Some(Instant::now());
        let rate = events as f64 / self.started.elapsed().as_secs_f64().max(f64::EPSILON);
        let of = match of {
            // How many there are shows at the end of a file.
            0 => String::new(),
            of => format!(" of {of} ({} %)", events * 100 / of),
        };
        let (begin, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let doing = self.doing;
        // Standard error may be closed; then nobody is told.
        let _ = write!(stderr(), "{begin}{doing}: {events}{of} events, {rate:.0} events/s{end}");
    }

    /// Says what is done now, where that cannot be counted.
    pub(super) fn say(&self, doing: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_terminal {
            *shown = Some(Instant::now());
            let _ = write!(stderr(), "\r\x1b[K{doing}");
        } else if shown.is_some() {
            // What was quick so far needs no words.
            let _ = writeln!(stderr(), "{doing}");
        }
    }

    /// Takes the line away, before the answer is written.
    pub(super) fn clear(&self) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_terminal && shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

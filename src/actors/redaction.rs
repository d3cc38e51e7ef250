//! What a job leaves, without the secrets it was given.

use std::collections::HashSet;

use bytes::Bytes;
use tako_guest::protocol::{Refusal, RefusedArtifact, prefix};

use super::live_output::Writer;
use crate::domain::{EgressObserved, RedactedStream, Redactor};
use crate::engine::{Error, OutputChunk, Run, Stream};

/// The live output on its way to those who watch.
pub struct LiveRedaction<'a> {
    redactor: &'a Redactor,
    writer: Writer,
    stdout: RedactedStream,
    stderr: RedactedStream,
}

impl<'a> LiveRedaction<'a> {
    pub fn new(redactor: &'a Redactor, writer: Writer) -> Self {
        Self { redactor, writer, stdout: RedactedStream::default(), stderr: RedactedStream::default() }
    }

    pub fn push(&mut self, chunk: OutputChunk) {
        if self.redactor.is_empty() {
            return self.writer.push(chunk);
        }
        let stream = match chunk.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let shown = stream.push(self.redactor, &chunk.bytes);
        self.show(chunk.stream, shown);
    }

    /// The end of both streams, each of which may have been cut.
    pub fn finish(mut self, stdout_was_cut: bool, stderr_was_cut: bool) {
        let (stdout, stderr) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        self.show(Stream::Stdout, stdout.finish(self.redactor, stdout_was_cut));
        self.show(Stream::Stderr, stderr.finish(self.redactor, stderr_was_cut));
    }

    fn show(&self, stream: Stream, shown: Vec<u8>) {
        if !shown.is_empty() {
            self.writer.push(OutputChunk { stream, bytes: shown.into() });
        }
    }
}

/// Most bytes of either output.
pub struct OutputLimits {
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
}

/// A run without secrets: replaced in output, text artifacts, names and the exception; an
/// artifact that is no text is refused when a value stands in it.
pub fn redact(redactor: &Redactor, mut run: Run, limits: &OutputLimits) -> Run {
    if redactor.is_empty() {
        return run;
    }
    let report = &mut run.report;
    (run.stdout, report.stdout_truncated) = output(redactor, &run.stdout, report.stdout_truncated, limits.stdout_bytes);
    (run.stderr, report.stderr_truncated) = output(redactor, &run.stderr, report.stderr_truncated, limits.stderr_bytes);
    if let Some(exception) = &mut report.exception {
        exception.class = redactor.text(&exception.class);
        exception.message = redactor.text(&exception.message);
        exception.bases.iter_mut().for_each(|base| *base = redactor.text(base));
    }
    for refused in &mut report.refused_artifacts {
        refused.name = redactor.text(&refused.name);
    }
    let mut names = HashSet::new();
    for (name, bytes) in std::mem::take(&mut run.artifacts) {
        let name = redactor.text(&name);
        let is_text = std::str::from_utf8(&bytes).is_ok();
        if !names.insert(name.clone()) || (!is_text && redactor.is_in(&bytes)) {
            report.refused_artifacts.push(RefusedArtifact { name, reason: Refusal::HoldsASecret });
            continue;
        }
        let bytes = if is_text { Bytes::from(redactor.bytes(&bytes).into_owned()) } else { bytes };
        run.artifacts.push((name, bytes));
    }
    run
}

/// An output without secrets, within its limit, and whether it was cut.
fn output(redactor: &Redactor, bytes: &Bytes, was_cut: bool, limit: u64) -> (Bytes, bool) {
    let mut stream = RedactedStream::default();
    let mut shown = stream.push(redactor, bytes);
    shown.extend(stream.finish(redactor, was_cut));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if shown.len() <= limit {
        return (shown.into(), was_cut);
    }
    // What stands in a secret's place may be longer than the secret.
    match std::str::from_utf8(&shown) {
        Ok(text) => (Bytes::copy_from_slice(prefix(text, limit).as_bytes()), true),
        Err(_) => (Bytes::copy_from_slice(&shown[..limit]), true),
    }
}

/// An engine's error without secrets: its words may be the interpreter's.
pub fn redact_error(redactor: &Redactor, error: Error) -> Error {
    match error {
        Error::Unavailable { engine, message, retry_after } => {
            Error::Unavailable { engine, message: redactor.text(&message), retry_after }
        }
        Error::Image { reference, message } => Error::Image { reference, message: redactor.text(&message) },
        Error::Startup(mut fault) => {
            fault.message = redactor.text(&fault.message);
            Error::Startup(fault)
        }
        Error::Guest(mut fault) => {
            fault.message = redactor.text(&fault.message);
            Error::Guest(fault)
        }
        Error::Lost { message, oom_killed } => Error::Lost { message: redactor.text(&message), oom_killed },
        error @ (Error::Unresponsive(_) | Error::System { .. }) => error,
    }
}

/// What the code reached, without secrets: it chose the names that it asked for.
pub fn redact_egress(redactor: &Redactor, mut observed: EgressObserved) -> EgressObserved {
    // Names are compared in lowercase, and so is what they hide.
    let folded = |name: &str| if redactor.is_in_name(name) { "[secret]".to_owned() } else { name.to_owned() };
    for host in &mut observed.hosts {
        host.host = folded(&host.host);
    }
    for refused in &mut observed.refused {
        refused.host = refused.host.as_deref().map(folded);
    }
    observed
}

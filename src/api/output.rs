//! What a job writes, while it writes it.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use uuid::Uuid;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::{Id, Params};
use super::problem::Problem;
use super::sse::{self, Ended, Pace, Sink};
use super::view::{self, Moments};
use crate::actors::broadcast::DistantFollow;
use crate::actors::submission::Origin;
use crate::domain::ExecutionRecord;
use crate::engine::Stream;

/// GET /jobs/{id}/output: server-sent events `stdout`, `stderr` and at last `end`, whether the job
/// waits, runs here or on another node, or has ended.
pub async fn follow(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    app.record(&caller, id).await?;
    let seen = sse::last_event_id(&request, Seen::read)?.unwrap_or_default();
    let origin = caller.origin;
    Ok(sse::answer(&app, move |app, sink| Watch { app, sink, id, origin, seen, distant: None }.run()))
}

/// Which attempt the client watches (0 before any) and how much of each stream it has. Written as
/// the event's id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    attempt: u32,
    stdout: u64,
    stderr: u64,
}

impl Seen {
    fn read(id: &str) -> Option<Self> {
        let mut numbers = id.split('.');
        let (attempt, stdout, stderr) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let seen = Self { attempt: attempt.parse().ok()?, stdout: stdout.parse().ok()?, stderr: stderr.parse().ok()? };
        numbers.next().is_none().then_some(seen)
    }

    fn write(self) -> String {
        format!("{}.{}.{}", self.attempt, self.stdout, self.stderr)
    }

    fn of(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

struct Watch {
    app: web::Data<App>,
    sink: Sink,
    id: Uuid,
    origin: Origin,
    seen: Seen,
    /// Of a job that runs on another node.
    distant: Option<Distant>,
}

/// The output of another node's job, as it comes by the database.
struct Distant {
    follow: DistantFollow,
    stdout: Tail,
    stderr: Tail,
}

impl Watch {
    async fn run(mut self) -> Result<(), Ended> {
        let mut pace = Pace::new();
        loop {
            let record = self.app.record(&self.origin, self.id).await?;
            self.begin_attempt(&record).await?;
            if record.is_ended() {
                return self.end(&record).await;
            }
            if self.live().await? {
                pace.quicken();
            } else {
                if self.runs_elsewhere(&record) && self.distant(record.attempt).await? {
                    pace.quicken();
                }
                // Not started yet, or on another node.
                let ended = self.app.waiters.ended(self.id, Duration::from_secs(1));
                tokio::select! {
                    _ = ended => {}
                    () = pace.pause() => {}
                }
            }
        }
    }

    /// A job that is tried again writes again from the beginning.
    async fn begin_attempt(&mut self, record: &ExecutionRecord) -> Result<(), Ended> {
        if Moments::of(record).started_at.is_none() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.seen.attempt, record.attempt);
        if before != 0 && before != record.attempt {
            self.seen = Seen { attempt: record.attempt, ..Seen::default() };
            let data = json!({"attempt": record.attempt}).to_string();
            self.sink.send(&self.seen.write(), "restart", &data).await?;
        }
        Ok(())
    }

    /// Follows a job that runs on this node to its end; false when there is none.
    async fn live(&mut self) -> Result<bool, Ended> {
        let Some(mut follow) = self.app.live_output.follow(self.id, 0) else { return Ok(false) };
        let (mut stdout, mut stderr) = (Tail::default(), Tail::default());
        while let Some((_, stream, bytes)) = follow.next().await {
            let tail = match stream {
                Stream::Stdout => &mut stdout,
                Stream::Stderr => &mut stderr,
            };
            if let Some((offset, whole)) = tail.take(&bytes) {
                self.send(stream, offset, &whole).await?;
            }
        }
        Ok(true)
    }

    fn runs_elsewhere(&self, record: &ExecutionRecord) -> bool {
        let has_started = Moments::of(record).started_at.is_some();
        has_started && record.claim().is_some_and(|claim| claim.node_id != self.app.node_id)
    }

    /// Sends what came of a job that runs on another node; false when nothing did.
    async fn distant(&mut self, attempt: u32) -> Result<bool, Ended> {
        let mut distant = match self.distant.take() {
            Some(distant) if distant.follow.attempt() == attempt => distant,
            _ => Distant {
                follow: DistantFollow::new(self.app.store.clone(), self.id, attempt),
                stdout: Tail::default(),
                stderr: Tail::default(),
            },
        };
        let chunks = distant.follow.poll().await.map_err(Problem::from)?;
        let has_come = !chunks.is_empty();
        for (stream, bytes) in chunks {
            let tail = match stream {
                Stream::Stdout => &mut distant.stdout,
                Stream::Stderr => &mut distant.stderr,
            };
            if let Some((offset, whole)) = tail.take(&bytes) {
                self.send(stream, offset, &whole).await?;
            }
        }
        self.distant = Some(distant);
        Ok(has_come)
    }

    async fn end(&mut self, record: &ExecutionRecord) -> Result<(), Ended> {
        if let Some(observed) = view::observed(record) {
            let (stdout, stderr) = (observed.stdout.hash, observed.stderr.hash);
            let blobs = self.app.blobs(vec![stdout, stderr]).await?;
            for (stream, hash) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
                if let Some(bytes) = blobs.get(&hash) {
                    self.send(stream, 0, bytes).await?;
                }
            }
        }
        let data = json!({
            "status": record.status(),
            "exit_code": view::observed(record).and_then(|observed| observed.exit_code),
            "stdout_truncated": view::observed(record).is_some_and(|observed| observed.stdout.truncated),
            "stderr_truncated": view::observed(record).is_some_and(|observed| observed.stderr.truncated),
        });
        self.sink.send(&self.seen.write(), "end", &data.to_string()).await
    }

    /// Sends what the client has not seen of bytes that begin at `offset`.
    async fn send(&mut self, stream: Stream, offset: u64, bytes: &[u8]) -> Result<(), Ended> {
        let seen = *self.seen.of(stream);
        let skip = usize::try_from(seen.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(fresh) = bytes.get(skip..).filter(|fresh| !fresh.is_empty()) else { return Ok(()) };
        let offset = offset + skip as u64;
        *self.seen.of(stream) = offset + fresh.len() as u64;
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let data = json!({"offset": offset, "text": String::from_utf8_lossy(fresh)}).to_string();
        self.sink.send(&self.seen.write(), name, &data).await
    }
}

/// Holds back the beginning of a character whose rest is in the next chunk.
#[derive(Debug, Default)]
struct Tail {
    offset: u64,
    held: Vec<u8>,
}

impl Tail {
    /// What is whole now, with its offset in the stream.
    fn take(&mut self, bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
        self.held.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.held) {
            Ok(_) => self.held.len(),
            // Bytes that can never become a character are sent as they are, and shown as such.
            Err(error) => error.error_len().map_or(error.valid_up_to(), |_| self.held.len()),
        };
        let rest = self.held.split_off(whole);
        let ready = std::mem::replace(&mut self.held, rest);
        let offset = self.offset;
        self.offset += ready.len() as u64;
        (!ready.is_empty()).then_some((offset, ready))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(chunks: &[&[u8]]) -> Vec<(u64, String)> {
        let mut tail = Tail::default();
        chunks
            .iter()
            .filter_map(|chunk| tail.take(chunk))
            .map(|(offset, bytes)| (offset, String::from_utf8_lossy(&bytes).into_owned()))
            .collect()
    }

    #[test]
    fn a_character_cut_by_chunks_arrives_whole() {
        let text = "a€😀b".as_bytes();
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            let texts: String = taken(&[one, other]).into_iter().map(|(_, text)| text).collect();
            assert_eq!(texts, "a€😀b", "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_held_back_for_ever() {
        assert_eq!(taken(&[b"a\xff", b"b"]), [(0, "a\u{fffd}".to_owned()), (2, "b".to_owned())]);
    }

    #[test]
    fn a_place_reads_back() {
        let seen = Seen { attempt: 1, stdout: 12, stderr: 3 };
        assert_eq!(Seen::read(&seen.write()), Some(seen));
        for text in ["", "12", "1.2", "a.b.c", "1.-1.2", "1.2.3.4"] {
            assert_eq!(Seen::read(text), None, "{text}");
        }
    }
}

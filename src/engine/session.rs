//! The host's end of a session with a guest, over whatever carries its bytes.
//!
//! User code cannot forge frames, but a sandbox that was broken out of can send anything.
//! So every size, count and order that the guest promises is checked here again, and a
//! guest that breaks a promise is lost, never believed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tako_guest::frame::{self, HEADER_BYTES, Kind};
use tako_guest::protocol::{self, Boot, Cancel, Fault, FaultKind, FileHeader, Phase, Ready, Report, VERSION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::relay::{Outgoing, Relay};
use super::{Error, Job, OutputChunk, Run, Stream};
use crate::crash_point::{self, Moment};
use crate::domain::{Delivery, SECRETS_FOLDER};
use crate::egress;

/// What comes from the guest's standard output.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// What goes to the guest's standard input. Closing it ends the sandbox.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// How much longer than the job's own limit the guest may take before it counts as gone.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long the collection of artifacts may take in all.
const COLLECTION_LIMIT: Duration = Duration::from_secs(60);

/// Frames of channels that wait for the guest to read; each waits in its channel before.
const OUTGOING_FRAMES: usize = 16;

const FILE_PIECE_BYTES: usize = 256 * 1024;

/// A guest whose interpreter waits for a job. Dropping it closes the stream, which ends the
/// sandbox's processes.
pub struct Session {
    frames: Frames,
    writer: Writer,
}

impl Session {
    /// Sends `boot` and waits until the interpreter is ready, at most `deadline` from now.
    ///
    /// `deadline` should exceed the guest's own `startup_timeout_ms`, whose answer tells more.
    ///
    /// # Errors
    /// [`Error::Startup`] with the guest's fault, or with one made here when the deadline
    /// passes; [`Error::Lost`] when the stream ends or breaks the protocol.
    pub async fn boot(
        reader: Reader,
        mut writer: Writer,
        boot: &Boot,
        deadline: Duration,
    ) -> Result<(Self, Ready), Error> {
        let mut frames = Frames { reader, buffer: BytesMut::new() };
        let exchange = async {
            // A guest that cannot be written to may have said why before it went.
            let sent = write_json(&mut writer, Kind::Boot, boot).await;
            match frames.next().await {
                Err(_) if let Err(unsent) = sent => Err(unsent),
                answer => answer,
            }
        };
        let (kind, payload) = tokio::time::timeout(deadline, exchange).await.map_err(|_| {
            Error::Startup(Fault {
                phase: Phase::Startup,
                kind: FaultKind::StartupTimeout,
                message: format!("sandbox said nothing within {} ms", deadline.as_millis()),
            })
        })??;
        match kind {
            Kind::Ready => {
                let ready: Ready = parse(&payload)?;
                if ready.protocol != VERSION {
                    return Err(lost(format!("guest speaks protocol {}, host {VERSION}", ready.protocol)));
                }
                Ok((Self { frames, writer }, ready))
            }
            Kind::Fault => Err(Error::Startup(parse_fault(&payload)?)),
            kind => Err(lost(format!("guest sent {kind:?} before it was ready"))),
        }
    }

    /// Whether the guest is silent and connected, as one whose interpreter waits must be.
    pub fn is_waiting(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut unexpected = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.frames.reader).poll_read(&mut context, &mut unexpected).is_pending()
    }

    /// Runs the job and waits for the report, after which the sandbox is of no more use.
    ///
    /// The report's `oom_killed` and `peak_memory_bytes` are the guest's; the engine completes
    /// them. `output` is never waited for: what does not fit is dropped from the live stream
    /// and still is in the returned `Run`. The guest has `grace` beyond the job's limit
    /// (and beyond a cancellation) to answer.
    ///
    /// # Errors
    /// [`Error::Guest`] (whose phase is `Startup` when the code was never begun),
    /// [`Error::Lost`] or [`Error::Unresponsive`]; the caller kills the
    /// sandbox in every case.
    pub async fn run(
        self,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
        grace: Duration,
    ) -> Result<Run, Error> {
        let Self { mut frames, mut writer } = self;
        let (outgoing, mut for_guest) = mpsc::channel(OUTGOING_FRAMES);
        let mut relay = job.egress.as_ref().map(|gate| Relay::new(Arc::clone(gate), outgoing.clone()));
        let sending = async {
            let sent = send_job(&mut writer, &job).await;
            if sent.is_ok() {
                send_more(&mut writer, &mut for_guest, &cancel).await;
            }
            // A failure to send shows as the other stream's end or fault, which tells more;
            // the stream stays open, because its end would cancel the job.
            std::future::pending::<()>().await
        };
        tokio::pin!(sending);

        let mut received = Received::new(&job, output);
        let mut backstop = Backstop::new(job.execution_timeout, grace);
        loop {
            tokio::select! {
                biased;
                () = &mut sending => {}
                () = cancel.cancelled(), if !backstop.cancelled => backstop.cancel(),
                () = tokio::time::sleep_until(backstop.at) => {
                    return Err(Error::Unresponsive(backstop.begun.elapsed()));
                }
                frame = frames.next() => {
                    let (kind, payload) = frame?;
                    match kind {
                        Kind::Started => backstop.started(),
                        Kind::Artifact | Kind::ArtifactData => {
                            crash_point::reach("engine", "collect", Moment::Before);
                            backstop.collecting();
                        }
                        _ => {}
                    }
                    if let (true, Some(relay)) = (is_of_channel(kind) && received.is_running(), &mut relay) {
                        relay.take(kind, payload).map_err(|broken| lost(format!("guest broke a channel: {}", broken.0)))?;
                        continue;
                    }
                    if let Some(report) = received.take(kind, payload)? {
                        crash_point::reach("engine", "collect", Moment::After);
                        return received.finish(report);
                    }
                }
            }
        }
    }
}

/// When the host gives the guest up.
struct Backstop {
    begun: Instant,
    at: Instant,
    execution_timeout: Duration,
    grace: Duration,
    cancelled: bool,
    collection_ends: Option<Instant>,
}

impl Backstop {
    fn new(execution_timeout: Duration, grace: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, at: begun + grace, execution_timeout, grace, cancelled: false, collection_ends: None }
    }

    fn started(&mut self) {
        if !self.cancelled {
            self.at = Instant::now() + self.execution_timeout + self.grace;
        }
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.at = self.at.min(Instant::now() + self.grace);
    }

    fn collecting(&mut self) {
        let now = Instant::now();
        let ends = *self.collection_ends.get_or_insert(now + COLLECTION_LIMIT);
        self.at = ends.min(now + self.grace);
    }
}

/// What the guest has sent of a run, held to what the job allows.
struct Received {
    output: mpsc::Sender<OutputChunk>,
    started: bool,
    stdout: BytesMut,
    stderr: BytesMut,
    stdout_limit_bytes: u64,
    stderr_limit_bytes: u64,
    limits: protocol::ArtifactLimits,
    artifacts: Vec<(String, Bytes)>,
    artifact_bytes: u64,
    incoming: Option<Incoming>,
}

struct Incoming {
    path: String,
    announced: u64,
    bytes: BytesMut,
}

impl Received {
    fn new(job: &Job, output: mpsc::Sender<OutputChunk>) -> Self {
        Self {
            output,
            started: false,
            stdout: BytesMut::new(),
            stderr: BytesMut::new(),
            stdout_limit_bytes: job.stdout_limit_bytes,
            stderr_limit_bytes: job.stderr_limit_bytes,
            limits: job.artifacts,
            artifacts: Vec::new(),
            artifact_bytes: 0,
            incoming: None,
        }
    }

    /// Takes one frame; the report when it was the last one.
    fn take(&mut self, kind: Kind, payload: Bytes) -> Result<Option<Report>, Error> {
        if self.incoming.is_some() && !matches!(kind, Kind::ArtifactData | Kind::Fault) {
            return Err(lost(format!("guest sent {kind:?} inside an artifact")));
        }
        match kind {
            Kind::Started if !self.started => self.started = true,
            Kind::Stdout if self.started && self.artifacts.is_empty() => {
                self.chunk(Stream::Stdout, payload)?;
            }
            Kind::Stderr if self.started && self.artifacts.is_empty() => {
                self.chunk(Stream::Stderr, payload)?;
            }
            Kind::Artifact if self.started => self.announce(parse(&payload)?)?,
            Kind::ArtifactData => self.piece(&payload)?,
            Kind::Exited => return parse(&payload).map(Some),
            Kind::Fault => return Err(Error::Guest(parse_fault(&payload)?)),
            kind => return Err(lost(format!("guest sent {kind:?} out of order"))),
        }
        Ok(None)
    }

    /// The code runs, or has just ended.
    fn is_running(&self) -> bool {
        self.started && self.artifacts.is_empty() && self.incoming.is_none()
    }

    fn chunk(&mut self, stream: Stream, bytes: Bytes) -> Result<(), Error> {
        let (kept, limit) = match stream {
            Stream::Stdout => (&mut self.stdout, self.stdout_limit_bytes),
            Stream::Stderr => (&mut self.stderr, self.stderr_limit_bytes),
        };
        if (kept.len() + bytes.len()) as u64 > limit {
            return Err(lost(format!("guest sent more than {limit} bytes of {stream:?}")));
        }
        kept.extend_from_slice(&bytes);
        // A receiver that is slow or gone misses the live stream and nothing else.
        let _ = self.output.try_send(OutputChunk { stream, bytes });
        Ok(())
    }

    fn announce(&mut self, header: FileHeader) -> Result<(), Error> {
        if !is_artifact_path(&header.path) {
            return Err(lost("guest sent an artifact of a forbidden name".to_owned()));
        }
        if self.artifacts.iter().any(|(path, _)| *path == header.path) {
            return Err(lost("guest sent an artifact twice".to_owned()));
        }
        let total = self.artifact_bytes.checked_add(header.bytes);
        if self.artifacts.len() as u64 >= u64::from(self.limits.max_count)
            || header.bytes > self.limits.max_file_bytes
            || total.is_none_or(|total| total > self.limits.max_total_bytes)
        {
            return Err(lost("guest sent artifacts beyond their limits".to_owned()));
        }
        self.artifact_bytes += header.bytes;
        let incoming = Incoming { path: header.path, announced: header.bytes, bytes: BytesMut::new() };
        self.keep_if_complete(incoming);
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Some(mut incoming) = self.incoming.take() else {
            return Err(lost("guest sent data of no artifact".to_owned()));
        };
        incoming.bytes.extend_from_slice(piece);
        if piece.is_empty() || incoming.bytes.len() as u64 > incoming.announced {
            return Err(lost("guest sent an artifact of another size than announced".to_owned()));
        }
        self.keep_if_complete(incoming);
        Ok(())
    }

    fn keep_if_complete(&mut self, incoming: Incoming) {
        if incoming.bytes.len() as u64 == incoming.announced {
            self.artifacts.push((incoming.path, incoming.bytes.freeze()));
        } else {
            self.incoming = Some(incoming);
        }
    }

    fn finish(self, report: Report) -> Result<Run, Error> {
        if !is_bounded(&report) {
            return Err(lost("guest sent a report of more than the protocol allows".to_owned()));
        }
        Ok(Run { report, stdout: self.stdout.freeze(), stderr: self.stderr.freeze(), artifacts: self.artifacts })
    }
}

/// Whether every text and list of a report is as short as the protocol promises.
fn is_bounded(report: &Report) -> bool {
    let exception = report.exception.as_ref().is_none_or(|exception| {
        exception.class.len() <= protocol::MAX_NAME_BYTES
            && exception.bases.len() <= protocol::MAX_BASES
            && exception.bases.iter().all(|base| base.len() <= protocol::MAX_NAME_BYTES)
            && exception.message.len() <= protocol::MAX_MESSAGE_BYTES
    });
    exception
        && report.refused_artifacts.len() <= protocol::MAX_REFUSED_ARTIFACTS
        && report.refused_artifacts.iter().all(|refused| refused.name.len() <= protocol::MAX_PATH_BYTES)
}

/// Whether a path is one that a guest may announce: relative, of plain names, printable.
fn is_artifact_path(path: &str) -> bool {
    path.len() <= protocol::MAX_PATH_BYTES
        && !path.chars().any(char::is_control)
        && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// Whole frames out of a byte stream. Dropping the future of [`Frames::next`] loses nothing.
struct Frames {
    reader: Reader,
    buffer: BytesMut,
}

impl Frames {
    async fn next(&mut self) -> Result<(Kind, Bytes), Error> {
        loop {
            if let Some(frame) = self.take_whole()? {
                return Ok(frame);
            }
            self.buffer.reserve(64 * 1024);
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(lost("sandbox ended without a report".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(lost(format!("cannot read from the sandbox: {error}"))),
            }
        }
    }

    fn take_whole(&mut self) -> Result<Option<(Kind, Bytes)>, Error> {
        let Some(head) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (kind, length) = frame::parse_header(*head).map_err(|error| lost(error.to_string()))?;
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let mut whole = self.buffer.split_to(HEADER_BYTES + length).freeze();
        Ok(Some((kind, whole.split_off(HEADER_BYTES))))
    }
}

fn is_of_channel(kind: Kind) -> bool {
    matches!(kind, Kind::ChannelOpen | Kind::FromCode | Kind::FromCodeEnd | Kind::CodeTook | Kind::ChannelClosed)
}

/// What goes to the guest while the code runs; returns when nothing more can.
async fn send_more(writer: &mut Writer, for_guest: &mut mpsc::Receiver<Outgoing>, cancel: &CancellationToken) {
    let mut is_cancelled = false;
    loop {
        // A guest that is already gone says so on the other stream.
        let sent = tokio::select! {
            () = cancel.cancelled(), if !is_cancelled => {
                is_cancelled = true;
                write_json(writer, Kind::Cancel, &Cancel {}).await
            }
            Some((kind, payload)) = for_guest.recv() => write_frame(writer, kind, &payload).await,
            else => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn send_job(writer: &mut Writer, job: &Job) -> Result<(), Error> {
    send_file(writer, "/code/main.py", &job.code).await?;
    send_file(writer, "/input/data.json", &job.input).await?;
    for (name, bytes) in &job.files {
        send_file(writer, &format!("/input/{name}"), bytes).await?;
    }
    let mut environment = job.egress.as_ref().map(|gate| gate.environment()).unwrap_or_default();
    for secret in &job.secrets {
        match (&secret.delivery, std::str::from_utf8(secret.value.expose())) {
            (Delivery::Env, Ok(text)) if !text.contains('\0') => {
                environment.insert(secret.name.clone(), text.to_owned());
            }
            // A variable cannot hold what is no text, and then a file does.
            (Delivery::File | Delivery::Env, _) => {
                send_file(writer, &format!("{SECRETS_FOLDER}/{}", secret.name), secret.value.expose()).await?;
            }
            // Not the sandbox's business.
            (Delivery::Header { .. }, _) => {}
        }
    }
    let run = protocol::Run {
        environment,
        egress_port: job.egress.as_ref().map(|_| egress::PORT),
        execution_timeout_ms: u64::try_from(job.execution_timeout.as_millis()).unwrap_or(u64::MAX),
        stdout_limit_bytes: job.stdout_limit_bytes,
        stderr_limit_bytes: job.stderr_limit_bytes,
        artifacts: job.artifacts,
    };
    write_json(writer, Kind::Run, &run).await
}

async fn send_file(writer: &mut Writer, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let header = FileHeader { path: path.to_owned(), bytes: bytes.len() as u64 };
    write_json(writer, Kind::File, &header).await?;
    for piece in bytes.chunks(FILE_PIECE_BYTES) {
        write_frame(writer, Kind::FileData, piece).await?;
    }
    Ok(())
}

async fn write_json(writer: &mut Writer, kind: Kind, record: &impl Serialize) -> Result<(), Error> {
    let payload = serde_json::to_vec(record).map_err(|error| lost(error.to_string()))?;
    write_frame(writer, kind, &payload).await
}

async fn write_frame(writer: &mut Writer, kind: Kind, payload: &[u8]) -> Result<(), Error> {
    let broken = |error: std::io::Error| lost(format!("cannot write to the sandbox: {error}"));
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame::write(&mut bytes, kind, payload).map_err(broken)?;
    writer.write_all(&bytes).await.map_err(broken)?;
    writer.flush().await.map_err(broken)
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(payload).map_err(|error| lost(format!("guest sent a record that does not parse: {error}")))
}

fn parse_fault(payload: &[u8]) -> Result<Fault, Error> {
    let mut fault: Fault = parse(payload)?;
    fault.message = protocol::prefix(&fault.message, protocol::MAX_MESSAGE_BYTES).to_owned();
    Ok(fault)
}

fn lost(message: String) -> Error {
    Error::Lost { message, oom_killed: false }
}

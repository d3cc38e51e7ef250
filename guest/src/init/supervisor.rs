//! One session, phase by phase; each waits in [`Supervisor::turn`] and nowhere else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::capture::Capture;
use super::cgroup::MemoryCgroup;
use super::channel::{FrameReader, FrameWriter};
use super::egress::Egress;
use super::facts::{children_usage, parse_exception};
use super::faults::{fault, file_fault, millis, parse, pollfd, protocol_fault, unexpected};
use super::files::IncomingFile;
use super::interpreter::Interpreter;
use super::processes::{self, Ended, Reaped};
use super::signals::Signals;
use super::stream::{PIECE_BYTES, Sink, Stream};
use super::{collect, privileges, sys};
use crate::frame::{FrameError, Kind};
use crate::protocol::{Boot, End, Fault, FaultKind, FileHeader, Phase, Ready, RefusedArtifact, Report, Run, VERSION};

/// Output is read no further while the host has this much to take, and the code waits.
const PENDING_HIGH_BYTES: usize = 1 << 20;
/// How long a host may take nothing of the final frames before it is given up.
const HOST_PATIENCE: Duration = Duration::from_secs(30);
/// How long the interpreter may take to acknowledge the job, which is microseconds.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(4);
const TOLD_STDERR_BYTES: usize = 2048;
const EXCEPTION_BYTES: usize = 32 * 1024;

/// Serves a session; the guest's exit status.
pub fn serve(input: OwnedFd, output: OwnedFd) -> i32 {
    let mut supervisor = match Supervisor::new(input, output) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(io::stderr(), "tako-guest: cannot begin a session: {error}");
            return 1;
        }
    };
    if let Err(fault) = supervisor.session() {
        // Whatever is left dies with this process or now; the fault stands either way.
        let _ = processes::end_all(supervisor.is_init, &supervisor.signals);
        supervisor.send_json(Kind::Fault, &fault);
    }
    supervisor.output.drain_to(0, HOST_PATIENCE);
    0
}

struct Supervisor {
    input: FrameReader,
    output: FrameWriter,
    signals: Signals,
    is_init: bool,
    cgroup: Option<MemoryCgroup>,
    /// The code's way out, while it runs.
    egress: Option<Egress>,
    /// Somebody outside asked the guest to end.
    terminated: bool,
    /// Children have ended that were not looked at yet.
    ended_children: bool,
}

/// The job's process and what came of it so far.
struct Job {
    interpreter: Interpreter,
    stdout: Stream,
    stderr: Stream,
    ready: Stream,
    exception: Stream,
    /// Wait status of the interpreter, and when it was seen.
    ended: Option<(libc::c_int, Instant)>,
}

impl Supervisor {
    fn new(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        // SAFETY: flags and identity of this process alone.
        let is_init = unsafe {
            sys::check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
            let is_init = libc::getpid() == 1;
            if !is_init {
                sys::check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
            }
            libc::umask(0o022);
            is_init
        };
        let signals = Signals::listen(is_init)?;
        let input = sys::move_up(input, 10)?;
        let output = sys::move_up(output, 10)?;
        Ok(Self {
            input: FrameReader::new(input)?,
            output: FrameWriter::new(output)?,
            signals,
            is_init,
            cgroup: MemoryCgroup::find(),
            egress: None,
            terminated: false,
            ended_children: false,
        })
    }

    fn session(&mut self) -> Result<(), Fault> {
        let Some(boot) = self.receive_boot()? else {
            return Ok(());
        };
        let started = Instant::now();
        let interpreter = Interpreter::start(&boot, self.is_init)
            .map_err(|error| fault(Phase::Startup, FaultKind::StartupFailed, error))?;
        let mut job = Job {
            interpreter,
            stdout: Stream::new(Sink::First(0, Vec::new())),
            stderr: Stream::new(Sink::Last(TOLD_STDERR_BYTES, Vec::new())),
            ready: Stream::new(Sink::First(128, Vec::new())),
            exception: Stream::new(Sink::First(EXCEPTION_BYTES, Vec::new())),
            ended: None,
        };
        let run = match self.await_ready(&mut job, &boot, started)? {
            true => self.receive_job(&mut job)?,
            false => None,
        };
        let Some(run) = run else {
            return self.finish(job, None, true);
        };
        let (clock, cancelled) = self.execute(&mut job, &run)?;
        self.finish(job, Some((run, clock)), cancelled)
    }

    /// Waits for the first frame; `None` when the host lost interest before.
    fn receive_boot(&mut self) -> Result<Option<Boot>, Fault> {
        loop {
            if let Some((kind, payload)) = self.next_frame(Phase::Startup)? {
                if kind != Kind::Boot {
                    return Err(protocol_fault(Phase::Startup, "the first frame is not Boot"));
                }
                let boot: Boot = parse(Phase::Startup, &payload)?;
                if boot.protocol != VERSION {
                    let message = format!("host speaks protocol {}, guest {VERSION}", boot.protocol);
                    return Err(protocol_fault(Phase::Startup, &message));
                }
                if !privileges::can_kill(boot.uid) {
                    let message = "guest runs as root without CAP_KILL";
                    return Err(fault(Phase::Startup, FaultKind::System, message));
                }
                return Ok(Some(boot));
            }
            if self.host_is_gone() {
                return Ok(None);
            }
            self.turn(None, None, Phase::Startup)?;
        }
    }

    /// Waits until the interpreter says it is ready; `false` when the host lost interest.
    fn await_ready(&mut self, job: &mut Job, boot: &Boot, started: Instant) -> Result<bool, Fault> {
        let limit = Duration::from_millis(boot.startup_timeout_ms);
        loop {
            if job.ended.is_some() {
                return Err(self.startup_failed(job));
            }
            if let Some(version) = job.ready.kept().strip_prefix(b"ready ").and_then(|line| line.strip_suffix(b"\n")) {
                let ready = Ready {
                    protocol: VERSION,
                    python_version: String::from_utf8_lossy(version).into_owned(),
                    startup_ms: millis(started.elapsed()),
                };
                self.send_json(Kind::Ready, &ready);
                return Ok(true);
            }
            if started.elapsed() >= limit {
                let message = format!("not ready within {} ms", boot.startup_timeout_ms);
                return Err(fault(Phase::Startup, FaultKind::StartupTimeout, message));
            }
            if self.host_is_gone() {
                return Ok(false);
            }
            if let Some((kind, _)) = self.next_frame(Phase::Startup)? {
                return match kind {
                    Kind::Cancel => Ok(false),
                    kind => Err(unexpected(Phase::Startup, kind)),
                };
            }
            self.turn(Some(job), Some(started + limit), Phase::Startup)?;
        }
    }

    /// Waits for the job and writes its files; `None` when it is cancelled before it came.
    fn receive_job(&mut self, job: &mut Job) -> Result<Option<Run>, Fault> {
        const PHASE: Phase = Phase::Startup;
        let mut incoming: Option<IncomingFile> = None;
        loop {
            if job.ended.is_some() {
                return Err(self.startup_failed(job));
            }
            while let Some((kind, payload)) = self.next_frame(PHASE)? {
                let between_files = incoming.as_ref().is_none_or(IncomingFile::is_complete);
                match (kind, &mut incoming) {
                    (Kind::File, _) if between_files => {
                        let header: FileHeader = parse(PHASE, &payload)?;
                        incoming = Some(IncomingFile::create(&header).map_err(file_fault)?);
                    }
                    (Kind::FileData, Some(file)) => file.append(&payload).map_err(file_fault)?,
                    (Kind::Run, _) if between_files => return parse(PHASE, &payload).map(Some),
                    (Kind::Cancel, _) => return Ok(None),
                    (kind, _) => return Err(unexpected(PHASE, kind)),
                }
            }
            if self.host_is_gone() {
                return Ok(None);
            }
            self.turn(Some(job), None, PHASE)?;
        }
    }

    /// Starts the code and waits for its end, its limit, or a cancellation. Returns when it
    /// started with the CPU time spent before, and whether it was cancelled.
    fn execute(&mut self, job: &mut Job, run: &Run) -> Result<(Clock, bool), Fault> {
        const PHASE: Phase = Phase::Execution;
        // What preloaded modules printed is not the code's.
        job.drain(&mut self.output);
        // Children of a program that executed the guest count as the guest's own.
        let cpu_before_ms = job.interpreter.cpu_ms() + children_usage().cpu_ms;
        if let Some(port) = run.egress_port {
            let listening = Egress::listen(port);
            self.egress = Some(listening.map_err(|error| fault(Phase::Startup, FaultKind::System, error))?);
        }
        self.hand_over(job, run)?;
        job.stdout.sink = Sink::Forward(Kind::Stdout, Capture::new(run.stdout_limit_bytes));
        job.stderr.sink = Sink::Forward(Kind::Stderr, Capture::new(run.stderr_limit_bytes));
        self.send(Kind::Started, &[]);
        let started = Instant::now();
        let deadline = started.checked_add(Duration::from_millis(run.execution_timeout_ms));
        let mut clock = Clock { started, cpu_before_ms, timed_out: false };
        loop {
            if job.ended.is_some() {
                return Ok((clock, false));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                clock.timed_out = true;
                return Ok((clock, false));
            }
            let mut cancelled = self.host_is_gone();
            while let Some((kind, payload)) = self.next_frame(PHASE)? {
                match (kind, &mut self.egress) {
                    (Kind::Cancel, _) => cancelled = true,
                    (Kind::ToCode | Kind::ToCodeEnd | Kind::HostTook, Some(egress)) => {
                        let taken = egress.take(kind, &payload, &mut self.output);
                        taken.map_err(|_| protocol_fault(PHASE, "a channel's frame is not one"))?;
                    }
                    (kind, _) => return Err(unexpected(PHASE, kind)),
                }
            }
            if cancelled {
                return Ok((clock, true));
            }
            self.turn(Some(job), deadline, PHASE)?;
        }
    }

    /// Tells the interpreter to go and waits for its word that it did, without which an
    /// interpreter that died just before would look like code that died at once.
    fn hand_over(&mut self, job: &mut Job, run: &Run) -> Result<(), Fault> {
        const PHASE: Phase = Phase::Startup;
        let give_up = Instant::now() + HAND_OVER_LIMIT;
        match job.interpreter.go(&run.environment) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(fault(PHASE, FaultKind::Protocol, error));
            }
            // A pipe that nobody reads any more says so below.
            _ => {}
        }
        let mut buffer = [0; 16];
        while job.ready.open {
            let timeout = give_up.saturating_duration_since(Instant::now());
            if timeout.is_zero() {
                return Err(fault(PHASE, FaultKind::StartupTimeout, "interpreter does not take the job"));
            }
            let mut fds = [pollfd(Some(job.interpreter.ready.as_fd()), libc::POLLIN)];
            sys::poll(&mut fds, Some(timeout)).map_err(|error| fault(PHASE, FaultKind::System, error))?;
            job.ready.pump(job.interpreter.ready.as_fd(), &mut buffer, &mut self.output);
            if job.ready.kept().ends_with(b"!") {
                return Ok(());
            }
        }
        let ended = processes::end_all(self.is_init, &self.signals);
        job.note(&ended.unwrap_or_default());
        Err(self.startup_failed(job))
    }

    /// Ends every process, collects `/output`, reports.
    fn finish(&mut self, mut job: Job, ran: Option<(Run, Clock)>, cancelled: bool) -> Result<(), Fault> {
        let ended = processes::end_all(self.is_init, &self.signals)
            .map_err(|error| fault(Phase::Execution, FaultKind::System, error))?;
        self.egress = None;
        job.note(&ended);
        job.drain(&mut self.output);
        job.stdout.finish(&mut self.output);
        job.stderr.finish(&mut self.output);
        let oom_killed = self.cgroup.as_ref().and_then(MemoryCgroup::oom_killed);
        let peak = self.cgroup.as_ref().and_then(MemoryCgroup::peak_bytes);
        let (status, ended_at) = job.ended.unwrap_or((0, Instant::now()));
        let timed_out = ran.as_ref().is_some_and(|(_, clock)| clock.timed_out);
        let end = if libc::WIFEXITED(status) && !cancelled {
            End::Exited { code: libc::WEXITSTATUS(status) }
        } else if cancelled {
            End::Cancelled
        } else if timed_out && libc::WTERMSIG(status) == libc::SIGKILL {
            End::TimedOut
        } else {
            End::Signaled { signal: libc::WTERMSIG(status) }
        };
        let usage = children_usage();
        let mut report = Report {
            end,
            exception: match end {
                End::Exited { code: 0 } => None,
                _ => parse_exception(job.exception.kept()),
            },
            wall_ms: 0,
            cpu_ms: 0,
            peak_memory_bytes: peak.unwrap_or(usage.peak_memory_bytes),
            oom_killed,
            stdout_truncated: false,
            stderr_truncated: false,
            stdout_total_bytes: 0,
            stderr_total_bytes: 0,
            refused_artifacts: Vec::new(),
        };
        if let Sink::Forward(_, capture) = &job.stdout.sink {
            report.stdout_truncated = capture.truncated();
            report.stdout_total_bytes = capture.total();
        }
        if let Sink::Forward(_, capture) = &job.stderr.sink {
            report.stderr_truncated = capture.truncated();
            report.stderr_total_bytes = capture.total();
        }
        if let Some((run, clock)) = ran {
            report.wall_ms = millis(ended_at.saturating_duration_since(clock.started));
            report.cpu_ms = usage.cpu_ms.saturating_sub(clock.cpu_before_ms);
            report.refused_artifacts =
                self.send_artifacts(&run).map_err(|error| fault(Phase::Collection, FaultKind::System, error))?;
        }
        self.send_json(Kind::Exited, &report);
        Ok(())
    }

    fn send_artifacts(&mut self, run: &Run) -> io::Result<Vec<RefusedArtifact>> {
        let mut buffer = vec![0; PIECE_BYTES];
        collect::collect(c"/output", run.artifacts, |artifact| {
            let header = FileHeader { path: artifact.path, bytes: artifact.bytes };
            self.send_json(Kind::Artifact, &header);
            let mut left = artifact.bytes;
            while left > 0 && !self.output.broken() {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = sys::read(artifact.file.as_fd(), &mut buffer[..most])?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.send(Kind::ArtifactData, &buffer[..count]);
                left -= count as u64;
                self.output.drain_to(4 * PIECE_BYTES, HOST_PATIENCE);
            }
            Ok(())
        })
    }

    fn startup_failed(&mut self, job: &mut Job) -> Fault {
        job.drain(&mut self.output);
        let status = job.ended.map_or(0, |(status, _)| status);
        let how = if libc::WIFSIGNALED(status) {
            format!("by signal {}", libc::WTERMSIG(status))
        } else {
            format!("with status {}", libc::WEXITSTATUS(status))
        };
        let stderr = String::from_utf8_lossy(job.stderr.kept());
        let message = format!("interpreter ended {how} before the job: {}", stderr.trim());
        fault(Phase::Startup, FaultKind::StartupFailed, message)
    }

    fn host_is_gone(&self) -> bool {
        self.terminated || self.output.broken() || self.input.ended()
    }

    fn next_frame(&mut self, phase: Phase) -> Result<Option<(Kind, Vec<u8>)>, Fault> {
        self.input.next().map_err(|error: FrameError| protocol_fault(phase, &error.to_string()))
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        // Payloads are pieces or small records, far below the longest frame.
        let _ = self.output.push(kind, payload);
    }

    fn send_json(&mut self, kind: Kind, record: &impl serde::Serialize) {
        if let Ok(payload) = serde_json::to_vec(record) {
            self.send(kind, &payload);
        }
    }

    /// Waits for anything to happen, at most until the deadline, and takes what did.
    fn turn(&mut self, mut job: Option<&mut Job>, deadline: Option<Instant>, phase: Phase) -> Result<(), Fault> {
        let mut fds = vec![
            pollfd(Some(self.signals.fd()), libc::POLLIN),
            pollfd(self.input.fd(), libc::POLLIN),
            pollfd((self.output.pending() > 0).then(|| self.output.fd()), libc::POLLOUT),
        ];
        if let Some(job) = job.as_deref_mut() {
            let wait_for_host = self.output.pending() > PENDING_HIGH_BYTES;
            for (fd, stream) in job.streams() {
                fds.push(pollfd((stream.open && !wait_for_host).then_some(fd), libc::POLLIN));
            }
        }
        let own = fds.len();
        if let Some(egress) = &mut self.egress {
            egress.add_to(&mut fds, self.output.pending() > PENDING_HIGH_BYTES);
        }
        let timeout = match deadline {
            _ if self.ended_children => Some(Duration::ZERO),
            deadline => deadline.map(|at| at.saturating_duration_since(Instant::now())),
        };
        sys::poll(&mut fds, timeout).map_err(|error| fault(phase, FaultKind::System, error))?;

        let happened = |index: usize| fds.get(index).is_some_and(|fd| fd.revents != 0);
        if happened(1) {
            self.input.fill();
        }
        if happened(2) {
            self.output.flush();
        }
        if let Some(egress) = &mut self.egress {
            egress.serve(&fds[own..], &mut self.output);
        }
        if let Some(job) = job {
            let mut buffer = [0; PIECE_BYTES];
            for (index, (fd, stream)) in (3..).zip(job.streams()) {
                if happened(index) {
                    stream.pump(fd, &mut buffer, &mut self.output);
                }
            }
            if happened(0) {
                let arrived = self.signals.take();
                self.terminated |= arrived.terminate;
                self.ended_children |= arrived.child;
            }
            if self.ended_children {
                let (Reaped::Some(ended) | Reaped::All(ended)) = processes::reap();
                self.ended_children = processes::is_full(&ended);
                job.note(&ended);
            }
        } else if happened(0) {
            self.terminated |= self.signals.take().terminate;
        }
        Ok(())
    }
}

/// When the code started, and what had happened before.
struct Clock {
    started: Instant,
    cpu_before_ms: u64,
    timed_out: bool,
}

impl Job {
    fn streams(&mut self) -> [(BorrowedFd<'_>, &mut Stream); 4] {
        [
            (self.interpreter.stdout.as_fd(), &mut self.stdout),
            (self.interpreter.stderr.as_fd(), &mut self.stderr),
            (self.interpreter.ready.as_fd(), &mut self.ready),
            (self.interpreter.exception.as_fd(), &mut self.exception),
        ]
    }

    /// Takes what is in the pipes now.
    fn drain(&mut self, output: &mut FrameWriter) {
        let mut buffer = [0; PIECE_BYTES];
        for (fd, stream) in self.streams() {
            stream.drain(fd, &mut buffer, output);
        }
    }

    fn note(&mut self, ended: &[Ended]) {
        let own = ended.iter().find(|(pid, _)| *pid == self.interpreter.pid);
        if let (None, Some((_, status))) = (self.ended, own) {
            self.ended = Some((*status, Instant::now()));
        }
    }
}

//! Runs all cases on one engine.

use std::any::Any;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{self, StreamExt};
use tako_guest::protocol::ArtifactLimits;
use tako_vm::domain::{self, Digest, Observed, Output, Timing, Usage, outcome};
use tako_vm::engine::{Error, Job, OutputChunk, Run, Sandbox, SandboxLimits};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::arena::{Arena, Place};
use super::case::{Case, Seen, Verdict};
use super::remains::Remains;
use super::stage::{Stage, Told};
use super::{catalogue, neighbour, table};

const MIB: u64 = 1 << 20;

/// What an attack has unless its case says otherwise.
const LIMITS: SandboxLimits = SandboxLimits {
    memory_bytes: 128 * MIB,
    cpu_millis: 1000,
    pids: 64,
    open_files: 256,
    file_bytes: 16 * MIB,
    tmp_bytes: 32 * MIB,
    output_bytes: 32 * MIB,
    inodes: 1000,
};

/// Engines are attacked one after the other, because a neighbour is to be disturbed by the
/// attack beside it and by nobody else.
static TURN: Mutex<()> = Mutex::const_new(());

/// Runs the cases against an engine, looks at the host, and compares or writes the docs.
pub async fn run(place: Place) {
    let _turn = TURN.lock().await;
    let arena = match Arena::open(place).await {
        Ok(arena) => arena,
        Err(reason) => {
            say(&format!("SKIPPED: attacks on {}: {reason}", place.as_str()));
            return;
        }
    };
    let wanted = std::env::var("ATTACKS").unwrap_or_default();
    let cases: Vec<Case> = catalogue::all().into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let stage = Stage::set().expect("loopback listeners and a temporary file");
    let mut remains = Remains::of(&arena);
    let begun = Instant::now();

    let (arena_here, told, remains_here) = (&arena, stage.told(), &remains);
    let one = |case| async move {
        let begun = Instant::now();
        let outcome = AssertUnwindSafe(attack(arena_here, case, told, remains_here)).catch_unwind().await;
        (case, outcome.map_err(text_of), begun.elapsed())
    };
    let mut outcomes: Vec<_> = stream::iter(&cases).map(one).buffered(place.in_flight()).collect().await;
    // A machine that is busy with other tests can make a case late; what fails beside others must
    // hold alone.
    for outcome in &mut outcomes {
        if let Err(why) = &outcome.1 {
            say(&format!("again, alone, on {}: {}: {why}", place.as_str(), outcome.0.name));
            *outcome = one(outcome.0).await;
        }
    }
    let took = begun.elapsed();

    let mut failures = Vec::new();
    let mut verdicts = Vec::new();
    for (case, outcome, took) in outcomes {
        if std::env::var_os("ATTACKS").is_some() {
            say(&format!("{:<12} {:<34} {took:>8.1?} {outcome:?}", place.as_str(), case.name));
        }
        match outcome {
            Ok(verdict) => verdicts.push((case, verdict)),
            Err(why) => failures.push(format!("{}: {why}", case.name)),
        }
    }
    arena.engine.shutdown().await;
    failures.extend(stage.visitors().iter().map(|visitor| format!("somebody reached the host by {visitor}")));
    failures.extend(stage.strays().iter().map(|path| format!("{path} was made on the host")));
    failures.extend(remains.look(&arena).await);
    assert!(failures.is_empty(), "{} failures on {}:\n{}", failures.len(), place.as_str(), failures.join("\n"));
    say(&format!("{} attacks on {} in {took:.1?}", cases.len(), place.as_str()));
    if wanted.is_empty() {
        table::settle(place, &arena.versions, &verdicts);
    }
}

/// Past the test harness, which shows what a test prints only when it fails.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("panicked", |text| text).to_owned(),
    }
}

/// Runs one attack beside a neighbour; panics when anything is not as it must be.
async fn attack(arena: &Arena, case: &Case, told: &Told, remains: &Remains) -> Verdict {
    let mut limits = LIMITS;
    let mut job = job(case.code, told);
    (case.tune)(&mut limits, &mut job);
    // Long enough to be there for the attack, whether it ends by itself or by its limit.
    let work = (job.execution_timeout + Duration::from_millis(200)).min(Duration::from_secs(2));
    let work = if case.expected.verdict == Verdict::TimedOut { work } else { Duration::from_millis(600) };

    let (attack_spec, neighbour_spec) = (arena.spec(limits), arena.spec(neighbour::LIMITS));
    let (beside, sandbox) = tokio::join!(arena.engine.start(&neighbour_spec), arena.engine.start(&attack_spec));
    let (beside, sandbox) = (beside.expect("a neighbour starts"), sandbox.expect("a sandbox starts"));
    remains.note(beside.id());
    remains.note(sandbox.id());
    let (output, chunks) = mpsc::channel(16);
    let neighbours = beside.run(neighbour::job(work), output, CancellationToken::new());
    let (timeout, memory) = (job.execution_timeout, limits.memory_bytes);
    let (outcome, neighbours) = tokio::join!(after_first_word(chunks, sandbox, job), neighbours);

    let verdict = verdict(&outcome, timeout, memory);
    let run = outcome.as_ref().ok().cloned();
    let expected = case.expected_at(arena.place);
    assert_eq!(verdict, Some(expected.verdict), "{}", told_by(&outcome));
    (expected.proof)(&Seen { run, limits, stage: told.clone() });
    neighbour::check(neighbours, work);
    expected.verdict
}

/// The attack begins when the neighbour is at work.
async fn after_first_word(
    mut chunks: mpsc::Receiver<OutputChunk>,
    sandbox: Box<dyn Sandbox>,
    job: Job,
) -> Result<Run, Error> {
    let _ = chunks.recv().await;
    let (output, _) = mpsc::channel(16);
    sandbox.run(job, output, CancellationToken::new()).await
}

fn job(code: &'static str, told: &Told) -> Job {
    Job {
        code: Bytes::from_static(code.as_bytes()),
        input: Bytes::from(serde_json::to_vec(told).expect("the input is JSON")),
        files: vec![("attempt.py".to_owned(), Bytes::from_static(include_bytes!("cases/attempt.py")))],
        secrets: Vec::new(),
        egress: None,
        execution_timeout: Duration::from_secs(60),
        stdout_limit_bytes: 64 << 10,
        stderr_limit_bytes: 64 << 10,
        artifacts: ArtifactLimits { max_count: 20, max_file_bytes: MIB, max_total_bytes: 4 * MIB },
    }
}

/// What a record would say; `None` when it would blame the service.
fn verdict(outcome: &Result<Run, Error>, timeout: Duration, memory_limit_bytes: u64) -> Option<Verdict> {
    let report = match outcome {
        Ok(run) => &run.report,
        Err(Error::Lost { oom_killed: true, .. }) => return Some(Verdict::OutOfMemory),
        Err(_) => return None,
    };
    let output = Output { hash: Digest::of(b""), bytes: 0, truncated: false };
    let ending = outcome::classify(outcome::Facts {
        end: report.end,
        exception: report.exception.clone(),
        execution_timeout_ms: timeout.as_millis() as u64,
        memory_limit_bytes,
        observed: Observed {
            exit_code: None,
            signal: None,
            timing: Timing {
                startup_ms: 0,
                dep_install_ms: 0,
                execution_ms: report.wall_ms,
                total_ms: report.wall_ms,
                phase_at_exit: domain::Phase::Execution,
            },
            usage: Usage {
                max_rss_bytes: report.peak_memory_bytes,
                cpu_time_ms: report.cpu_ms,
                wall_time_ms: report.wall_ms,
                oom_killed: report.oom_killed.unwrap_or(false),
            },
            stdout: output,
            stderr: output,
            output: None,
            artifacts: Vec::new(),
            refused_artifacts: Vec::new(),
        },
    });
    Some(Verdict::of(&ending))
}

fn told_by(outcome: &Result<Run, Error>) -> String {
    match outcome {
        Ok(run) => {
            let shown = |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
            format!("{:?}, stdout {:?}, stderr {}", run.report, shown(&run.stdout), shown(&run.stderr))
        }
        Err(error) => error.to_string(),
    }
}

//! An engine that runs nothing: it answers what the job's code says it should.
//!
//! For tests of the actors and for benches of everything but the sandbox. The code is read line
//! by line:
//!
//! | line | effect |
//! |---|---|
//! | `print TEXT` | TEXT and a newline on standard output |
//! | `output JSON` | `/output/result.json` |
//! | `sleep MS` | takes that long, or until the time limit or a cancel |
//! | `exit CODE` | ends with that code |
//! | `oom` | the OOM killer strikes |
//! | `lose` | the sandbox vanishes: an infrastructure failure |
//! | anything else | nothing |

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tako_guest::protocol::{End, Report};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Engine, Error, Image, Job, Kind, OutputChunk, Run, Sandbox, SandboxLabels, SandboxSpec, Stream};

/// See the module.
#[derive(Debug, Default)]
pub struct ScriptedEngine {
    started: AtomicU64,
}

struct ScriptedSandbox {
    id: String,
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn kind(&self) -> Kind {
        Kind::Scripted
    }

    fn runtime(&self) -> &str {
        "scripted"
    }

    async fn resolve_image(&self, reference: &str) -> Result<Image, Error> {
        Ok(Image { reference: reference.to_owned(), digest: format!("sha256:{}", "0".repeat(64)) })
    }

    async fn start(&self, _: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(ScriptedSandbox { id: format!("scripted-{number}") }))
    }

    async fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self, _: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn shutdown(&self) {}
}

#[async_trait]
impl Sandbox for ScriptedSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn startup(&self) -> Duration {
        Duration::ZERO
    }

    fn is_waiting(&mut self) -> bool {
        true
    }

    async fn run(
        self: Box<Self>,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<Run, Error> {
        let began = Instant::now();
        let mut run = Run {
            report: report(End::Exited { code: 0 }),
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            artifacts: Vec::new(),
        };
        let mut stdout = Vec::new();
        for line in String::from_utf8_lossy(&job.code).lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "print" => {
                    let bytes = Bytes::from(format!("{rest}\n"));
                    stdout.extend_from_slice(&bytes);
                    let _ = output.try_send(OutputChunk { stream: Stream::Stdout, bytes });
                }
                "output" => run.artifacts.push(("result.json".to_owned(), Bytes::from(rest.to_owned()))),
                "sleep" => {
                    let asked = Duration::from_millis(rest.parse().unwrap_or_default());
                    let left = job.execution_timeout.saturating_sub(began.elapsed());
                    tokio::select! {
                        () = tokio::time::sleep(asked.min(left)) => {}
                        () = cancel.cancelled() => run.report.end = End::Cancelled,
                    }
                    if asked >= left && run.report.end != End::Cancelled {
                        run.report.end = End::TimedOut;
                    }
                }
                "exit" => run.report.end = End::Exited { code: rest.parse().unwrap_or(1) },
                "oom" => {
                    run.report.end = End::Signaled { signal: libc::SIGKILL };
                    run.report.oom_killed = Some(true);
                }
                "lose" => {
                    return Err(Error::Lost { message: "the script says so".to_owned(), oom_killed: false });
                }
                _ => {}
            }
            if run.report.end != (End::Exited { code: 0 }) {
                break;
            }
        }
        run.report.wall_ms = began.elapsed().as_millis() as u64;
        run.report.stdout_total_bytes = stdout.len() as u64;
        run.stdout = Bytes::from(stdout);
        Ok(run)
    }

    async fn destroy(self: Box<Self>) {}
}

fn report(end: End) -> Report {
    Report {
        end,
        exception: None,
        wall_ms: 0,
        cpu_ms: 0,
        peak_memory_bytes: 0,
        oom_killed: Some(false),
        stdout_truncated: false,
        stderr_truncated: false,
        stdout_total_bytes: 0,
        stderr_total_bytes: 0,
        refused_artifacts: Vec::new(),
    }
}

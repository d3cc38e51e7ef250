//! An engine that runs nothing: it answers what the job's code says it should.
//!
//! For tests of the actors and for benches of everything but the sandbox. The code is read line
//! by line:
//!
//! | line | effect |
//! |---|---|
//! | `print TEXT` | TEXT and a newline on standard output |
//! | `err TEXT` | TEXT and a newline on standard error |
//! | `output JSON` | `/output/result.json` |
//! | `artifact NAME TEXT` | `/output/NAME` |
//! | `read NAME` | what `/input/NAME` has, on standard output |
//! | `secret NAME` | the value of that secret, and a newline, on standard output |
//! | `sleep MS` | takes that long, or until the time limit or a cancel |
//! | `exit CODE` | ends with that code |
//! | `oom` | the OOM killer strikes |
//! | `lose` | the sandbox vanishes: an infrastructure failure |
//! | `busy SECONDS` | the engine has no time, and asks to be left alone for so long |
//! | `hang` | the engine never answers |
//! | anything else | nothing |
//!
//! A build takes what its requirements say: `fails` fails, `hangs` never ends, any other is there.
//!
//! `%n` in a line is the number of the run, from 0, and `%i` the image's reference.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tako_guest::protocol::{End, Report};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::build::{BuildError, BuiltImage, Log, Made, Plan};
use super::{Engine, Error, Image, Job, Kind, OutputChunk, Run, Sandbox, SandboxLabels, SandboxSpec, Stream};

/// See the module.
#[derive(Debug)]
pub struct ScriptedEngine {
    started: AtomicU64,
    ran: Arc<AtomicU64>,
    runtime: String,
    digest: String,
    missing: BTreeSet<String>,
    /// Stands for another word.
    word: Option<(String, String)>,
    built: Mutex<Vec<BuiltImage>>,
    builds: Arc<AtomicU64>,
    /// What a build waits for.
    gate: Option<Arc<Semaphore>>,
}

impl Default for ScriptedEngine {
    fn default() -> Self {
        Self {
            started: AtomicU64::new(0),
            ran: Arc::default(),
            runtime: "scripted".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            missing: BTreeSet::new(),
            word: None,
            built: Mutex::default(),
            builds: Arc::default(),
            gate: None,
        }
    }
}

impl ScriptedEngine {
    /// One that says it isolates by another runtime.
    #[must_use]
    pub fn with_runtime(self, runtime: &str) -> Self {
        Self { runtime: runtime.to_owned(), ..self }
    }

    /// One whose images are other bytes.
    #[must_use]
    pub fn with_image_digest(self, digest: &str) -> Self {
        Self { digest: digest.to_owned(), ..self }
    }

    /// One that does not have an image.
    #[must_use]
    pub fn without_image(mut self, reference: &str) -> Self {
        self.missing.insert(reference.to_owned());
        self
    }

    /// One whose builds are counted, and each takes a permit to end.
    #[must_use]
    pub fn with_builds(self, builds: Arc<AtomicU64>, gate: Option<Arc<Semaphore>>) -> Self {
        Self { builds, gate, ..self }
    }

    fn built_images(&self) -> MutexGuard<'_, Vec<BuiltImage>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that reads one word as another, so that the same code does something else.
    #[must_use]
    pub fn with_word(self, word: &str, meaning: &str) -> Self {
        Self { word: Some((word.to_owned(), meaning.to_owned())), ..self }
    }
}

struct ScriptedSandbox {
    id: String,
    ran: Arc<AtomicU64>,
    image: String,
    word: Option<(String, String)>,
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn kind(&self) -> Kind {
        Kind::Scripted
    }

    fn runtime(&self) -> &str {
        &self.runtime
    }

    async fn resolve_image(&self, reference: &str) -> Result<Image, Error> {
        if self.missing.contains(reference) {
            return Err(Error::Image { reference: reference.to_owned(), message: "the script says so".to_owned() });
        }
        Ok(Image { reference: reference.to_owned(), digest: self.digest.clone() })
    }

    async fn base(&self, reference: &str, _: bool) -> Result<Option<String>, Error> {
        self.resolve_image(reference).await.map(|image| Some(image.digest))
    }

    async fn build(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        self.builds.fetch_add(1, Ordering::Relaxed);
        log.say(format!("building {}", plan.job_type));
        if let Some(gate) = &self.gate {
            gate.acquire().await.map_err(|_| BuildError::Cancelled)?.forget();
        }
        for requirement in &plan.requirements {
            log.say(format!("getting {requirement}"));
            match requirement.as_str() {
                "fails" => return Err(BuildError::Failed(format!("no matching distribution for {requirement}"))),
                "hangs" => std::future::pending().await,
                _ => {}
            }
        }
        let digest = format!("sha256:{}", plan.digest);
        let image = Image { reference: format!("built:{}:{}", plan.job_type, plan.digest), digest };
        let (job_type, version) = (plan.job_type.clone(), plan.digest.clone());
        let bytes = 1000;
        self.built_images().push(BuiltImage { job_type, version, image: image.clone(), bytes });
        Ok(Made { image, lock: plan.requirements.join("\n"), dockerfile: None })
    }

    async fn find_built(&self, _: &str, digest: &str) -> Result<Option<Image>, Error> {
        let built = self.built_images();
        Ok(built.iter().find(|built| built.version == digest).map(|built| built.image.clone()))
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        Ok(self.built_images().clone())
    }

    async fn remove_built(&self, gone: &BuiltImage) -> Result<bool, Error> {
        self.built_images().retain(|built| built != gone);
        Ok(true)
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let (id, image) = (format!("scripted-{number}"), spec.image.reference.clone());
        Ok(Box::new(ScriptedSandbox { id, ran: Arc::clone(&self.ran), image, word: self.word.clone() }))
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
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let script = String::from_utf8_lossy(&job.code);
        let script =
            script.replace("%n", &self.ran.fetch_add(1, Ordering::Relaxed).to_string()).replace("%i", &self.image);
        for line in script.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let word = self.word.as_ref().filter(|(given, _)| given == word).map_or(word, |(_, meaning)| meaning);
            match word {
                "print" => {
                    let bytes = Bytes::from(format!("{rest}\n"));
                    stdout.extend_from_slice(&bytes);
                    let _ = output.try_send(OutputChunk { stream: Stream::Stdout, bytes });
                }
                "err" => {
                    let bytes = Bytes::from(format!("{rest}\n"));
                    stderr.extend_from_slice(&bytes);
                    let _ = output.try_send(OutputChunk { stream: Stream::Stderr, bytes });
                }
                "read" => {
                    let file = job.files.iter().find(|(name, _)| name == rest);
                    stdout.extend_from_slice(file.map_or(b"no such file\n", |(_, bytes)| bytes));
                }
                "secret" => {
                    let secret = job.secrets.iter().find(|secret| secret.name == rest);
                    let value = secret.map_or(&b"no such secret"[..], |secret| secret.value.expose());
                    let bytes = Bytes::from([value, b"\n"].concat());
                    stdout.extend_from_slice(&bytes);
                    let _ = output.try_send(OutputChunk { stream: Stream::Stdout, bytes });
                }
                "artifact" => {
                    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                    run.artifacts.push((name.to_owned(), Bytes::from(text.to_owned())));
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
                "busy" => {
                    let retry_after = rest.parse().ok().map(Duration::from_secs_f64);
                    let message = "the script says so".to_owned();
                    return Err(Error::Unavailable { engine: "scripted", message, retry_after });
                }
                "lose" => {
                    return Err(Error::Lost { message: "the script says so".to_owned(), oom_killed: false });
                }
                "hang" => std::future::pending().await,
                _ => {}
            }
            if run.report.end != (End::Exited { code: 0 }) {
                break;
            }
        }
        run.report.wall_ms = began.elapsed().as_millis() as u64;
        run.report.stdout_total_bytes = stdout.len() as u64;
        run.report.stderr_total_bytes = stderr.len() as u64;
        run.stdout = Bytes::from(stdout);
        run.stderr = Bytes::from(stderr);
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

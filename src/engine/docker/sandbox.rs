//! One container from its creation to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    StartContainerOptions, WaitContainerOptions,
};
use futures::StreamExt;
use tako_guest::protocol::{self, Boot, Rlimits};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attached::{self, Diagnosis};
use super::container;
use super::daemon::{CallError, Daemon};
use super::removal::{Container, Removals};
use crate::engine::session::{GRACE, Session};
use crate::engine::{Error, Job, OutputChunk, Run, Sandbox, SandboxSpec};

/// How long a container may take to end after its streams did.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// A container whose guest waits for its only job.
pub(super) struct DockerSandbox {
    container: Container,
    session: Session,
    startup: Duration,
    daemon: Arc<Daemon>,
    diagnosis: Diagnosis,
}

impl DockerSandbox {
    /// Creates, attaches, starts and boots, in this order: attached before the start, no
    /// byte of the guest's is missed.
    pub async fn start(
        daemon: &Arc<Daemon>,
        removals: &Arc<Removals>,
        spec: &SandboxSpec,
        runtime: &str,
    ) -> Result<Self, Error> {
        let begun = Instant::now();
        let container = create(daemon, removals, spec, runtime).await?;
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .build();
        let docker = &daemon.docker;
        let attach = docker.attach_container(container.id(), Some(options));
        let attached = daemon.call("attach", attach).await?;
        let (reader, writer, diagnosis) = attached::split(attached);
        let start = docker.start_container(container.id(), None::<StartContainerOptions>);
        daemon.call("start", start).await?;
        // The guest's own answer to a slow start tells more, so it goes first.
        let deadline = spec.startup_timeout + GRACE;
        let session = match Session::boot(reader, writer, &boot(spec), deadline).await {
            Ok((session, _ready)) => session,
            Err(error) => return Err(explain(error, daemon, container.id(), &diagnosis).await),
        };
        let startup = begun.elapsed();
        Ok(Self { container, session, startup, daemon: Arc::clone(daemon), diagnosis })
    }
}

/// User and group of the user's code, which `docker/Dockerfile.executor` gives a name.
const USER: u32 = 1000;

fn boot(spec: &SandboxSpec) -> Boot {
    Boot {
        protocol: protocol::VERSION,
        python: None,
        preload: spec.preload.clone(),
        environment: spec.environment.clone(),
        uid: USER,
        gid: USER,
        startup_timeout_ms: u64::try_from(spec.startup_timeout.as_millis()).unwrap_or(u64::MAX),
        rlimits: Rlimits {
            open_files: spec.limits.open_files.into(),
            file_bytes: spec.limits.file_bytes,
            // The kernel would count this user's processes in all containers together; the
            // cgroup counts those of one.
            processes: 0,
        },
    }
}

/// Creates the container in a task that outlives this future: were the request dropped
/// half-way, the daemon could still create what nobody knows of.
async fn create(
    daemon: &Arc<Daemon>,
    removals: &Arc<Removals>,
    spec: &SandboxSpec,
    runtime: &str,
) -> Result<Container, Error> {
    let name = format!("tako-vm-{}", Uuid::new_v4().simple());
    let body = container::body(spec, runtime);
    let created = removals.spawn({
        let (daemon, removals) = (Arc::clone(daemon), Arc::clone(removals));
        async move {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            let request = daemon.docker.create_container(Some(options), body);
            match daemon.call("create", request).await {
                Ok(created) => Ok(removals.own(created.id)),
                Err(error) => {
                    if matches!(error, CallError::TimedOut { .. } | CallError::Transport { .. }) {
                        removals.forget_creation(name);
                    }
                    Err(error)
                }
            }
        }
    });
    match created.await {
        Ok(Ok(container)) => Ok(container),
        Ok(Err(error)) if error.is_absent() => Err(Error::Image {
            reference: spec.image.reference.clone(),
            message: error.to_string(),
        }),
        Ok(Err(error)) => Err(error.into()),
        Err(lost) => Err(super::daemon::unavailable(format!("creation was lost: {lost}"))),
    }
}

/// Adds to a lost session what the daemon and the container's standard error know of it.
async fn explain(error: Error, daemon: &Daemon, id: &str, diagnosis: &Diagnosis) -> Error {
    let Error::Lost { message, oom_killed } = error else {
        return error;
    };
    // The streams end before the daemon has noted how the container ended.
    let mut end = daemon.docker.wait_container(id, None::<WaitContainerOptions>);
    let _ = tokio::time::timeout(END_TIMEOUT, end.next()).await;
    let oom_killed = oom_killed || was_oom_killed(daemon, id).await.unwrap_or(false);
    let said = diagnosis.text();
    let message = if said.is_empty() { message } else { format!("{message}; it said: {said}") };
    Error::Lost { message, oom_killed }
}

/// Whether the daemon saw the cgroup's OOM killer; `None` when it does not say.
async fn was_oom_killed(daemon: &Daemon, id: &str) -> Option<bool> {
    let inspect = daemon.docker.inspect_container(id, None::<InspectContainerOptions>);
    let state = daemon.call("inspect", inspect).await.ok()?.state?;
    state.oom_killed
}

#[async_trait]
impl Sandbox for DockerSandbox {
    fn id(&self) -> &str {
        self.container.id()
    }

    fn startup(&self) -> Duration {
        self.startup
    }

    /// After a report every process of the job is dead, so the container's removal goes on
    /// behind the answer; the engine's `shutdown` waits for it. In every other case the
    /// container is gone before the error is returned.
    async fn run(
        self: Box<Self>,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<Run, Error> {
        let Self { container, session, daemon, diagnosis, .. } = *self;
        match session.run(job, output, cancel, GRACE).await {
            Ok(mut run) => {
                if run.report.oom_killed.is_none() {
                    run.report.oom_killed = was_oom_killed(&daemon, container.id()).await;
                }
                Ok(run)
            }
            Err(error) => {
                let error = explain(error, &daemon, container.id(), &diagnosis).await;
                container.remove().await;
                Err(error)
            }
        }
    }

    async fn destroy(self: Box<Self>) {
        let Self { container, session, .. } = *self;
        drop(session);
        container.remove().await;
    }
}

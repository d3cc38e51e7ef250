//! One container from its creation to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::query_parameters::{AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, StartContainerOptions};
use tako_guest::protocol::{self, Boot, Rlimits};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attached::{self, Diagnosis};
use super::config::GVISOR;
use super::container::{self, Terms};
use super::daemon::{CallError, Daemon, unavailable};
use super::gpu;
use super::post_mortem::{explain, was_oom_killed};
use super::removal::{Container, Removals};
use crate::engine::session::{GRACE, Session};
use crate::engine::{Error, Job, OutputChunk, Run, Sandbox, SandboxSpec};

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
        terms: &Terms,
    ) -> Result<Self, Error> {
        let begun = Instant::now();
        let container = create(daemon, removals, spec, terms).await?;
        let options =
            AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
        let docker = &daemon.docker;
        let attach = docker.attach_container(container.id(), Some(options));
        let attached = daemon.call("attach", attach).await?;
        let (reader, writer, diagnosis) = attached::split(attached);
        let start = docker.start_container(container.id(), None::<StartContainerOptions>);
        daemon.call("start", start).await?;
        // The guest's own answer to a slow start tells more, so it goes first.
        let deadline = spec.startup_timeout + GRACE;
        let session = match Session::boot(reader, writer, &boot(spec, &terms.runtime), deadline).await {
            Ok((session, _ready)) => session,
            Err(error) => return Err(explain(error, daemon, container.id(), &diagnosis).await),
        };
        let startup = begun.elapsed();
        Ok(Self { container, session, startup, daemon: Arc::clone(daemon), diagnosis })
    }
}

/// User and group of the user's code, which `docker/Dockerfile.executor` gives a name.
const USER: u32 = 1000;

fn boot(spec: &SandboxSpec, runtime: &str) -> Boot {
    Boot {
        protocol: protocol::VERSION,
        python: None,
        preload: spec.preload.clone(),
        environment: spec.environment.clone(),
        uid: USER,
        gid: USER,
        devices: spec.gpu.as_ref().map(gpu::nodes).unwrap_or_default(),
        startup_timeout_ms: u64::try_from(spec.startup_timeout.as_millis()).unwrap_or(u64::MAX),
        rlimits: Rlimits {
            open_files: spec.limits.open_files.into(),
            file_bytes: spec.limits.file_bytes,
            // The host's kernel would count this user's processes in all containers together, and
            // the cgroup counts those of one. gVisor's kernel has one container, and its threads
            // on the host say little of the job's.
            processes: if runtime == GVISOR { spec.limits.pids.into() } else { 0 },
        },
    }
}

/// Creates the container in a task that outlives this future: were the request dropped
/// half-way, the daemon could still create what nobody knows of.
async fn create(
    daemon: &Arc<Daemon>,
    removals: &Arc<Removals>,
    spec: &SandboxSpec,
    terms: &Terms,
) -> Result<Container, Error> {
    let name = format!("tako-vm-{}", Uuid::new_v4().simple());
    let body = container::body(spec, terms);
    // A container that nobody receives is dropped inside the task, which removes it.
    let (give, receive) = oneshot::channel();
    removals.spawn({
        let (daemon, removals) = (Arc::clone(daemon), Arc::clone(removals));
        async move {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            let request = daemon.docker.create_container(Some(options), body);
            let created = daemon.call("create", request).await;
            if let Err(CallError::TimedOut { .. } | CallError::Transport { .. }) = created {
                removals.forget_creation(name);
            }
            let _ = give.send(created.map(|created| removals.own(created.id)));
        }
    });
    match receive.await {
        Ok(Ok(container)) => Ok(container),
        Ok(Err(error)) if error.is_absent() => {
            Err(Error::Image { reference: spec.image.reference.clone(), message: error.to_string() })
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(unavailable("the creation was given up".to_owned())),
    }
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
    fn is_waiting(&mut self) -> bool {
        self.session.is_waiting()
    }

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

//! The native engine: cells, made when first needed, and sandboxes in them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tako_guest::protocol::{Boot, Rlimits, VERSION};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::cell::Cell;
use super::cells::Cells;
use super::cgroup::{Cgroups, Limit};
use super::config::{NativeConfig, Root};
use super::host_root::HostRoot;
use super::identity;
use super::layers::{LAYER, Layers};
use super::registry::Registry;
use super::sandbox::{Lease, NativeSandbox};
use crate::engine::build::{BuildError, BuiltImage, Log, Made, PLACE, Plan};
use crate::engine::session::{GRACE, Session};
use crate::engine::{Engine, Error, Image, Kind, Sandbox, SandboxLabels, SandboxLimits, SandboxSpec};

/// The one image this engine has: the Python of its root.
pub(super) const HOST_IMAGE: &str = "host";

/// The user of the job's code, inside.
const USER: u32 = 1000;

const HEALTH_LIMIT: Duration = Duration::from_secs(2);

/// See the module above.
pub struct NativeEngine {
    pub(super) config: NativeConfig,
    pub(super) root: HostRoot,
    pub(super) layers: Option<Layers>,
    pub(super) cells: Arc<Cells>,
    permits: Arc<Semaphore>,
    /// The digest that [`Engine::resolve_image`] gave last.
    pub(super) digest: Mutex<Option<String>>,
}

/// What the native engine can do on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether guest and code are two host users. As an ordinary user they share that user's id.
    pub own_users: bool,
    /// Version of the cgroups that limit sandboxes.
    pub cgroup_version: Option<u8>,
    /// Limits that are not enforced. Without [`Limit::Memory`] the address space of each
    /// process is limited instead, without [`Limit::Pids`] the processes of the user.
    pub missing_limits: Vec<Limit>,
}

impl NativeEngine {
    /// Looks at the host and clears away what ended servers left.
    ///
    /// # Errors
    /// [`Error::Image`] without an interpreter; [`Error::Unavailable`] where limits are required and
    /// missing; [`Error::System`] when the runtime directory cannot be had.
    pub fn new(config: NativeConfig) -> Result<Self, Error> {
        let root = HostRoot::plan(&config)?;
        let cgroups = Arc::new(Cgroups::find());
        let missing: Vec<_> = cgroups.missing().iter().map(|limit| limit.as_str()).collect();
        if config.require_limits && !missing.is_empty() {
            return Err(Error::Unavailable {
                engine: "native",
                message: format!(
                    "no cgroup limits {}; run as root, or under a unit with Delegate=yes",
                    missing.join(", ")
                ),
                retry_after: None,
            });
        }
        let in_runtime_dir =
            |source| Error::System { context: "native engine: cannot use its runtime directory".to_owned(), source };
        let registry = Registry::open(config.runtime_dir.as_deref()).map_err(in_runtime_dir)?;
        for slot in registry.abandoned().map_err(in_runtime_dir)? {
            // What cannot be cleared now is tried again when its number is taken.
            if let Err(error) = cgroups.clear(&slot.name) {
                tracing::warn!(cell = slot.name, %error, "cannot clear an abandoned cell");
            }
        }
        Ok(Self {
            permits: Arc::new(Semaphore::new(config.max_cells)),
            cells: Arc::new(Cells::new(registry, cgroups)),
            digest: Mutex::new(None),
            layers: config.layers.as_deref().map(Layers::at),
            root,
            config,
        })
    }

    /// Makes one sandbox and destroys it.
    ///
    /// # Errors
    /// In a sentence, what is missing on this host.
    pub async fn supported(config: NativeConfig) -> Result<(), String> {
        let probe = async {
            let engine = Self::new(NativeConfig { max_cells: 1, ..config })?;
            let image = engine.resolve_image(HOST_IMAGE).await?;
            let outcome = engine.start(&probe_spec(image)).await;
            if let Ok(sandbox) = outcome {
                sandbox.destroy().await;
                engine.shutdown().await;
                return Ok(());
            }
            engine.shutdown().await;
            outcome.map(drop)
        };
        probe.await.map_err(|error: Error| explain(&error))
    }

    /// What this host offers.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            // SAFETY: geteuid cannot fail.
            own_users: unsafe { libc::geteuid() } == 0,
            cgroup_version: match *self.cells.cgroups {
                Cgroups::V1(_) => Some(1),
                Cgroups::V2(_) => Some(2),
                Cgroups::None => None,
            },
            missing_limits: self.cells.cgroups.missing(),
        }
    }

    async fn lease(&self, layer: Option<&str>, patience: Duration) -> Result<Lease, Error> {
        let permit = tokio::time::timeout(patience, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| unavailable(format!("all {} cells are taken", self.config.max_cells)))?
            .map_err(|_| unavailable("shut down".to_owned()))?;
        let cell = match self.cells.take(layer) {
            Some(cell) => cell,
            None => self.make_cell(layer).await?,
        };
        Ok(Lease { cells: self.cells.clone(), cell: Some(cell), permit: Some(permit) })
    }

    /// Starts PID 1 in the lease's cell, in a new cell if that one has died meanwhile, and has
    /// the guest start the interpreter.
    async fn boot(&self, lease: &mut Lease, id: &str, spec: &SandboxSpec) -> Result<Session, Error> {
        let layer = layer_of(&spec.image);
        let python = match layer {
            Some(_) => Some(format!("{PLACE}/bin/python3")),
            None => self.root.python_inside.clone(),
        };
        let boot = boot_frame(spec, python);
        let deadline = spec.startup_timeout + GRACE;
        loop {
            let fresh = lease.cell.is_none();
            let cell = match lease.cell.as_mut() {
                Some(cell) => cell,
                None => lease.cell.insert(self.make_cell(layer).await?),
            };
            let (host, guest) = frame_stream()?;
            let (reader, writer) = host.into_split();
            // The first frame waits in the stream while PID 1 is being made. Should that fail, the
            // guest's end closes and the session with it.
            let session = Session::boot(Box::new(reader), Box::new(writer), &boot, deadline);
            let (spawned, booted) = tokio::join!(spawn(cell, id, spec, guest), session);
            match spawned {
                Ok(()) => return booted.map(|(session, _)| session),
                Err(error) => {
                    lease.cell = None;
                    if fresh || !matches!(error, Error::Unavailable { .. }) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn check_image(&self, image: &Image) -> Result<(), Error> {
        if layer_of(image).is_some() {
            let here = self.layers()?.resolve(&image.reference)?;
            return match here.digest == image.digest {
                true => Ok(()),
                false => Err(Error::Image {
                    reference: image.reference.clone(),
                    message: format!("asked for {}, this host has {}", image.digest, here.digest),
                }),
            };
        }
        let now = self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match now {
            Some(digest) if digest != image.digest => Err(Error::Image {
                reference: image.reference.clone(),
                message: format!("asked for {}, the host has {digest}", image.digest),
            }),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for NativeEngine {
    fn kind(&self) -> Kind {
        Kind::Native
    }

    fn runtime(&self) -> &str {
        "namespaces"
    }

    fn missing_limits(&self) -> Vec<&'static str> {
        self.cells.cgroups.missing().iter().map(|limit| limit.as_str()).collect()
    }

    /// Knows `host`, the Python of the configured root, and the layers that were made.
    async fn resolve_image(&self, reference: &str) -> Result<Image, Error> {
        if reference.starts_with(LAYER) {
            return self.layers()?.resolve(reference);
        }
        let no_image = |message: String| Error::Image { reference: reference.to_owned(), message };
        if reference != HOST_IMAGE {
            return Err(no_image(format!("the native engine has one image, {HOST_IMAGE}")));
        }
        let root = self.config.root.clone();
        let python = self.root.python_on_host.clone();
        let digest = tokio::task::spawn_blocking(move || match root {
            Root::Host => identity::of_python(&python),
            Root::Unpacked(directory) => Ok(identity::of_directory(&directory)),
        })
        .await
        .map_err(|error| no_image(error.to_string()))?
        .map_err(|error| no_image(error.to_string()))?;
        *self.digest.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest.clone());
        Ok(Image { reference: reference.to_owned(), digest })
    }

    async fn base(&self, _: &str, _: bool) -> Result<Option<String>, Error> {
        self.host_digest().await.map(Some)
    }

    async fn build(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        self.build_layer(plan, log).await
    }

    async fn find_built(&self, _: &str, digest: &str) -> Result<Option<Image>, Error> {
        self.find_layer(digest).await
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        Ok(self.layers.as_ref().map(Layers::all).unwrap_or_default())
    }

    async fn remove_built(&self, built: &BuiltImage) -> Result<bool, Error> {
        self.remove_layer(built).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        self.check_image(&spec.image)?;
        let mut lease = self.lease(layer_of(&spec.image), spec.startup_timeout).await?;
        let begun = Instant::now();
        let id = format!("native-{}", Uuid::now_v7().simple());
        match self.boot(&mut lease, &id, spec).await {
            Ok(session) => Ok(Box::new(NativeSandbox { id, startup: begun.elapsed(), session, lease })),
            Err(error) => {
                let usage = lease.end().await;
                Err(match error {
                    Error::Lost { message, oom_killed } => {
                        Error::Lost { message, oom_killed: usage.oom_killed.unwrap_or(oom_killed) }
                    }
                    other => other,
                })
            }
        }
    }

    async fn health(&self) -> Result<(), Error> {
        if self.cells.is_closed() {
            return Err(unavailable("shut down".to_owned()));
        }
        if self.permits.available_permits() < self.config.max_cells {
            return Ok(());
        }
        let lease = tokio::time::timeout(HEALTH_LIMIT, self.lease(None, HEALTH_LIMIT))
            .await
            .map_err(|_| unavailable("no cell within 2 s".to_owned()))??;
        let (cell, _permit) = lease.into_idle();
        if let Some(cell) = cell {
            self.cells.put_back(cell);
        }
        Ok(())
    }

    async fn list(&self, installation: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        let entries = self.cells.registry.entries().map_err(|source| Error::System {
            context: "native engine: cannot list its sandboxes".to_owned(),
            source,
        })?;
        let own = entries.into_iter().filter(|entry| entry.labels.installation == installation);
        Ok(own.map(|entry| (entry.id, entry.labels)).collect())
    }

    async fn remove(&self, sandbox_id: &str) -> Result<(), Error> {
        let kill = || {
            let entries = self.cells.registry.entries()?;
            entries.iter().filter(|entry| entry.id == sandbox_id).try_for_each(|entry| entry.kill())
        };
        kill().map_err(|source| Error::System { context: format!("native engine: cannot remove {sandbox_id}"), source })
    }

    async fn shutdown(&self) {
        self.permits.close();
        let cells = self.cells.close();
        let dismantled = tokio::task::spawn_blocking(move || cells.into_iter().for_each(Cell::dismantle)).await;
        self.cells.cgroups.remove_parent();
        if let Err(error) = dismantled {
            tracing::warn!(%error, "cannot dismantle cells");
        }
    }
}

/// The version whose packages an image has, if it is a layer.
fn layer_of(image: &Image) -> Option<&str> {
    image.reference.strip_prefix(LAYER)
}

async fn spawn(cell: &mut Cell, id: &str, spec: &SandboxSpec, frames: OwnedFd) -> Result<(), Error> {
    let pid = cell.spawn(&spec.limits, frames).await?;
    // A sandbox that is not listed still dies with its cell.
    if let Err(error) = cell.slot().enter(id, &spec.labels, pid) {
        tracing::warn!(sandbox = id, %error, "cannot list a sandbox");
    }
    Ok(())
}

/// A blocking end for the guest and a Tokio one for the host.
fn frame_stream() -> Result<(UnixStream, OwnedFd), Error> {
    let make = || {
        let (host, guest) = StdUnixStream::pair()?;
        host.set_nonblocking(true)?;
        Ok((UnixStream::from_std(host)?, guest.into()))
    };
    make()
        .map_err(|source| Error::System { context: "native sandbox: cannot make its frame stream".to_owned(), source })
}

fn boot_frame(spec: &SandboxSpec, python: Option<String>) -> Boot {
    Boot {
        protocol: VERSION,
        python,
        preload: spec.preload.clone(),
        environment: spec.environment.clone(),
        uid: USER,
        gid: USER,
        devices: Vec::new(),
        startup_timeout_ms: u64::try_from(spec.startup_timeout.as_millis()).unwrap_or(u64::MAX),
        rlimits: Rlimits {
            open_files: u64::from(spec.limits.open_files),
            file_bytes: spec.limits.file_bytes,
            processes: u64::from(spec.limits.pids),
        },
    }
}

fn probe_spec(image: Image) -> SandboxSpec {
    SandboxSpec {
        image,
        limits: SandboxLimits {
            memory_bytes: 256 << 20,
            cpu_millis: 1000,
            pids: 32,
            open_files: 256,
            file_bytes: 1 << 20,
            tmp_bytes: 1 << 20,
            output_bytes: 1 << 20,
            inodes: 64,
        },
        environment: BTreeMap::new(),
        preload: Vec::new(),
        gpu: None,
        startup_timeout: Duration::from_secs(10),
        labels: SandboxLabels {
            installation: "probe".to_owned(),
            node_id: "probe".to_owned(),
            execution_id: None,
            lease: None,
        },
    }
}

/// The error and its causes in one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

pub(super) fn unavailable(message: String) -> Error {
    Error::Unavailable { engine: "native", message, retry_after: None }
}

//! An engine to attack.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tako_vm::engine::docker::{DockerConfig, DockerEngine, RuntimeChoice};
use tako_vm::engine::native::{NativeConfig, NativeEngine, cell_prefix};
use tako_vm::engine::{Engine, Image, SandboxLabels, SandboxLimits, SandboxSpec};
use tempfile::TempDir;
use uuid::Uuid;

/// Engine and runtime; a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Runc,
    Runsc,
    Native,
}

impl Place {
    pub const ALL: [Self; 3] = [Self::Runc, Self::Runsc, Self::Native];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runc => "docker/runc",
            Self::Runsc => "docker/runsc",
            Self::Native => "native",
        }
    }

    /// Attacks at a time, each with its neighbour.
    pub fn in_flight(self) -> usize {
        match self {
            Self::Native | Self::Runc => 3,
            // Each sandbox starts a kernel of its own, which takes a processor for a second.
            Self::Runsc => 2,
        }
    }
}

/// An engine with an installation of the suite's own.
pub struct Arena {
    pub place: Place,
    pub engine: Arc<dyn Engine>,
    /// Versions of what isolates, for the docs.
    pub versions: String,
    /// What the host calls this arena's sandboxes, beside their ids.
    pub mark: String,
    image: Image,
    installation: String,
    _runtime_dir: TempDir,
}

impl Arena {
    /// Opens the engine, or says why this machine has none.
    pub async fn open(place: Place) -> Result<Self, String> {
        let runtime_dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (engine, reference, versions) = match place {
            Place::Runc => docker("runc").await?,
            Place::Runsc => docker("runsc").await?,
            Place::Native => native(runtime_dir.path()).await?,
        };
        let image = engine.resolve_image(reference).await.map_err(|error| error.to_string())?;
        Ok(Self {
            place,
            engine,
            versions,
            mark: cell_prefix(runtime_dir.path()).unwrap(),
            image,
            installation: format!("attacks-{}", Uuid::new_v4().simple()),
            _runtime_dir: runtime_dir,
        })
    }

    pub fn installation(&self) -> &str {
        &self.installation
    }

    pub fn spec(&self, limits: SandboxLimits) -> SandboxSpec {
        SandboxSpec {
            image: self.image.clone(),
            limits,
            // Where `attempt.py` will be.
            environment: BTreeMap::from([("PYTHONPATH".to_owned(), "/input".to_owned())]),
            preload: Vec::new(),
            gpu: None,
            startup_timeout: Duration::from_secs(60),
            labels: SandboxLabels {
                installation: self.installation.clone(),
                node_id: "attacks".to_owned(),
                execution_id: None,
                lease: None,
            },
        }
    }
}

async fn docker(runtime: &str) -> Result<(Arc<dyn Engine>, &'static str, String), String> {
    let config = DockerConfig { runtime: RuntimeChoice::Named(runtime.to_owned()), ..DockerConfig::default() };
    let engine = DockerEngine::connect(config).await.map_err(|error| error.to_string())?;
    let daemon = said("docker", &["version", "--format", "{{.Server.Version}}"]);
    let versions = format!("{}, Docker {daemon}", said(runtime, &["--version"]));
    Ok((Arc::new(engine), "tako-vm/executor:3.11", versions))
}

async fn native(runtime_dir: &Path) -> Result<(Arc<dyn Engine>, &'static str, String), String> {
    let config = NativeConfig {
        max_cells: 2 * Place::Native.in_flight(),
        runtime_dir: Some(runtime_dir.to_owned()),
        // Half of the suite is about limits, which the engine lacks where it has no cgroups.
        require_limits: true,
        ..NativeConfig::default()
    };
    NativeEngine::supported(config.clone()).await?;
    let engine = NativeEngine::new(config).map_err(|error| error.to_string())?;
    let version = engine.capabilities().cgroup_version.map_or("no".to_owned(), |version| format!("v{version}"));
    let versions = format!("Linux {}, cgroup {version}", said("uname", &["-r"]));
    Ok((Arc::new(engine), "host", versions))
}

/// The first line of a program's output.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("version unknown").trim().to_owned()
}

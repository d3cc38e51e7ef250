//! Which engine the server runs its sandboxes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::config::{Config, EngineChoice, SecurityMode};
use crate::crash_point;
use crate::engine::absent::Absent;
use crate::engine::crashing::CrashingEngine;
use crate::engine::docker::{self, DockerConfig, DockerEngine};
use crate::engine::native::{NativeConfig, NativeEngine, Root};
use crate::engine::scripted::ScriptedEngine;
use crate::engine::{self, Engine};

/// An engine, and what more than [`Engine`] is known of it.
#[derive(Clone)]
pub enum Chosen {
    Docker(Arc<DockerEngine>),
    Native(Arc<NativeEngine>),
    Scripted(Arc<ScriptedEngine>),
    /// Of a node that runs nothing.
    Absent(Arc<Absent>),
}

impl Chosen {
    pub fn engine(&self) -> Arc<dyn Engine> {
        let engine = match self {
            Self::Docker(engine) => Arc::clone(engine) as Arc<dyn Engine>,
            Self::Native(engine) => Arc::clone(engine) as Arc<dyn Engine>,
            Self::Scripted(engine) => Arc::clone(engine) as Arc<dyn Engine>,
            Self::Absent(engine) => Arc::clone(engine) as Arc<dyn Engine>,
        };
        if crash_point::is_armed() { Arc::new(CrashingEngine(engine)) } else { engine }
    }
}

/// The configured engine; with `auto` Docker where it answers, else native. An api node has none.
///
/// # Errors
/// What keeps the chosen engine, or every one, from working. Call it on the I/O runtime.
pub async fn choose(config: &Config) -> Result<Chosen> {
    if !config.role.works() {
        return Ok(Chosen::Absent(Arc::default()));
    }
    let chosen = works(config).await?;
    let missing = chosen.engine().missing_limits();
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(", "),
            "the engine cannot hold these limits here: a job can take what it likes of them from the host"
        );
    }
    Ok(chosen)
}

async fn works(config: &Config) -> Result<Chosen> {
    match config.engine {
        EngineChoice::Docker => Ok(docker(config).await?),
        EngineChoice::Native => native(config).await,
        EngineChoice::Auto => match docker(config).await {
            Ok(chosen) => Ok(chosen),
            Err(no_docker) => match native(config).await {
                Ok(chosen) => {
                    tracing::info!(reason = %no_docker, "no Docker Engine; jobs run on the native engine");
                    Ok(chosen)
                }
                Err(no_native) => bail!("no engine works here. docker: {no_docker}; native: {no_native:#}"),
            },
        },
    }
}

async fn docker(config: &Config) -> Result<Chosen, engine::Error> {
    let own = DockerConfig {
        host: (!config.docker.host.is_empty()).then(|| config.docker.host.clone()),
        runtime: match config.container_runtime.as_str() {
            "auto" => docker::RuntimeChoice::Auto,
            name => docker::RuntimeChoice::Named(name.to_owned()),
        },
        security_mode: match config.security_mode {
            SecurityMode::Strict => docker::SecurityMode::Strict,
            SecurityMode::Permissive => docker::SecurityMode::Permissive,
        },
        require_limits: config.production_mode,
        pull_timeout: config.docker.pull_timeout.min(Duration::from_secs(60)),
        ..DockerConfig::default()
    };
    let engine = DockerEngine::connect(own).await?;
    Ok(Chosen::Docker(Arc::new(engine)))
}

async fn native(config: &Config) -> Result<Chosen> {
    if config.security_mode == SecurityMode::Strict {
        bail!("security_mode strict runs on gVisor alone, which is the docker engine with runsc");
    }
    // Every slot's sandbox, and those that wait for the next jobs.
    let waiting = config.pool.max_idle.max(config.pool.min_idle) * config.job_types.len().max(1) as u32;
    let own = NativeConfig {
        max_cells: (config.max_workers + waiting) as usize,
        python: (!config.native.python.as_os_str().is_empty()).then(|| config.native.python.clone()),
        root: match config.native.root.as_os_str().is_empty() {
            true => Root::Host,
            false => Root::Unpacked(config.native.root.clone()),
        },
        // A sandbox has another root, in which a link would lead nowhere.
        layers: Some(config.data_dir.canonicalize().unwrap_or_else(|_| config.data_dir.clone()).join("layers")),
        runtime_dir: None,
        require_limits: config.production_mode,
    };
    // An engine that starts nothing is told at the start, not by the first job.
    if let Err(reason) = NativeEngine::supported(own.clone()).await {
        bail!("the native engine does not work here: {reason}");
    }
    Ok(Chosen::Native(Arc::new(NativeEngine::new(own)?)))
}

//! How to reach a Docker Engine and what to ask of it.

use std::path::Path;
use std::time::Duration;

use bollard::models::SystemInfo;

use super::breaker;

/// What the Docker engine needs to know. Limits of a sandbox come with each spec.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `unix:///path` or `tcp://host:port`. `None` means `DOCKER_HOST`, and where that is not
    /// set the first socket that exists of the system's and the user's own (rootless Docker,
    /// Podman). TLS and SSH are not supported; a remote daemon wants a tunnel.
    pub host: Option<String>,
    pub runtime: RuntimeChoice,
    pub security_mode: SecurityMode,
    /// Refuse a daemon that cannot limit memory, processes and CPU time.
    pub require_limits: bool,
    /// The Python of `tako-vm/executor` without a tag, like `3.11`.
    pub python_version: String,
    /// How long a pull may take to its first sign of life. After that it may take as long as
    /// [`DockerConfig::build_timeout`].
    pub pull_timeout: Duration,
    /// How long making an image may take: a whole pull, a base image, a build.
    pub build_timeout: Duration,
    /// How long any other call may take.
    pub call_timeout: Duration,
    pub breaker: breaker::Settings,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            host: None,
            runtime: RuntimeChoice::Auto,
            security_mode: SecurityMode::Permissive,
            require_limits: false,
            python_version: "3.11".to_owned(),
            pull_timeout: Duration::from_secs(15),
            build_timeout: Duration::from_secs(600),
            call_timeout: Duration::from_secs(30),
            breaker: breaker::Settings::default(),
        }
    }
}

/// Which OCI runtime runs the sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// `runsc` in strict mode, else the daemon's default.
    Auto,
    /// A runtime by the name it is registered under at the daemon.
    Named(String),
}

/// Whether a sandbox without a kernel of its own is acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMode {
    /// Only gVisor.
    Strict,
    /// Any runtime; which one is recorded on every execution.
    Permissive,
}

/// gVisor's runtime, by the name under which it is registered everywhere.
pub const GVISOR: &str = "runsc";

impl DockerConfig {
    /// The daemon's address after defaults were applied.
    pub(super) fn address(&self) -> String {
        if let Some(host) = &self.host {
            return host.clone();
        }
        if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
            return host;
        }
        let system = "/var/run/docker.sock".to_owned();
        let mut sockets = vec![system.clone()];
        if let Ok(runtime_dir) = std::env::var("XDG_RUNTIME_DIR") {
            sockets.push(format!("{runtime_dir}/docker.sock"));
            sockets.push(format!("{runtime_dir}/podman/podman.sock"));
        }
        let found = sockets.into_iter().find(|socket| Path::new(socket).exists());
        format!("unix://{}", found.unwrap_or(system))
    }

    /// Picks the runtime among those the daemon has.
    ///
    /// # Errors
    /// A sentence that says which runtime is missing and what helps.
    pub(super) fn pick_runtime(&self, available: &[String], default: &str) -> Result<String, String> {
        let wanted = match (&self.runtime, self.security_mode) {
            (RuntimeChoice::Named(name), _) => name.as_str(),
            (RuntimeChoice::Auto, SecurityMode::Strict) => GVISOR,
            (RuntimeChoice::Auto, SecurityMode::Permissive) => default,
        };
        if self.security_mode == SecurityMode::Strict && wanted != GVISOR {
            return Err(format!(
                "security mode strict runs sandboxes on {GVISOR} only, but the runtime is set to {wanted}"
            ));
        }
        if !available.iter().any(|name| name == wanted) {
            return Err(format!(
                "the daemon has no runtime {wanted}{}",
                if wanted == GVISOR { "; docker/install-runsc.sh registers it" } else { "" }
            ));
        }
        Ok(wanted.to_owned())
    }
}

/// Limits that the daemon says it cannot set; one that says nothing of them can.
pub(super) fn missing_limits(info: &SystemInfo) -> Vec<&'static str> {
    [("memory", info.memory_limit), ("pids", info.pids_limit), ("cpu", info.cpu_cfs_quota)]
        .into_iter()
        .filter_map(|(limit, held)| (held == Some(false)).then_some(limit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(runtime: RuntimeChoice, mode: SecurityMode, available: &[&str]) -> Result<String, String> {
        let config = DockerConfig { runtime, security_mode: mode, ..DockerConfig::default() };
        let available: Vec<String> = available.iter().map(|&name| name.to_owned()).collect();
        config.pick_runtime(&available, "runc")
    }

    #[test]
    fn strict_never_runs_without_gvisor() {
        let named = || RuntimeChoice::Named("runc".to_owned());
        assert!(pick(RuntimeChoice::Auto, SecurityMode::Strict, &["runc"]).is_err());
        assert!(pick(named(), SecurityMode::Strict, &["runc", "runsc"]).is_err());
        let picked = pick(RuntimeChoice::Auto, SecurityMode::Strict, &["runc", "runsc"]);
        assert_eq!(picked.as_deref(), Ok("runsc"));
    }

    #[test]
    fn permissive_takes_the_default_unless_told() {
        let auto = pick(RuntimeChoice::Auto, SecurityMode::Permissive, &["runc", "runsc"]);
        assert_eq!(auto.as_deref(), Ok("runc"));
        let named = RuntimeChoice::Named("runsc".to_owned());
        assert!(pick(named.clone(), SecurityMode::Permissive, &["runc"]).is_err());
        let picked = pick(named, SecurityMode::Permissive, &["runc", "runsc"]);
        assert_eq!(picked.as_deref(), Ok("runsc"));
    }

    #[test]
    fn a_limit_is_missing_where_the_daemon_says_so_and_only_there() {
        let rootless = SystemInfo { memory_limit: Some(false), pids_limit: Some(true), ..SystemInfo::default() };
        assert_eq!(missing_limits(&rootless), ["memory"]);
        assert_eq!(missing_limits(&SystemInfo::default()), [] as [&str; 0]);
    }
}

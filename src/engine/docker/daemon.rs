//! Calls to the daemon: each bounded in time and counted by the circuit breaker.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;

use super::breaker::{Breaker, Settings, Snapshot};
use crate::engine::{Error, retry_after};

/// The daemon as this engine talks to it.
pub(super) struct Daemon {
    pub docker: Docker,
    /// Its address, for messages and for programs that must reach the same one.
    pub address: String,
    pub call_timeout: Duration,
    breaker: Mutex<Breaker>,
}

/// Why a call brought no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("too many calls failed; the next one is let through in {0:?}")]
    Refused(Duration),
    #[error("{call} had no answer within {limit:?}")]
    TimedOut { call: &'static str, limit: Duration },
    #[error("{call} was answered {status}: {message}")]
    Answered { call: &'static str, status: u16, message: String },
    #[error("{call} did not reach the daemon: {message}")]
    Transport { call: &'static str, message: String },
}

impl CallError {
    /// What was asked for does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Answered { status: 404, .. })
    }

    /// Whether the daemon is to blame, rather than what it was asked.
    fn blames_daemon(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Transport { .. } => true,
            Self::Answered { status, .. } => *status >= 500,
            Self::Refused(_) => false,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Answered { status: status @ (429 | 503), message, .. } => {
                let retry_after = retry_after::busy(&message).flatten();
                let message = format!("it answered {status}: {message}");
                Error::Unavailable { engine: "docker", message, retry_after }
            }
            // The daemon works and does not want this: trying again would not help.
            CallError::Answered { call, status: status @ 400..500, message } => Self::System {
                context: format!("docker refused to {call} with status {status}"),
                source: std::io::Error::new(std::io::ErrorKind::InvalidInput, message),
            },
            CallError::Refused(wait) => {
                let message = CallError::Refused(wait).to_string();
                Error::Unavailable { engine: "docker", message, retry_after: Some(wait) }
            }
            error => unavailable(error.to_string()),
        }
    }
}

pub(super) fn unavailable(message: String) -> Error {
    Error::Unavailable { engine: "docker", message, retry_after: None }
}

impl Daemon {
    /// A client of the daemon at `address`; nothing is sent yet.
    pub fn new(address: String, call_timeout: Duration, breaker: Settings) -> Result<Self, Error> {
        // Tighter limits lie on each call; this one only ends what they cannot see.
        const CLIENT_TIMEOUT_SECONDS: u64 = 3600;
        let docker = match address.strip_prefix("unix://") {
            Some(_) => Docker::connect_with_unix(&address, CLIENT_TIMEOUT_SECONDS, bollard::API_DEFAULT_VERSION),
            None if address.starts_with("tcp://") || address.starts_with("http://") => {
                Docker::connect_with_http(&address, CLIENT_TIMEOUT_SECONDS, bollard::API_DEFAULT_VERSION)
            }
            None => {
                return Err(unavailable(format!("address {address} is neither unix:// nor tcp://")));
            }
        };
        let docker = docker.map_err(|error| unavailable(format!("{address}: {error}")))?;
        Ok(Self { docker, address, call_timeout, breaker: Mutex::new(Breaker::new(breaker)) })
    }

    /// Settles on an API version that both ends speak.
    pub async fn negotiate(mut self, limit: Duration) -> Result<Self, Error> {
        let negotiated = self.call_within("version", limit, self.docker.clone().negotiate_version());
        self.docker = negotiated.await.map_err(|error| unavailable(format!("{}: {error}", self.address)))?;
        Ok(self)
    }

    /// Whether the daemon runs on this host, so that what this host makes can be given to it.
    pub fn is_local(&self) -> bool {
        self.address.starts_with("unix://")
    }

    /// Whether it is Podman that answers behind Docker's API.
    pub async fn is_podman(&self) -> Result<bool, CallError> {
        let version = self.call("version", self.docker.version()).await?;
        Ok(version.components.unwrap_or_default().iter().any(|component| component.name.starts_with("Podman")))
    }

    pub fn snapshot(&self) -> Snapshot {
        self.breaker().snapshot(Instant::now())
    }

    /// Makes a call within the usual time, unless the circuit is open.
    pub async fn call<T>(
        &self,
        call: &'static str,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, CallError> {
        self.call_within(call, self.call_timeout, request).await
    }

    /// Makes a call within `limit`, unless the circuit is open.
    pub async fn call_within<T>(
        &self,
        call: &'static str,
        limit: Duration,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, CallError> {
        self.breaker().admit(Instant::now()).map_err(CallError::Refused)?;
        self.attempt(call, limit, request).await
    }

    /// Makes a call even while the circuit is open: for removals, which must not wait for it.
    pub async fn attempt<T>(
        &self,
        call: &'static str,
        limit: Duration,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, CallError> {
        let result = match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(|error| classify(call, limit, error)),
            Err(_) => Err(CallError::TimedOut { call, limit }),
        };
        match &result {
            Err(error) if error.blames_daemon() => self.breaker().failed(Instant::now()),
            _ => self.breaker().succeeded(),
        }
        result
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn classify(call: &'static str, limit: Duration, error: bollard::errors::Error) -> CallError {
    use bollard::errors::Error as Bollard;
    match error {
        Bollard::DockerResponseServerError { status_code, message } => {
            CallError::Answered { call, status: status_code, message }
        }
        Bollard::RequestTimeoutError => CallError::TimedOut { call, limit },
        other => {
            // The transport's own text names no cause; the innermost source does.
            let mut cause: &dyn std::error::Error = &other;
            while let Some(source) = cause.source() {
                cause = source;
            }
            CallError::Transport { call, message: cause.to_string() }
        }
    }
}

//! What a job's code did with the network that it had.

use serde::{Deserialize, Serialize};

/// What the code reached of the network, and what it was refused. Only of a job type that has some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressObserved {
    /// By host and port.
    pub hosts: Vec<HostTraffic>,
    pub refused: Vec<EgressRefused>,
    /// Connections and refusals beyond what is listed.
    pub unlisted: u64,
}

/// Traffic with one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTraffic {
    pub host: String,
    pub port: u16,
    pub connections: u64,
    /// As the host saw them: of TLS, what is encrypted.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// Connections that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRefused {
    /// Absent where none was asked for that can be told.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub reason: EgressRefusal,
    pub count: u64,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressRefusal {
    /// The job type's allowlist does not have it.
    NotAllowed,
    /// An address was asked for, or no host at all.
    NotAName,
    /// The name has an address that is not public.
    NotPublic,
    Unresolvable,
    Unreachable,
    /// What was sent through a tunnel was not TLS for its host.
    WrongServerName,
    WrongCredentials,
    Malformed,
}

//! The closed list of error types a record may carry.

use serde::{Deserialize, Serialize};

/// What kind of failure it was, as the REST contract names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    Timeout,
    StartupTimeout,
    ExecutionTimeout,
    Oom,
    Cancelled,
    Segfault,
    Abort,
    ArithmeticError,
    BusError,
    PipeError,
    Killed,
    SyntaxError,
    ImportError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    NameError,
    FileNotFound,
    FileError,
    OsError,
    RecursionError,
    AssertionError,
    DivisionError,
    OverflowError,
    EncodingError,
    JsonError,
    Permission,
    DependencyError,
    NetworkError,
    NetworkTimeout,
    DockerError,
    ServiceUnavailable,
    ConfigError,
    InternalError,
    Interrupted,
    RuntimeError,
    Unknown,
}

impl ErrorType {
    /// The name as it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::StartupTimeout => "startup_timeout",
            Self::ExecutionTimeout => "execution_timeout",
            Self::Oom => "oom",
            Self::Cancelled => "cancelled",
            Self::Segfault => "segfault",
            Self::Abort => "abort",
            Self::ArithmeticError => "arithmetic_error",
            Self::BusError => "bus_error",
            Self::PipeError => "pipe_error",
            Self::Killed => "killed",
            Self::SyntaxError => "syntax_error",
            Self::ImportError => "import_error",
            Self::TypeError => "type_error",
            Self::ValueError => "value_error",
            Self::KeyError => "key_error",
            Self::IndexError => "index_error",
            Self::AttributeError => "attribute_error",
            Self::NameError => "name_error",
            Self::FileNotFound => "file_not_found",
            Self::FileError => "file_error",
            Self::OsError => "os_error",
            Self::RecursionError => "recursion_error",
            Self::AssertionError => "assertion_error",
            Self::DivisionError => "division_error",
            Self::OverflowError => "overflow_error",
            Self::EncodingError => "encoding_error",
            Self::JsonError => "json_error",
            Self::Permission => "permission",
            Self::DependencyError => "dependency_error",
            Self::NetworkError => "network_error",
            Self::NetworkTimeout => "network_timeout",
            Self::DockerError => "docker_error",
            Self::ServiceUnavailable => "service_unavailable",
            Self::ConfigError => "config_error",
            Self::InternalError => "internal_error",
            Self::Interrupted => "interrupted",
            Self::RuntimeError => "runtime_error",
            Self::Unknown => "unknown",
        }
    }

    /// The service's own fault, not the code's: such a failure may be retried, and a job that
    /// ends with one is a dead letter.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::DockerError | Self::ServiceUnavailable | Self::InternalError | Self::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_code_is_the_name_in_json() {
        for error in [ErrorType::FileNotFound, ErrorType::OsError, ErrorType::Oom, ErrorType::DockerError] {
            assert_eq!(serde_json::to_value(error).unwrap(), error.as_str());
        }
    }
}

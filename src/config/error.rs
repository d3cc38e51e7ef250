use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Dotted path, like `limits.max_code_bytes`; empty for a file as a whole.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
    /// `config/tako_vm.yaml:12`, or `TAKO_VM_MAX_WORKERS`; absent for what no source named.
    pub origin: Option<String>,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was named, or found, cannot be read.
    #[error("cannot read configuration {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Everything found wrong, in the order of the keys.
    #[error("{}", listed(.0))]
    Invalid(Vec<Issue>),
    /// A listening address that others can reach, without a key to keep them out.
    #[error(
        "refusing to listen on {0} without API keys: anybody who reaches it could run code; \
         configure api_keys, or listen on 127.0.0.1"
    )]
    OpenBind(std::net::IpAddr),
}

fn listed(issues: &[Issue]) -> String {
    match issues {
        [issue] => format!("invalid configuration: {issue}"),
        _ => {
            let lines: Vec<_> = issues.iter().map(|issue| format!("\n  {issue}")).collect();
            format!("invalid configuration, {} issues:{}", issues.len(), lines.concat())
        }
    }
}

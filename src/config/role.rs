//! What a node is for.

use serde::{Deserialize, Serialize};

/// What a node does for the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Both of the others.
    #[default]
    All,
    /// Answers requests; runs and builds nothing.
    Api,
    /// Runs and builds; answers only whether it works.
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }

    /// Whether jobs run and images are built on such a node.
    pub fn works(self) -> bool {
        self != Self::Api
    }

    /// Whether clients are answered by such a node.
    pub fn answers(self) -> bool {
        self != Self::Worker
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let roles = [Self::All, Self::Api, Self::Worker];
        let found = roles.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a role: api, worker or all"))
    }
}

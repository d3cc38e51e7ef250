//! Jobs at times.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::units::seconds;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedules {
    /// A time that is older when a node looks at it was missed.
    #[serde(with = "seconds")]
    pub late_after: Duration,
    /// Schedules of one tenant.
    pub max_per_tenant: u32,
}

impl Default for Schedules {
    fn default() -> Self {
        Self { late_after: Duration::from_secs(60), max_per_tenant: 1_000 }
    }
}

impl Schedules {
    pub(super) fn check(&self, bounds: &mut Bounds) {
        bounds.seconds("schedules.late_after", self.late_after, 1.0, 86_400.0);
        bounds.number("schedules.max_per_tenant", self.max_per_tenant, 1, 100_000);
    }
}

//! How many nodes share the work.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::store::LiveRoles;

/// The live nodes of the installation, as they were at this node's last heartbeat.
#[derive(Debug, Default)]
pub struct Fleet {
    answering: AtomicU32,
    working: AtomicU32,
}

impl Fleet {
    pub(super) fn set(&self, live: LiveRoles) {
        let count = |nodes: i64| u32::try_from(nodes).unwrap_or_default();
        self.answering.store(count(live.answering), Ordering::Relaxed);
        self.working.store(count(live.working), Ordering::Relaxed);
    }

    /// Those that answer requests; at least one, which is this.
    pub fn answering(&self) -> u32 {
        self.answering.load(Ordering::Relaxed).max(1)
    }

    /// Those that run jobs.
    pub fn working(&self) -> u32 {
        self.working.load(Ordering::Relaxed)
    }
}

//! What went through a job's gate, counted as it happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{EgressObserved, EgressRefusal, EgressRefused, HostTraffic};

/// Entries of either kind that are told by name; the code chooses the names.
const MAX_ENTRIES: usize = 100;

/// Counts of one job.
#[derive(Debug, Default)]
pub struct Observed {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    hosts: BTreeMap<(String, u16), Arc<Counters>>,
    refused: BTreeMap<(Option<(String, u16)>, EgressRefusal), u64>,
    unlisted: u64,
}

/// Of one host.
#[derive(Debug, Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

impl Observed {
    /// A connection to a host was made; where its bytes are counted.
    pub fn connected(&self, host: &str, port: u16) -> Arc<Counters> {
        let mut inner = self.lock();
        let key = (host.to_owned(), port);
        if inner.hosts.len() >= MAX_ENTRIES && !inner.hosts.contains_key(&key) {
            inner.unlisted += 1;
            return Arc::default();
        }
        let counters = Arc::clone(inner.hosts.entry(key).or_default());
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters
    }

    pub fn refused(&self, target: Option<(String, u16)>, reason: EgressRefusal) {
        let mut inner = self.lock();
        let key = (target, reason);
        if inner.refused.len() >= MAX_ENTRIES && !inner.refused.contains_key(&key) {
            inner.unlisted += 1;
            return;
        }
        *inner.refused.entry(key).or_default() += 1;
    }

    pub fn so_far(&self) -> EgressObserved {
        let inner = self.lock();
        EgressObserved {
            hosts: inner
                .hosts
                .iter()
                .map(|((host, port), counters)| HostTraffic {
                    host: host.clone(),
                    port: *port,
                    connections: counters.connections.load(Ordering::Relaxed),
                    bytes_sent: counters.sent.load(Ordering::Relaxed),
                    bytes_received: counters.received.load(Ordering::Relaxed),
                })
                .collect(),
            refused: inner
                .refused
                .iter()
                .map(|((target, reason), count)| EgressRefused {
                    host: target.as_ref().map(|(host, _)| host.clone()),
                    port: target.as_ref().map(|(_, port)| *port),
                    reason: *reason,
                    count: *count,
                })
                .collect(),
            unlisted: inner.unlisted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_code_asks_for_is_counted_without_bound_and_listed_with_one() {
        let observed = Observed::default();
        for number in 0..(MAX_ENTRIES + 7) {
            observed.refused(Some((format!("h{number}.example.com"), 443)), EgressRefusal::NotAllowed);
            observed.refused(Some(("h0.example.com".to_owned(), 443)), EgressRefusal::NotAllowed);
        }
        let told = observed.so_far();
        assert_eq!((told.refused.len(), told.unlisted), (MAX_ENTRIES, 7));
        assert_eq!(told.refused[0].count, 1 + MAX_ENTRIES as u64 + 7);
    }
}

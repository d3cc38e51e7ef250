//! How many requests one client address may make, counted before anything else is done for it.
//!
//! Each node counts by itself and grants its share: with three nodes that answer, a third of the rate
//! and of the burst. Their sum is never more than the limit, and no request waits for a database to be
//! refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

/// Addresses remembered at most.
const MAX_CLIENTS: usize = 50_000;

/// A token bucket per client address.
#[derive(Debug)]
pub struct RateLimit {
    per_second: f64,
    burst: f64,
    exempt_loopback: bool,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RateLimit {
    pub fn new(config: &config::RateLimit) -> Self {
        Self {
            per_second: f64::from(config.requests_per_minute) / 60.0,
            burst: f64::from(config.burst.max(1)),
            exempt_loopback: config.exempt_loopback,
            buckets: Mutex::default(),
        }
    }

    /// Takes a token on one of several nodes that answer.
    ///
    /// # Errors
    /// How long to wait for a token on this node.
    pub fn take_share(&self, client: IpAddr, now: Instant, nodes: u32) -> Result<(), Duration> {
        let share = Share::of(self, nodes);
        if self.per_second <= 0.0 || (self.exempt_loopback && client.to_canonical().is_loopback()) {
            return Ok(());
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = subscriber(client);
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| share.refilled(bucket, now) < share.burst);
            if buckets.len() >= MAX_CLIENTS {
                // All strangers then share one bucket, rather than one remembered client being forgiven.
                client = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket { tokens: share.burst, at: now });
        let tokens = share.refilled(bucket, now);
        if tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - tokens) / share.per_second));
        }
        *bucket = Bucket { tokens: tokens - 1.0, at: now };
        Ok(())
    }
}

/// What one node grants.
struct Share {
    per_second: f64,
    burst: f64,
}

impl Share {
    fn of(limit: &RateLimit, nodes: u32) -> Self {
        let nodes = f64::from(nodes.max(1));
        // A burst of less than one request would let nobody in.
        Self { per_second: limit.per_second / nodes, burst: (limit.burst / nodes).max(1.0) }
    }

    fn refilled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + elapsed * self.per_second).min(self.burst)
    }
}

/// Whose bucket an address draws from: an IPv6 subscriber commonly has a /64 to choose from.
fn subscriber(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl RateLimit {
        fn take(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
            self.take_share(client, now, 1)
        }
    }

    fn limit(requests_per_minute: u32, burst: u32) -> RateLimit {
        RateLimit::new(&config::RateLimit { requests_per_minute, burst, exempt_loopback: true })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let (limit, start) = (limit(60, 3), Instant::now());
        for _ in 0..3 {
            assert_eq!(limit.take(ip("192.0.2.1"), start), Ok(()));
        }
        assert_eq!(limit.take(ip("192.0.2.1"), start), Err(Duration::from_secs(1)));
        assert_eq!(limit.take(ip("192.0.2.2"), start), Ok(()));
        assert_eq!(limit.take(ip("192.0.2.1"), start + Duration::from_secs(1)), Ok(()));
        assert!(limit.take(ip("192.0.2.1"), start + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn nodes_grant_no_more_together_than_one_alone() {
        let start = Instant::now();
        let granted = |nodes: u32, seconds: u64| {
            let limits: Vec<_> = (0..nodes).map(|_| limit(600, 30)).collect();
            let moments = (0..seconds * 100).map(|centis| start + Duration::from_millis(centis * 10));
            let asked = moments.flat_map(|now| limits.iter().map(move |limit| (limit, now)));
            asked.filter(|(limit, now)| limit.take_share(ip("192.0.2.1"), *now, nodes).is_ok()).count()
        };
        let alone = granted(1, 10);
        assert!((129..=130).contains(&alone), "{alone}");
        let together = granted(3, 10);
        assert!((127..=130).contains(&together), "{together}");
    }

    #[test]
    fn neighbours_of_one_ipv6_network_share_a_bucket() {
        let (limit, start) = (limit(60, 1), Instant::now());
        assert_eq!(limit.take(ip("2001:db8::1"), start), Ok(()));
        assert!(limit.take(ip("2001:db8::2"), start).is_err());
        assert_eq!(limit.take(ip("2001:db8:0:1::1"), start), Ok(()));
    }

    #[test]
    fn loopback_is_exempt_and_zero_means_no_limit() {
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(limit(60, 1).take(ip("::ffff:127.0.0.1"), start), Ok(()));
        }
        let unlimited = limit(0, 1);
        for _ in 0..100 {
            assert_eq!(unlimited.take(ip("192.0.2.1"), start), Ok(()));
        }
    }

    #[test]
    fn memory_is_bounded_and_refilled_clients_are_forgotten_first() {
        let (limit, start) = (limit(60, 2), Instant::now());
        for client in 0..MAX_CLIENTS as u32 {
            limit.take(IpAddr::V4(client.into()), start).unwrap();
        }
        // All are remembered, so strangers share one bucket.
        assert_eq!(limit.take(ip("198.51.100.1"), start), Ok(()));
        assert_eq!(limit.take(ip("198.51.100.2"), start), Ok(()));
        assert!(limit.take(ip("198.51.100.3"), start).is_err());
        assert!(limit.buckets.lock().unwrap().len() <= MAX_CLIENTS + 1);
        let later = start + Duration::from_secs(60);
        assert_eq!(limit.take(ip("198.51.100.3"), later), Ok(()));
        assert!(limit.buckets.lock().unwrap().len() < 10);
    }
}

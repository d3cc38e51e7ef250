//! The time of day, injected so that tests own it.

use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

/// Tells the time of day, to the microsecond (what PostgreSQL keeps).
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> DateTime<Utc>;
}

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the host's clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// The time that it was last told, and what has passed since by the monotonic clock. So the nodes of one
/// database agree on the time, and a step of a host's clock moves nothing.
#[derive(Debug)]
pub struct FollowingClock(RwLock<(DateTime<Utc>, Instant)>);

impl FollowingClock {
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(RwLock::new((now, Instant::now())))
    }

    /// Goes on from another time; answers how far it was behind, negative when it was ahead.
    pub fn follow(&self, now: DateTime<Utc>) -> TimeDelta {
        let behind = now - self.now();
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = (now, Instant::now());
        behind
    }
}

impl Clock for FollowingClock {
    fn now(&self) -> DateTime<Utc> {
        let (told, since) = *self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (told + since.elapsed()).trunc_subsecs(6)
    }
}

/// A clock that moves only when told.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_following_clock_goes_on_from_what_it_was_told() {
        let start = DateTime::UNIX_EPOCH;
        let clock = FollowingClock::at(start);
        let hour = TimeDelta::hours(1);
        let behind = clock.follow(start + hour);
        assert!(behind > hour - TimeDelta::minutes(1) && behind <= hour, "{behind}");
        let now = clock.now();
        assert!(now >= start + hour && clock.now() >= now);
        assert!(clock.follow(start) < TimeDelta::zero());
    }
}

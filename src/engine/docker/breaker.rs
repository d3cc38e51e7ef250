//! The circuit breaker in front of the Docker daemon: pure, told the time by its caller.
//!
//! Closed, every call passes. After `threshold` failures in a row it opens, and calls are
//! refused at once instead of each waiting for its own time limit. After `reset_after` it is
//! half open: one call passes as a probe, and its end closes or reopens the circuit.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// When the circuit opens and when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open the circuit; at least 1.
    pub threshold: u32,
    /// From opening to the first probe, and between probes that never end.
    pub reset_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 5, reset_after: Duration::from_secs(30) }
    }
}

/// The state by name, as `/health` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Closed,
    Open,
    HalfOpen,
}

/// What the breaker shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    pub state: StateName,
    /// Failures since the last success.
    pub failure_count: u32,
    /// Successes since the breaker was made.
    pub success_count: u64,
    /// How long ago the last failure was; `None` when there was none.
    pub last_failure: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        since: Instant,
    },
    /// `probe` is when the running probe was let through. A probe whose caller went away
    /// never ends; it counts as gone after `reset_after`.
    HalfOpen {
        probe: Instant,
    },
}

/// Counts the ends of calls and says whether the next one may pass.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    failure_count: u32,
    success_count: u64,
    last_failure: Option<Instant>,
}

impl Breaker {
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed, failure_count: 0, success_count: 0, last_failure: None }
    }

    /// Whether a call may pass now.
    ///
    /// # Errors
    /// How long to wait before a call may pass.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let blocked_since = match self.state {
            State::Closed => return Ok(()),
            State::Open { since } => since,
            State::HalfOpen { probe } => probe,
        };
        let waited = now.saturating_duration_since(blocked_since);
        if waited < self.settings.reset_after {
            return Err(self.settings.reset_after - waited);
        }
        self.state = State::HalfOpen { probe: now };
        Ok(())
    }

    /// A call came back: the daemon answers, so the circuit closes.
    pub fn succeeded(&mut self) {
        self.state = State::Closed;
        self.failure_count = 0;
        self.success_count += 1;
    }

    /// A call failed for the daemon's own reasons.
    pub fn failed(&mut self, now: Instant) {
        self.failure_count = self.failure_count.saturating_add(1);
        self.last_failure = Some(now);
        let opens = match self.state {
            State::Closed => self.failure_count >= self.settings.threshold,
            State::HalfOpen { .. } => true,
            // A call admitted before the circuit opened must not prolong the wait.
            State::Open { .. } => false,
        };
        if opens {
            self.state = State::Open { since: now };
        }
    }

    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            state: match self.state {
                State::Closed => StateName::Closed,
                State::Open { .. } => StateName::Open,
                State::HalfOpen { .. } => StateName::HalfOpen,
            },
            failure_count: self.failure_count,
            success_count: self.success_count,
            last_failure: self.last_failure.map(|then| now.saturating_duration_since(then)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET: Duration = Duration::from_secs(10);

    fn opened(at: Instant) -> Breaker {
        let mut breaker = Breaker::new(Settings { threshold: 3, reset_after: RESET });
        for _ in 0..3 {
            assert_eq!(breaker.admit(at), Ok(()));
            breaker.failed(at);
        }
        breaker
    }

    #[test]
    fn the_circuit_opens_at_the_threshold_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Settings { threshold: 3, reset_after: RESET });
        breaker.failed(now);
        breaker.failed(now);
        assert_eq!(breaker.admit(now), Ok(()));
        breaker.failed(now);
        assert_eq!(breaker.admit(now), Err(RESET));
        assert_eq!(breaker.snapshot(now).state, StateName::Open);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new(Settings { threshold: 2, reset_after: RESET });
        for _ in 0..10 {
            breaker.failed(now);
            breaker.succeeded();
        }
        assert_eq!(breaker.snapshot(now).state, StateName::Closed);
        assert_eq!(breaker.snapshot(now).success_count, 10);
    }

    #[test]
    fn half_open_admits_one_probe() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + RESET / 2), Err(RESET / 2));
        assert_eq!(breaker.admit(start + RESET), Ok(()));
        assert_eq!(breaker.snapshot(start + RESET).state, StateName::HalfOpen);
        assert_eq!(breaker.admit(start + RESET), Err(RESET));
    }

    #[test]
    fn the_probe_decides() {
        let start = Instant::now();
        let later = start + RESET;
        let mut failing = opened(start);
        assert_eq!(failing.admit(later), Ok(()));
        failing.failed(later);
        assert_eq!(failing.admit(later), Err(RESET));

        let mut recovering = opened(start);
        assert_eq!(recovering.admit(later), Ok(()));
        recovering.succeeded();
        assert_eq!(recovering.admit(later), Ok(()));
        assert_eq!(recovering.snapshot(later).failure_count, 0);
    }

    #[test]
    fn a_probe_that_never_ends_gives_its_place_up() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert_eq!(breaker.admit(start + RESET), Ok(()));
        assert_eq!(breaker.admit(start + RESET * 2), Ok(()));
    }

    #[test]
    fn late_failures_do_not_prolong_the_wait() {
        let start = Instant::now();
        let mut breaker = opened(start);
        breaker.failed(start + RESET / 2);
        assert_eq!(breaker.admit(start + RESET), Ok(()));
    }
}

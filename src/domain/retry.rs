//! How long to wait before an infrastructure failure is tried again.

use std::time::Duration;

/// Exponential backoff with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first delay.
    pub base: Duration,
    /// Upper bound of every delay that is ours.
    pub cap: Duration,
    /// Upper bound of what the other side may ask for.
    pub longest_asked: Duration,
}

impl RetryPolicy {
    /// The delay after the given failed attempt (1 for the first): half to all of
    /// `base × 2^(attempt-1)`, at most `cap`; at least what the other side asked for, up to
    /// `longest_asked`.
    /// `jitter` is a random number from 0 to 1.
    pub fn delay(&self, attempt: u32, jitter: f64, retry_after: Option<Duration>) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.cap);
        let delay = ceiling.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        delay.max(retry_after.unwrap_or_default().min(self.longest_asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        base: Duration::from_secs(1),
        cap: Duration::from_secs(60),
        longest_asked: Duration::from_secs(100),
    };

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<_> = [1, 2, 3, 10, u32::MAX].map(|attempt| POLICY.delay(attempt, 1.0, None).as_secs()).into();
        assert_eq!(delays, [1, 2, 4, 60, 60]);
    }

    #[test]
    fn jitter_never_takes_more_than_half() {
        assert_eq!(POLICY.delay(2, 0.0, None), Duration::from_secs(1));
    }

    #[test]
    fn the_other_side_may_ask_for_more_time() {
        let asked = |seconds| POLICY.delay(1, 0.0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(90), Duration::from_secs(90));
        assert_eq!(asked(1_000_000), Duration::from_secs(100), "but not for ever");
        assert_eq!(asked(0), Duration::from_millis(500));
    }
}

//! Another attempt after code ended in a way that its job type tries again.

use super::attempt::Attempt;
use crate::config::RetryOn;
use crate::domain::{Command, Ending, ErrorType, ExecutionRecord, Failure, Phase, Retry, RetryPolicy};

impl Attempt<'_> {
    /// How the log is told of an end.
    pub(super) fn end_command(&self, record: &ExecutionRecord, ending: &Ending) -> Command {
        let (lease, boxed) = (self.claim.lease, Box::new(ending.clone()));
        match self.retry_after_end(record, ending) {
            Some((cause, retry)) => Command::FinishOrRetry { lease, ending: boxed, cause, retry },
            None => Command::Finish { lease, ending: boxed },
        }
    }

    /// `None` for an end that is one.
    fn retry_after_end(&self, record: &ExecutionRecord, ending: &Ending) -> Option<(Failure, Retry)> {
        let (on, cause) = match ending {
            Ending::Failed { error, .. } => (RetryOn::Failed, error.clone()),
            Ending::TimedOut { phase, limit_ms, .. } => {
                let error_type = match phase {
                    Phase::Queue => ErrorType::Timeout,
                    Phase::Startup => ErrorType::StartupTimeout,
                    Phase::Execution => ErrorType::ExecutionTimeout,
                };
                let message = format!("it took longer than its limit of {limit_ms} ms");
                (RetryOn::Timeout, Failure { error_type, message, phase: *phase, exception: None })
            }
            Ending::OutOfMemory { limit_bytes, .. } => {
                let message = format!("it needed more than its {} MiB of memory", limit_bytes >> 20);
                (
                    RetryOn::Oom,
                    Failure { error_type: ErrorType::Oom, message, phase: Phase::Execution, exception: None },
                )
            }
            Ending::Succeeded { .. } | Ending::Cancelled { .. } => return None,
        };
        let job_type = self.bench.job_types.present(&record.submitted.job_type)?.job_type;
        let own = job_type.retry.as_ref().filter(|own| own.on.contains(&on))?;
        let general = self.bench.retry;
        let base = if own.base_delay.is_zero() { general.base } else { own.base_delay };
        let policy = RetryPolicy { base, cap: general.cap.max(base), ..general };
        let delay = policy.delay(record.attempt, rand::random(), None);
        Some((cause, Retry::At { not_before: self.bench.clock.now() + delay, delay_ms: delay.as_millis() as u64 }))
    }
}

//! What `/health` says of the engine, looked at no more than every two seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::runtime;
use tokio::sync::Mutex;

use super::engine::Chosen;
use crate::api::health::{CircuitBreaker, Probe, Sight};
use crate::clock::{Clock, SystemClock};
use crate::engine::docker::breaker::StateName;
use crate::engine::pool::Pool;

const MAX_AGE: Duration = Duration::from_secs(2);

pub struct CachedProbe {
    chosen: Chosen,
    pool: Arc<Pool>,
    io: runtime::Handle,
    seen: Mutex<Option<(Instant, bool)>>,
}

impl CachedProbe {
    pub fn new(chosen: Chosen, pool: Arc<Pool>, io: runtime::Handle) -> Self {
        Self { chosen, pool, io, seen: Mutex::new(None) }
    }

    async fn engine_available(&self) -> bool {
        let mut seen = self.seen.lock().await;
        if let Some((at, available)) = *seen
            && at.elapsed() < MAX_AGE
        {
            return available;
        }
        let engine = self.chosen.engine();
        let available = matches!(self.io.spawn(async move { engine.health().await }).await, Ok(Ok(())));
        *seen = Some((Instant::now(), available));
        available
    }
}

#[async_trait]
impl Probe for CachedProbe {
    async fn look(&self) -> Sight {
        let engine_available = self.engine_available().await;
        let engine = self.chosen.engine();
        let (docker_available, gvisor_available, circuit_breaker) = match &self.chosen {
            Chosen::Docker(docker) => {
                let status = docker.status();
                let breaker = CircuitBreaker {
                    state: match status.breaker.state {
                        StateName::Closed => "closed",
                        StateName::Open => "open",
                        StateName::HalfOpen => "half_open",
                    },
                    failure_count: status.breaker.failure_count.into(),
                    success_count: status.breaker.success_count,
                    last_failure: status.breaker.last_failure.map(ago),
                };
                (engine_available, status.gvisor_available, breaker)
            }
            Chosen::Native(_) | Chosen::Scripted(_) | Chosen::Absent(_) => {
                let closed = CircuitBreaker { state: "closed", failure_count: 0, success_count: 0, last_failure: None };
                (false, false, closed)
            }
        };
        Sight {
            engine_available,
            engine: engine.kind().as_str().to_owned(),
            runtime: engine.runtime().to_owned(),
            docker_available,
            gvisor_available,
            missing_limits: engine.missing_limits(),
            circuit_breaker,
            pool: self.pool.stats(),
        }
    }
}

fn ago(elapsed: Duration) -> DateTime<Utc> {
    SystemClock.now() - elapsed
}

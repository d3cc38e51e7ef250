//! Job types: how they are defined, built, pinned and removed.

mod building;
mod defining;
mod packages;
mod refusing;
mod room;
mod sources;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::{Value, json};
use tako_vm::cli::server::Chosen;
use tako_vm::config::{Config, JobType};
use tako_vm::engine::scripted::ScriptedEngine;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::world::{Choice, World};

/// A server whose builds are counted, and wait for the gate if there is one.
struct Site {
    world: World,
    builds: Arc<AtomicU64>,
}

fn counted(builds: &Arc<AtomicU64>, gate: Option<&Arc<Semaphore>>) -> Choice {
    let (builds, gate) = (Arc::clone(builds), gate.cloned());
    Arc::new(move |_| {
        Chosen::Scripted(Arc::new(ScriptedEngine::default().with_builds(Arc::clone(&builds), gate.clone())))
    })
}

impl Site {
    async fn start(configure: impl FnOnce(&mut Config), gate: Option<&Arc<Semaphore>>) -> Self {
        let builds = Arc::default();
        let world = World::start_with(configure, counted(&builds, gate)).await;
        Self { world, builds }
    }

    fn builds(&self) -> u64 {
        self.builds.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn build(&self, name: &str) -> (u16, Value) {
        self.world.post(&format!("/job-types/{name}/build"), json!({})).await
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.world.http.put(format!("{}{path}", self.world.url)).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Runs a job to its end and answers with the full record.
    async fn run(&self, body: Value) -> Value {
        let (status, accepted) = self.world.post("/jobs", body).await;
        assert_eq!(status, 202, "{accepted}");
        let id: Uuid = accepted["execution_id"].as_str().unwrap().parse().unwrap();
        self.world.ended(id).await
    }

    /// How often each kind of event is in the log.
    async fn count(&self, kind: &str) -> usize {
        let events = self.world.store().log_events(0, &[], 10_000).await.unwrap();
        events.iter().filter(|event| event.event_type == kind).count()
    }
}

/// A job type with these requirements.
fn with(name: &str, requirements: &[&str]) -> impl FnOnce(&mut Config) {
    let requirements = requirements.iter().map(|text| (*text).to_owned()).collect();
    let job_type = JobType { name: name.to_owned(), requirements, ..JobType::default() };
    move |config| drop(config.job_types.insert(job_type.name.clone(), job_type))
}

//! An engine before and after whose every call the process may be made to end; see [`crate::crash_point`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build::{Base, BuildError, BuiltImage, Log, Made, Plan};
use super::{Engine, Error, Image, Job, Kind, OutputChunk, Run, Sandbox, SandboxLabels, SandboxSpec};
use crate::crash_point;
use crate::domain::GpuRequest;

/// Hands every call on to another engine.
pub struct CrashingEngine(pub Arc<dyn Engine>);

struct CrashingSandbox(Box<dyn Sandbox>);

async fn around<T>(call: &str, work: impl Future<Output = T>) -> T {
    crash_point::around("engine", call, work).await
}

#[async_trait]
impl Engine for CrashingEngine {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn runtime(&self) -> &str {
        self.0.runtime()
    }

    async fn resolve_image(&self, reference: &str) -> Result<Image, Error> {
        around("resolve_image", self.0.resolve_image(reference)).await
    }

    fn gpu_refusal(&self, gpu: &GpuRequest) -> Option<String> {
        self.0.gpu_refusal(gpu)
    }

    async fn base(&self, reference: &str, obtain: bool) -> Result<Option<String>, Error> {
        around("base", self.0.base(reference, obtain)).await
    }

    async fn image_on(&self, base: &Base) -> Result<Option<Image>, Error> {
        self.0.image_on(base).await
    }

    async fn build(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        around("build", self.0.build(plan, log)).await
    }

    async fn find_built(&self, job_type: &str, digest: &str) -> Result<Option<Image>, Error> {
        around("find_built", self.0.find_built(job_type, digest)).await
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        around("built", self.0.built()).await
    }

    async fn remove_built(&self, built: &BuiltImage) -> Result<bool, Error> {
        around("remove_built", self.0.remove_built(built)).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        let sandbox = around("start", self.0.start(spec)).await?;
        Ok(Box::new(CrashingSandbox(sandbox)))
    }

    async fn health(&self) -> Result<(), Error> {
        around("health", self.0.health()).await
    }

    async fn list(&self, installation: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        around("list", self.0.list(installation)).await
    }

    async fn remove(&self, sandbox_id: &str) -> Result<(), Error> {
        around("remove", self.0.remove(sandbox_id)).await
    }

    async fn shutdown(&self) {
        around("shutdown", self.0.shutdown()).await;
    }
}

#[async_trait]
impl Sandbox for CrashingSandbox {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn startup(&self) -> Duration {
        self.0.startup()
    }

    fn is_waiting(&mut self) -> bool {
        self.0.is_waiting()
    }

    async fn run(
        self: Box<Self>,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<Run, Error> {
        around("run", self.0.run(job, output, cancel)).await
    }

    async fn destroy(self: Box<Self>) {
        around("destroy", self.0.destroy()).await;
    }
}

//! Makes the environments of job types available on this node's engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use tokio::sync::Mutex;

use super::job_types::{JobTypes, NoSuchJobType};
use super::submission::Origin;
use crate::config::JobType;
use crate::domain::{self, ErrorType, Failure, JobSubmitted, Phase, PinnedImage, RefusalCause};
use crate::engine::pool::Pool;
use crate::engine::{self, Image, SandboxSpec};

/// Between two looks at what should be ready, well within a pooled sandbox's greatest age.
const WARM_INTERVAL: Duration = Duration::from_secs(5);

/// Asks for what a sandbox of the job is made of, making the image available first.
#[derive(Debug, Message)]
#[rtype(result = "Result<SandboxSpec, Unprepared>")]
pub struct Prepare {
    pub submitted: Box<JobSubmitted>,
}

/// Why a job has no environment.
#[derive(Debug, Clone)]
pub enum Unprepared {
    /// What a replay ran on cannot be had here.
    NotAsPinned {
        cause: RefusalCause,
        reason: String,
    },
    Failed {
        error: Failure,
        retryable: bool,
    },
}

/// Builds a job type now; answers with its version.
#[derive(Debug, Message)]
#[rtype(result = "Result<Built, Refusal>")]
pub struct Build {
    pub origin: Origin,
    pub job_type: String,
    pub version_tag: Option<String>,
}

/// Whether the image of a job type is there.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct ImageExists {
    pub job_type: String,
}

/// A job type that is ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub job_type: String,
    /// `name@sha256:<12 hex>`.
    pub version: String,
    pub digest: String,
    pub image_ref: String,
}

/// Why a job type was not built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    JobType(#[from] NoSuchJobType),
    #[error(
        "job type {job_type:?} needs requirements, and this version of the service installs none; bring a base_image that has them"
    )]
    Requirements { job_type: String },
    #[error("job type {job_type:?} was not built: {message}")]
    Failed { job_type: String, message: String },
}

pub struct Builder {
    workshop: Workshop,
    io: runtime::Handle,
}

/// What the builder's tasks work with.
#[derive(Clone)]
struct Workshop {
    job_types: Arc<JobTypes>,
    pool: Arc<Pool>,
    images: Arc<Images>,
}

/// Images by reference, resolved once each, however many ask at the same time.
#[derive(Default)]
struct Images(std::sync::Mutex<HashMap<String, Arc<Mutex<Option<Image>>>>>);

impl Builder {
    pub fn new(job_types: Arc<JobTypes>, pool: Arc<Pool>, io: runtime::Handle) -> Self {
        Self { workshop: Workshop { job_types, pool, images: Arc::default() }, io }
    }
}

/// Where an engine finds the image of a job type.
fn reference(kind: engine::Kind, job_type: &JobType) -> String {
    match kind {
        engine::Kind::Docker => {
            job_type.base_image.clone().unwrap_or_else(|| format!("tako-vm/executor:{}", job_type.python_version))
        }
        engine::Kind::Native => "host".to_owned(),
        engine::Kind::Scripted => "scripted".to_owned(),
    }
}

impl Images {
    async fn resolve(&self, pool: &Pool, reference: &str) -> Result<Image, engine::Error> {
        self.find(pool, reference, false).await
    }

    /// What the reference names now, whatever it named before.
    async fn resolve_anew(&self, pool: &Pool, reference: &str) -> Result<Image, engine::Error> {
        self.find(pool, reference, true).await
    }

    async fn find(&self, pool: &Pool, reference: &str, anew: bool) -> Result<Image, engine::Error> {
        let cell = {
            let mut images = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(images.entry(reference.to_owned()).or_default())
        };
        let mut resolved = cell.lock().await;
        if let Some(image) = resolved.as_ref().filter(|_| !anew) {
            return Ok(image.clone());
        }
        let image = pool.engine().resolve_image(reference).await?;
        *resolved = Some(image.clone());
        Ok(image)
    }

    fn is_resolved(&self, reference: &str) -> bool {
        let images = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        images.get(reference).is_some_and(|cell| cell.try_lock().is_ok_and(|image| image.is_some()))
    }
}

impl Workshop {
    /// What a sandbox of the job is made of; the pool keeps some of that make from now on.
    async fn prepare(&self, submitted: &JobSubmitted) -> Result<SandboxSpec, Unprepared> {
        let (job_type, _) = self
            .job_types
            .resolve(&submitted.job_type)
            .map_err(|gone| unprepared(ErrorType::ConfigError, &gone.to_string(), false))?;
        if !job_type.requirements.is_empty() || !submitted.requirements.is_empty() {
            let refusal = Refusal::Requirements { job_type: job_type.name.clone() };
            return Err(unprepared(ErrorType::DependencyError, &refusal.to_string(), false));
        }
        let image = match &submitted.pinned_image {
            Some(pinned) => self.pinned_image(pinned).await?,
            None => self.image(job_type).await.map_err(|error| {
                let is_outage = matches!(error, engine::Error::Unavailable { .. });
                unprepared(ErrorType::DockerError, &error.to_string(), is_outage)
            })?,
        };
        let hash_seed = submitted.hash_seed.as_deref();
        let labels = self.pool.labels().clone();
        let spec = self.job_types.spec(&job_type.name, &submitted.limits, image, hash_seed, labels);
        // An image that is only tried out is nothing to keep sandboxes ready of.
        if submitted.pinned_image.as_ref().is_none_or(|pinned| pinned.digest.is_some()) {
            self.pool.keep(&spec, self.job_types.pool_bounds(&job_type.name));
        }
        Ok(spec)
    }

    async fn pinned_image(&self, pinned: &PinnedImage) -> Result<Image, Unprepared> {
        let refused = |cause, reason| Unprepared::NotAsPinned { cause, reason };
        let engine = self.pool.engine();
        let (kind, runtime) = (engine.kind(), engine.runtime());
        if pinned.engine != kind.as_str() {
            let reason =
                format!("it ran on the {} engine, and this node has the {} engine", pinned.engine, kind.as_str());
            return Err(refused(RefusalCause::EngineMissing, reason));
        }
        if let Some(wanted) = pinned.runtime.as_deref().filter(|wanted| *wanted != runtime) {
            let reason = format!("it ran on the runtime {wanted}, and this node runs sandboxes on {runtime}");
            return Err(refused(RefusalCause::RuntimeMissing, reason));
        }
        let gone = |error: engine::Error| match error {
            engine::Error::Unavailable { .. } => unprepared(ErrorType::ServiceUnavailable, &error.to_string(), true),
            error => refused(RefusalCause::ImageGone, domain::scrub(&error.to_string())),
        };
        let Some(digest) = &pinned.digest else {
            return self.images.resolve_anew(&self.pool, &pinned.reference).await.map_err(gone);
        };
        // A tag may have moved since; for Docker the digest is a reference by itself.
        let reference = if kind == engine::Kind::Docker { digest } else { &pinned.reference };
        let image = self.images.resolve(&self.pool, reference).await.map_err(gone)?;
        if *digest != image.digest {
            let reason = format!("image {reference} is {} now, and it ran on {digest}", image.digest);
            return Err(refused(RefusalCause::ImageGone, reason));
        }
        Ok(image)
    }

    async fn image(&self, job_type: &JobType) -> Result<Image, engine::Error> {
        self.images.resolve(&self.pool, &reference(self.pool.engine().kind(), job_type)).await
    }

    /// Has sandboxes ready for the job types that want some before the first job comes.
    async fn warm(&self) {
        for job_type in self.job_types.all() {
            let bounds = self.job_types.pool_bounds(&job_type.name);
            if bounds.min_idle == 0 || !job_type.requirements.is_empty() {
                continue;
            }
            match self.image(job_type).await {
                Ok(image) => {
                    let limits = self.job_types.limits(job_type, None, None);
                    let spec = self.job_types.spec(&job_type.name, &limits, image, None, self.pool.labels().clone());
                    self.pool.keep(&spec, bounds);
                }
                Err(error) => tracing::warn!(error = %error, job_type = job_type.name, "no image to start ahead from"),
            }
        }
    }
}

fn unprepared(error_type: ErrorType, message: &str, retryable: bool) -> Unprepared {
    Unprepared::Failed { error: Failure::of_service(error_type, Phase::Startup, message), retryable }
}

impl Actor for Builder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.warm();
        context.run_interval(WARM_INTERVAL, |builder, _| builder.warm());
    }
}

impl Builder {
    fn warm(&self) {
        let workshop = self.workshop.clone();
        self.io.spawn(async move { workshop.warm().await });
    }
}

impl Handler<Prepare> for Builder {
    type Result = ResponseFuture<Result<SandboxSpec, Unprepared>>;

    fn handle(&mut self, Prepare { submitted }: Prepare, _: &mut Self::Context) -> Self::Result {
        let workshop = self.workshop.clone();
        let task = self.io.spawn(async move { workshop.prepare(&submitted).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|lost| Err(unprepared(ErrorType::InternalError, &lost.to_string(), true)))
        })
    }
}

impl Handler<Build> for Builder {
    type Result = ResponseFuture<Result<Built, Refusal>>;

    fn handle(&mut self, Build { job_type, .. }: Build, _: &mut Self::Context) -> Self::Result {
        let (found, version) = match self.workshop.job_types.resolve(&job_type) {
            Ok(found) => found,
            Err(unknown) => return Box::pin(async { Err(unknown.into()) }),
        };
        let name = found.name.clone();
        if !found.requirements.is_empty() {
            return Box::pin(async { Err(Refusal::Requirements { job_type: name }) });
        }
        let digest = self.workshop.job_types.digest(&name).unwrap_or_default().to_owned();
        let (workshop, job_type) = (self.workshop.clone(), found.clone());
        let task = self.io.spawn(async move { workshop.image(&job_type).await });
        Box::pin(async move {
            match task.await {
                Ok(Ok(image)) => Ok(Built { job_type: name, version, digest, image_ref: image.reference }),
                Ok(Err(error)) => Err(Refusal::Failed { job_type: name, message: domain::scrub(&error.to_string()) }),
                Err(lost) => Err(Refusal::Failed { job_type: name, message: lost.to_string() }),
            }
        })
    }
}

impl Handler<ImageExists> for Builder {
    type Result = bool;

    fn handle(&mut self, ImageExists { job_type }: ImageExists, _: &mut Self::Context) -> bool {
        let Workshop { job_types, pool, images } = &self.workshop;
        job_types.resolve(&job_type).is_ok_and(|(job_type, _)| {
            job_type.requirements.is_empty() && images.is_resolved(&reference(pool.engine().kind(), job_type))
        })
    }
}

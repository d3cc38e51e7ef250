//! Makes the environments of job types available on this node's engine.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use tokio::runtime;
use tokio::sync::Mutex;

use super::job_types::{JobTypes, NoSuchJobType};
use super::submission::Origin;
use crate::config::JobType;
use crate::domain::{self, ErrorType, Failure, JobSubmitted, Phase};
use crate::engine::pool::Pool;
use crate::engine::{self, Image, SandboxSpec};

/// Asks for what a sandbox of the job is made of, making the image available first.
#[derive(Debug, Message)]
#[rtype(result = "Result<SandboxSpec, Unprepared>")]
pub struct Prepare {
    pub submitted: Box<JobSubmitted>,
}

/// Why a job has no environment.
#[derive(Debug, Clone)]
pub enum Unprepared {
    /// A replay's image is not the one it was, or is gone.
    PinnedImageGone {
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
    job_types: Arc<JobTypes>,
    pool: Arc<Pool>,
    io: runtime::Handle,
    images: Arc<Images>,
}

/// Images by reference, resolved once each, however many ask at the same time.
#[derive(Default)]
struct Images(std::sync::Mutex<HashMap<String, Arc<Mutex<Option<Image>>>>>);

impl Builder {
    pub fn new(job_types: Arc<JobTypes>, pool: Arc<Pool>, io: runtime::Handle) -> Self {
        Self { job_types, pool, io, images: Arc::default() }
    }

    fn reference(&self, job_type: &JobType) -> String {
        reference(self.pool.engine().kind(), job_type)
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
        let cell = {
            let mut images = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(images.entry(reference.to_owned()).or_default())
        };
        let mut resolved = cell.lock().await;
        if let Some(image) = &*resolved {
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

impl Actor for Builder {
    type Context = Context<Self>;
}

impl Handler<Prepare> for Builder {
    type Result = ResponseFuture<Result<SandboxSpec, Unprepared>>;

    fn handle(&mut self, Prepare { submitted }: Prepare, _: &mut Self::Context) -> Self::Result {
        let (job_types, pool, images) = (Arc::clone(&self.job_types), Arc::clone(&self.pool), Arc::clone(&self.images));
        let task = self.io.spawn(async move {
            let (job_type, _) = job_types.resolve(&submitted.job_type).map_err(|gone| Unprepared::Failed {
                error: Failure::of_service(ErrorType::ConfigError, Phase::Startup, &gone.to_string()),
                retryable: false,
            })?;
            if !job_type.requirements.is_empty() || !submitted.requirements.is_empty() {
                let refusal = Refusal::Requirements { job_type: job_type.name.clone() };
                let error = Failure::of_service(ErrorType::DependencyError, Phase::Startup, &refusal.to_string());
                return Err(Unprepared::Failed { error, retryable: false });
            }
            let engine = pool.engine().kind();
            if let Some(pinned) = &submitted.pinned_image
                && pinned.engine != engine.as_str()
            {
                let reason =
                    format!("it ran on the {} engine, and this node has the {} engine", pinned.engine, engine.as_str());
                return Err(Unprepared::PinnedImageGone { reason });
            }
            let reference = match &submitted.pinned_image {
                // A tag may have moved since; the digest is the image.
                Some(pinned) if engine == engine::Kind::Docker => pinned.digest.clone(),
                Some(pinned) => pinned.reference.clone(),
                None => reference(engine, job_type),
            };
            let image = images.resolve(&pool, &reference).await.map_err(|error| match &submitted.pinned_image {
                Some(_) => Unprepared::PinnedImageGone { reason: domain::scrub(&error.to_string()) },
                None => Unprepared::Failed {
                    error: Failure::of_service(ErrorType::DockerError, Phase::Startup, &error.to_string()),
                    retryable: matches!(error, engine::Error::Unavailable { .. }),
                },
            })?;
            if let Some(pinned) = &submitted.pinned_image
                && pinned.digest != image.digest
            {
                let reason = format!("image {reference} is {} now, and it ran on {}", image.digest, pinned.digest);
                return Err(Unprepared::PinnedImageGone { reason });
            }
            let spec = job_types.spec(&job_type.name, &submitted.limits, image, pool.labels().clone());
            pool.keep(&spec, job_types.pool_bounds(&job_type.name));
            Ok(spec)
        });
        Box::pin(async move {
            task.await.unwrap_or_else(|lost| {
                Err(Unprepared::Failed {
                    error: Failure::of_service(ErrorType::InternalError, Phase::Startup, &lost.to_string()),
                    retryable: true,
                })
            })
        })
    }
}

impl Handler<Build> for Builder {
    type Result = ResponseFuture<Result<Built, Refusal>>;

    fn handle(&mut self, Build { job_type, .. }: Build, _: &mut Self::Context) -> Self::Result {
        let (found, version) = match self.job_types.resolve(&job_type) {
            Ok(found) => found,
            Err(unknown) => return Box::pin(async { Err(unknown.into()) }),
        };
        let name = found.name.clone();
        if !found.requirements.is_empty() {
            return Box::pin(async { Err(Refusal::Requirements { job_type: name }) });
        }
        let digest = self.job_types.digest(&name).unwrap_or_default().to_owned();
        let reference = self.reference(found);
        let (pool, images) = (Arc::clone(&self.pool), Arc::clone(&self.images));
        let task = self.io.spawn(async move { images.resolve(&pool, &reference).await });
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
        self.job_types.resolve(&job_type).is_ok_and(|(job_type, _)| {
            job_type.requirements.is_empty() && self.images.is_resolved(&self.reference(job_type))
        })
    }
}

//! Makes the environments of job types available on this node's engine.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::builds::{Builds, Parts, Wanted, Wish};
use super::definitions::Desk;
use super::errands::Errands;
use super::images::{Held, Room};
use super::job_types::{Environment, JobTypes, NoSuchJobType, Present, Unresolved, base_reference};
use super::journal::Journal;
use super::refusal::answer;
use super::resolved_images::Images;
use super::submission::Origin;
use super::told_warm::ToldWarm;
use crate::config::JobType;
use crate::domain::{self, ErrorType, Failure, JobSubmitted, Phase, PinnedImage, RefusalCause};
use crate::engine::pool::Pool;
use crate::engine::{self, Image, SandboxSpec};
use crate::store::Store;

/// Between two looks at what should be ready, well within a pooled sandbox's greatest age.
const WARM_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks for what other nodes want built, of which no notification told.
const ERRAND_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at what the images take of the disk.
const ROOM_INTERVAL: Duration = Duration::from_secs(600);

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
    NotAsPinned { cause: RefusalCause, reason: String },
    Failed {
        error: Failure,
        retryable: bool,
        /// What the engine or a registry asked to be waited.
        retry_after: Option<Duration>,
    },
}

/// Asks for the image of a job type, or of one of its versions, now.
#[derive(Debug, Message)]
#[rtype(result = "Result<Wanted, Refusal>")]
pub struct Build {
    pub origin: Origin,
    pub job_type: String,
    pub version_tag: Option<String>,
}

/// Whether the image of a job type is here.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct ImageExists {
    pub job_type: String,
}

/// Makes a job type, or gives it another definition.
#[derive(Debug, Message)]
#[rtype(result = "Result<Defined, Refusal>")]
pub struct Define {
    pub origin: Origin,
    pub job_type: Box<JobType>,
    /// Whether there must be none of that name, or one.
    pub is_new: bool,
}

/// The images of this node.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Held>, Refusal>")]
pub struct ListImages;

/// Removes images beyond the budget, or says which would go.
#[derive(Debug, Message)]
#[rtype(result = "Result<Room, Refusal>")]
pub struct CollectImages {
    pub dry_run: bool,
}

/// Another node may want something built here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RunErrands;

/// A job type that is ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub job_type: String,
    /// `name@sha256:<12 hex>`.
    pub version: String,
    pub digest: String,
    pub image_ref: String,
}

impl Built {
    pub(super) fn of(environment: &Environment, image: &Image) -> Self {
        Self {
            job_type: environment.name.clone(),
            version: environment.version().to_string(),
            digest: environment.digest.to_string(),
            image_ref: image.reference.clone(),
        }
    }
}

/// A job type as it was defined.
#[derive(Debug, Clone)]
pub struct Defined {
    pub present: Present,
    /// There was a definition, and it was the same.
    pub unchanged: bool,
}

/// Why there is no image, or no definition.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    JobType(#[from] NoSuchJobType),
    #[error("version {version} is not built, and in production nothing is built for a job; ask for it: tako-vm build")]
    NotBuilt { version: String },
    #[error("job type {job_type:?} was not built: {message}")]
    Failed {
        job_type: String,
        message: String,
        /// The last lines of the build's log.
        log_tail: String,
        /// The same may work later, or on another node.
        retryable: bool,
        /// How much later, where somebody said so.
        retry_after: Option<Duration>,
    },
    #[error("job type {name:?} exists already; change it with PUT /job-types/{name}")]
    Exists { name: String },
    #[error("job type {name:?} is defined in the configuration, which alone can change it; choose another name")]
    Configured { name: String },
    #[error("job type {name:?} was changed by somebody else at the same time; look at it and try again")]
    Raced { name: String },
}

pub struct Builder {
    workshop: Workshop,
    pub(super) io: runtime::Handle,
}

/// What the builder's tasks work with.
#[derive(Clone)]
struct Workshop {
    job_types: Arc<JobTypes>,
    pool: Arc<Pool>,
    images: Arc<Images>,
    builds: Arc<Builds>,
    store: Store,
    journal: Journal,
    node_id: Uuid,
    told_warm: ToldWarm,
    errands: Errands,
}

impl Builder {
    pub fn new(parts: Parts, pool: Arc<Pool>) -> Self {
        let (job_types, io) = (Arc::clone(&parts.job_types), parts.io.clone());
        let (store, journal, node_id) = (parts.store.clone(), parts.journal.clone(), parts.node_id);
        let builds = Arc::new(Builds::new(parts));
        let errands = Errands { store: store.clone(), node_id };
        let told_warm = ToldWarm::new(store.clone(), node_id);
        let images = Arc::default();
        let workshop = Workshop { job_types, pool, images, builds, store, journal, node_id, told_warm, errands };
        Self { workshop, io }
    }

    /// Where the builds of this node are watched and ended.
    pub fn builds(&self) -> Arc<Builds> {
        Arc::clone(&self.workshop.builds)
    }
}

impl Workshop {
    /// What a sandbox of the job is made of; the pool keeps some of that make from now on.
    async fn prepare(&self, submitted: &JobSubmitted) -> Result<SandboxSpec, Unprepared> {
        let environment = self.job_types.pinned(&submitted.job_type, &submitted.job_version).await;
        let environment = environment.map_err(|error| match error {
            Unresolved::NoSuchJobType(gone) => unprepared(ErrorType::ConfigError, &gone.to_string(), false),
            Unresolved::Store(error) => unprepared(ErrorType::ServiceUnavailable, &error.to_string(), true),
        })?;
        if let Some(refusal) = self.job_types.gpu_refusal(&environment.name) {
            return Err(unprepared(ErrorType::ConfigError, &refusal, false));
        }
        let image = match &submitted.pinned_image {
            Some(pinned) => self.pinned_image(pinned).await?,
            None => self.image(&environment).await?,
        };
        let hash_seed = submitted.hash_seed.as_deref();
        let labels = self.pool.labels().clone();
        let spec = self.job_types.spec(&environment, &submitted.limits, image, hash_seed, labels);
        // An image that is only tried out is nothing to keep sandboxes ready of.
        if submitted.pinned_image.as_ref().is_none_or(|pinned| pinned.digest.is_some()) {
            self.pool.keep(&spec, self.job_types.pool_bounds(&environment.name));
        }
        Ok(spec)
    }

    async fn image(&self, environment: &Environment) -> Result<Image, Unprepared> {
        if environment.recipe.is_plain() {
            return self.plain_image(environment).await.map_err(|error| {
                let is_outage = matches!(error, engine::Error::Unavailable { .. });
                unprepared(ErrorType::DockerError, &error.to_string(), is_outage).after(error.retry_after())
            });
        }
        self.builds.image(environment).await.map_err(|refusal| {
            let (error_type, retryable, tail, retry_after) = match &refusal {
                Refusal::Failed { retryable, log_tail, retry_after, .. } => {
                    // What may work later is not the fault of what is wanted.
                    let error_type =
                        if *retryable { ErrorType::ServiceUnavailable } else { ErrorType::DependencyError };
                    (error_type, *retryable, log_tail.as_str(), *retry_after)
                }
                _ => (ErrorType::ConfigError, false, "", None),
            };
            unprepared(error_type, format!("{refusal}\n{tail}").trim_end(), retryable).after(retry_after)
        })
    }

    async fn plain_image(&self, environment: &Environment) -> Result<Image, engine::Error> {
        let base = self.job_types.base(environment);
        if self.job_types.has_other_base(&base) {
            // The base's name has moved since. Where the old one is gone, the job runs on the
            // present one, and its record names the image.
            match self.pool.engine().image_on(&base).await? {
                Some(image) => return Ok(image),
                None => {
                    tracing::info!(version = %environment.version(), "its base is gone; it runs on the present one")
                }
            }
        }
        self.images.resolve(&self.pool, &base.reference).await
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
            engine::Error::Unavailable { retry_after, .. } => {
                unprepared(ErrorType::ServiceUnavailable, &error.to_string(), true).after(retry_after)
            }
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

    /// Has sandboxes ready for the job types that want some before the first job comes.
    async fn warm(&self) {
        if let Err(error) = self.job_types.refresh().await {
            tracing::debug!(error = %error, "job types are as they were: the database does not answer");
        }
        if !self.works() {
            return;
        }
        for Present { job_type, environment, .. } in self.job_types.all() {
            let bounds = self.job_types.pool_bounds(&job_type.name);
            let lacks_gpu = self.job_types.gpu_refusal(&job_type.name).is_some();
            if bounds.min_idle == 0 || lacks_gpu {
                continue;
            }
            let image = match environment.recipe.is_plain() {
                true => self.plain_image(&environment).await.map(Some),
                // What nobody asked for is not built, but what was built before is at hand.
                false => Ok(self.builds.find(&environment).await.ok().flatten()),
            };
            match image {
                Ok(Some(image)) => {
                    let limits = self.job_types.limits(&job_type, None, None);
                    let labels = self.pool.labels().clone();
                    self.pool.keep(&self.job_types.spec(&environment, &limits, image, None, labels), bounds);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(error = %error, job_type = job_type.name, "no image to start ahead from"),
            }
        }
        let mut warm = Vec::new();
        for Present { job_type, .. } in self.job_types.all() {
            if self.image_exists(&job_type.name).await {
                warm.push(job_type.name.clone());
            }
        }
        self.told_warm.tell(warm).await;
    }

    /// Whether this node has an engine, which an api node has not.
    fn works(&self) -> bool {
        self.pool.engine().kind() != engine::Kind::None
    }

    /// Takes up what other nodes ask of this one.
    async fn run_errands(&self) {
        if !self.works() {
            return;
        }
        for asked in self.errands.take().await {
            let workshop = self.clone();
            tokio::spawn(async move {
                let (by, correlation_id, version_tag) =
                    (asked.wished_by.clone(), asked.correlation_id.clone(), asked.version_tag.clone());
                let wanted = workshop.build(&asked.job_type, Wish { by, correlation_id, version_tag }).await;
                workshop.errands.report(&asked, wanted).await;
            });
        }
    }

    async fn build(&self, reference: &str, wish: Wish) -> Result<Wanted, Refusal> {
        let environment = match self.job_types.find(reference).await {
            Ok(present) => present.environment,
            Err(Unresolved::NoSuchJobType(unknown)) => return Err(unknown.into()),
            Err(Unresolved::Store(error)) => return Err(Refusal::of_store(reference, &error)),
        };
        if !self.works() {
            return Ok(self.builds.elsewhere(reference, environment, wish));
        }
        if let Some(refusal) = self.job_types.gpu_refusal(&environment.name) {
            let job_type = environment.name.clone();
            let (log_tail, retryable, retry_after) = (String::new(), false, None);
            return Err(Refusal::Failed { job_type, message: refusal, log_tail, retryable, retry_after });
        }
        if !environment.recipe.is_plain() {
            return self.builds.wanted(&environment, wish).await;
        }
        let image = self.plain_image(&environment).await;
        let image = image.map_err(|error| Refusal::of_build(&environment.name, &error.into(), String::new()))?;
        // Now that there is something to stand on, the version may be another.
        let environment = self.builds.settled(&environment).await?;
        Ok(Wanted::There(Built::of(&environment, &image)))
    }

    async fn image_exists(&self, job_type: &str) -> bool {
        let Some(Present { environment, .. }) = self.job_types.present(job_type) else { return false };
        if environment.recipe.is_plain() {
            return self.images.is_resolved(&base_reference(self.pool.engine().kind(), &environment.recipe));
        }
        self.builds.find(&environment).await.is_ok_and(|image| image.is_some())
    }
}

fn unprepared(error_type: ErrorType, message: &str, retryable: bool) -> Unprepared {
    let error = Failure::of_service(error_type, Phase::Startup, message);
    Unprepared::Failed { error, retryable, retry_after: None }
}

impl Unprepared {
    /// The same, with what was asked to be waited.
    fn after(mut self, asked: Option<Duration>) -> Self {
        if let Self::Failed { retry_after, .. } = &mut self {
            *retry_after = asked;
        }
        self
    }
}

impl Actor for Builder {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.warm();
        context.run_interval(WARM_INTERVAL, |builder, _| builder.warm());
        context.run_interval(ERRAND_INTERVAL, |builder, _| builder.run_errands());
        context.run_interval(ROOM_INTERVAL, |builder, _| {
            let (builds, errands) = (Arc::clone(&builder.workshop.builds), builder.workshop.errands.clone());
            builder.io.spawn(async move {
                builds.make_room().await;
                errands.clean().await;
            });
        });
    }
}

impl Builder {
    fn warm(&self) {
        let workshop = self.workshop.clone();
        self.io.spawn(async move { workshop.warm().await });
    }

    fn run_errands(&self) {
        let workshop = self.workshop.clone();
        self.io.spawn(async move { workshop.run_errands().await });
    }
}

impl Handler<RunErrands> for Builder {
    type Result = ();

    fn handle(&mut self, RunErrands: RunErrands, _: &mut Self::Context) {
        self.run_errands();
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

impl Builder {
    pub(super) fn desk(&self) -> Desk {
        let Workshop { job_types, store, journal, node_id, .. } = self.workshop.clone();
        Desk { job_types, store, journal, node_id }
    }
}

impl Handler<Build> for Builder {
    type Result = ResponseFuture<Result<Wanted, Refusal>>;

    fn handle(&mut self, Build { origin, job_type, version_tag }: Build, _: &mut Self::Context) -> Self::Result {
        let workshop = self.workshop.clone();
        let wish = Wish { by: origin.by, correlation_id: Some(origin.correlation_id), version_tag };
        answer(&self.io, async move { workshop.build(&job_type, wish).await })
    }
}

impl Handler<ImageExists> for Builder {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, ImageExists { job_type }: ImageExists, _: &mut Self::Context) -> Self::Result {
        let workshop = self.workshop.clone();
        let task = self.io.spawn(async move { workshop.image_exists(&job_type).await });
        Box::pin(async move { task.await.unwrap_or(false) })
    }
}

impl Handler<Define> for Builder {
    type Result = ResponseFuture<Result<Defined, Refusal>>;

    fn handle(&mut self, Define { origin, job_type, is_new }: Define, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk();
        answer(&self.io, async move { desk.define(&origin, &job_type, is_new).await })
    }
}

impl Handler<ListImages> for Builder {
    type Result = ResponseFuture<Result<Vec<Held>, Refusal>>;

    fn handle(&mut self, _: ListImages, _: &mut Self::Context) -> Self::Result {
        let builds = Arc::clone(&self.workshop.builds);
        answer(&self.io, async move { builds.held().await })
    }
}

impl Handler<CollectImages> for Builder {
    type Result = ResponseFuture<Result<Room, Refusal>>;

    fn handle(&mut self, CollectImages { dry_run }: CollectImages, _: &mut Self::Context) -> Self::Result {
        let builds = Arc::clone(&self.workshop.builds);
        answer(&self.io, async move { builds.collect(dry_run).await })
    }
}

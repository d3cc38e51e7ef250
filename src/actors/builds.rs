//! Builds of this node: each version at most once at a time, every step of it in the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::task::JoinError;
use uuid::Uuid;

pub use super::build_run::BuildRun;
use super::builder::{Built, Refusal};
use super::job_types::{Environment, JobTypes, Unsettled};
use super::journal::Journal;
use crate::clock::Clock;
use crate::config::{Config, Pip};
use crate::domain::{self, BuildFailed, BuildRequested, BuildStarted, BuildSucceeded, Digest, Event};
use crate::engine::build::{BuildError, Log, Made, Plan, Settings};
use crate::engine::{self, Engine, Image};
use crate::store::{self, JobTypeVersion, Store};

/// After which an image that was seen is looked for again, and a use of it noted again.
const SIGHT: Duration = Duration::from_secs(60);

/// How long jobs are told of the failed build instead of causing another.
const FAILURE_STANDS: Duration = Duration::from_secs(60);

/// Ended builds whose log can still be read.
const REMEMBERED: usize = 50;

/// What builds work with.
pub struct Parts {
    pub node_id: Uuid,
    pub config: Arc<Config>,
    pub job_types: Arc<JobTypes>,
    pub engine: Arc<dyn Engine>,
    pub store: Store,
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub io: runtime::Handle,
}

/// Every build of this node, and the images that are known to be here.
pub struct Builds {
    pub(super) parts: Parts,
    settings: Settings,
    state: Mutex<State>,
}

/// Two job types with one recipe have images of their own names.
type Key = (String, Digest);

fn key(environment: &Environment) -> Key {
    (environment.name.clone(), environment.digest)
}

#[derive(Default)]
struct State {
    under_way: HashMap<Key, Arc<BuildRun>>,
    /// Newest last.
    known: VecDeque<Arc<BuildRun>>,
    ready: HashMap<Key, (Image, Instant)>,
    failed: HashMap<Key, (Refusal, Instant)>,
    /// When a use of a version was last noted.
    noted: HashMap<Key, Instant>,
}

/// Who wants a build, and what it is to be called.
#[derive(Debug, Clone)]
pub struct Wish {
    pub by: String,
    pub correlation_id: Option<String>,
    pub version_tag: Option<String>,
}

impl Builds {
    pub fn new(parts: Parts) -> Self {
        let (build, data_dir) = (&parts.config.build, &parts.config.data_dir);
        let pip = build.sources(Pip::of_process());
        let settings = Settings {
            memory_bytes: build.memory,
            max_bytes: build.max_size,
            index_url: pip.index_url,
            extra_index_urls: pip.extra_index_urls,
            ca_bundle: pip.ca_bundle,
            proxy: pip.proxy,
            network: build.network.clone(),
            wheel_dir: pip.wheel_dir,
            source_distributions: build.source_distributions,
            // Only tests have no folder of their own.
            wheel_cache: match data_dir.as_os_str().is_empty() {
                true => std::env::temp_dir().join("tako-vm-wheels"),
                false => data_dir.join("wheels"),
            },
            wheel_cache_bytes: build.wheel_cache,
        };
        Self { parts, settings, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image for a job, built first if it may be.
    pub async fn image(self: &Arc<Self>, environment: &Environment) -> Result<Image, Refusal> {
        let environment = self.settled(environment).await?;
        self.note_use(&environment).await;
        if let Some(image) = self.seen(&environment) {
            return Ok(image);
        }
        if let Some(image) = self.find(&environment).await? {
            return Ok(image);
        }
        if self.parts.config.production_mode {
            return Err(Refusal::NotBuilt { version: environment.version().to_string() });
        }
        let failed = self.lock().failed.get(&key(&environment)).cloned();
        if let Some((refusal, _)) = failed.filter(|(_, at)| at.elapsed() < FAILURE_STANDS) {
            return Err(refusal);
        }
        let wish = Wish { by: "job".to_owned(), correlation_id: None, version_tag: None };
        self.begin(environment.clone(), wish).outcome().await?;
        self.find(&environment).await?.ok_or_else(|| Refusal::of(&environment.name, "the built image is gone again"))
    }

    pub(super) async fn settled(&self, environment: &Environment) -> Result<Environment, Refusal> {
        self.parts.job_types.settled(environment).await.map_err(|error| match error {
            Unsettled::Engine(error) => Refusal::of_build(&environment.name, &error.into(), String::new()),
            Unsettled::Store(error) => Refusal::of_store(&environment.name, &error),
        })
    }

    fn seen(&self, environment: &Environment) -> Option<Image> {
        let state = self.lock();
        let (image, at) = state.ready.get(&key(environment))?;
        (at.elapsed() < SIGHT).then(|| image.clone())
    }

    /// The image of a version if it is here.
    pub(super) async fn find(&self, environment: &Environment) -> Result<Option<Image>, Refusal> {
        let (name, digest) = (&environment.name, environment.digest.to_string());
        let found = self.parts.engine.find_built(name, &digest).await;
        let found = found.map_err(|error| Refusal::of_build(name, &error.into(), String::new()))?;
        match &found {
            Some(image) => drop(self.lock().ready.insert(key(environment), (image.clone(), Instant::now()))),
            None => drop(self.lock().ready.remove(&key(environment))),
        }
        Ok(found)
    }

    /// Notes that a job runs on a version, at most once a minute.
    async fn note_use(&self, environment: &Environment) {
        {
            let mut state = self.lock();
            state.noted.retain(|_, at| at.elapsed() < SIGHT);
            if state.noted.contains_key(&key(environment)) {
                return;
            }
            state.noted.insert(key(environment), Instant::now());
        }
        let (name, digest) = (&environment.name, environment.digest.to_string());
        if let Err(error) = self.parts.store.touch_job_type_version(name, &digest).await {
            tracing::debug!(error = %error, version = %environment.version(), "a use was not noted");
        }
    }

    /// Forgets that an image was here.
    pub(super) fn forget(&self, digest: &str) {
        self.lock().ready.retain(|(_, known), _| known.to_string() != digest);
    }

    /// What an explicit wish comes to: the version as it was built, or its build.
    pub async fn wanted(self: &Arc<Self>, environment: &Environment, wish: Wish) -> Result<Wanted, Refusal> {
        self.parts.job_types.forget_base(environment);
        let environment = self.settled(environment).await?;
        let (name, digest) = (environment.name.clone(), environment.digest.to_string());
        let row = self.parts.store.job_type_version(&name, &digest).await;
        let row = row.map_err(|error| Refusal::of_store(&name, &error))?;
        let has_tag = wish.version_tag.is_none() || row.as_ref().is_some_and(|row| row.version_tag == wish.version_tag);
        if let (Some(_), Some(image), true) = (&row, self.find(&environment).await?, has_tag) {
            return Ok(Wanted::There(Built::of(&environment, &image)));
        }
        Ok(Wanted::Building(self.begin(environment, wish)))
    }

    /// Joins the build of a version, or begins one.
    fn begin(self: &Arc<Self>, environment: Environment, wish: Wish) -> Arc<BuildRun> {
        self.join(environment, move |builds, run| async move { builds.run(&run, &wish).await })
    }

    /// Joins what is under way for a version, or begins it by `make`.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        environment: Environment,
        make: impl FnOnce(Arc<Self>, Arc<BuildRun>) -> F,
    ) -> Arc<BuildRun>
    where
        F: Future<Output = Result<Built, Refusal>> + Send + 'static,
    {
        let mut state = self.lock();
        if let Some(run) = state.under_way.get(&key(&environment)) {
            return Arc::clone(run);
        }
        let log_bytes = usize::try_from(self.parts.config.build.log_size).unwrap_or(usize::MAX);
        let run = Arc::new(BuildRun::new(Uuid::now_v7(), environment, log_bytes));
        state.under_way.insert(key(&run.environment), Arc::clone(&run));
        drop(state);
        self.remember(Arc::clone(&run));
        let (builds, task) = (Arc::clone(self), Arc::clone(&run));
        let making = make(Arc::clone(self), Arc::clone(&run));
        self.parts.io.spawn(async move {
            let outcome = making.await;
            builds.ended(key(&task.environment), &outcome);
            let is_built = outcome.is_ok();
            task.end(outcome);
            if is_built {
                builds.make_room().await;
            }
        });
        run
    }

    fn ended(&self, key: Key, outcome: &Result<Built, Refusal>) {
        let mut state = self.lock();
        state.under_way.remove(&key);
        match outcome {
            Ok(_) => drop(state.failed.remove(&key)),
            Err(refusal) => drop(state.failed.insert(key, (refusal.clone(), Instant::now()))),
        }
    }

    pub(super) fn remember(&self, run: Arc<BuildRun>) {
        let mut state = self.lock();
        state.known.push_back(run);
        while state.known.len() > REMEMBERED {
            state.known.pop_front();
        }
    }

    pub fn known(&self) -> Vec<Arc<BuildRun>> {
        self.lock().known.iter().rev().cloned().collect()
    }

    pub fn by_id(&self, build_id: Uuid) -> Option<Arc<BuildRun>> {
        self.lock().known.iter().find(|run| run.build_id == build_id).cloned()
    }

    pub(super) fn is_under_way(&self, digest: &str) -> bool {
        self.lock().under_way.keys().any(|(_, known)| known.to_string() == digest)
    }

    /// Ends every build: the node stops.
    pub fn cancel_all(&self) {
        self.lock().under_way.values().for_each(|run| run.cancel.cancel());
    }

    async fn run(&self, run: &Arc<BuildRun>, wish: &Wish) -> Result<Built, Refusal> {
        let began = Instant::now();
        let (environment, name) = (&run.environment, &run.environment.name);
        let Parts { node_id, journal, .. } = &self.parts;
        let journal = journal.of_build(run.build_id, *node_id, wish.correlation_id.clone(), (0, None));
        let (job_type, digest) = (name.clone(), environment.digest.to_string());
        let append = async |event: Event| match journal.append(event).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::of(name, "it was taken for interrupted: this node gave no sign of life")),
            Err(error) => Err(Refusal::of(name, &format!("it could not be recorded: {error}"))),
        };
        append(BuildRequested { job_type, digest, by: wish.by.clone() }.into()).await?;
        append(BuildStarted { node_id: *node_id }.into()).await?;
        let made = self.make(run).await;
        let duration_ms = began.elapsed().as_millis() as u64;
        match made {
            Ok(made) => {
                let requirements_hash = Digest::of(made.lock.as_bytes());
                let dockerfile_hash = made.dockerfile.as_ref().map(|text| Digest::of(text.as_bytes()));
                let (image_ref, image_digest) = (made.image.reference.clone(), made.image.digest.clone());
                let version_tag = wish.version_tag.clone();
                let succeeded = BuildSucceeded {
                    image_ref,
                    image_digest,
                    dockerfile_hash,
                    requirements_hash,
                    version_tag,
                    duration_ms,
                };
                append(succeeded.clone().into()).await?;
                let row = self.row(run, wish, &made, &succeeded);
                let put = self.parts.store.put_job_type_version(&row).await;
                put.map_err(|error| Refusal::of_store(name, &error))?;
                tracing::info!(version = %environment.version(), duration_ms, "built");
                Ok(Built::of(environment, &made.image))
            }
            Err(error) => {
                let refusal = Refusal::of_build(name, &error, run.tail());
                let (error, log_tail) = (domain::scrub(&domain::causes(&error)), run.tail());
                tracing::warn!(version = %environment.version(), error, "not built");
                append(BuildFailed { error, log_tail, duration_ms }.into()).await?;
                Err(refusal)
            }
        }
    }

    /// Has the engine build, within the time and until somebody cancels.
    async fn make(&self, run: &Arc<BuildRun>) -> Result<Made, BuildError> {
        let environment = &run.environment;
        let plan = self
            .plan(environment)
            .await
            .map_err(|error| BuildError::Failed(format!("what it is made of cannot be read: {error}")))?;
        let (log, mut lines) = Log::new();
        let limit = self.parts.config.build.timeout;
        let building = async move {
            // An image that is here already, without its record, is not made again.
            if let (Some(lock), Ok(Some(image))) =
                (&plan.lock, self.parts.engine.find_built(&plan.job_type, &plan.digest).await)
            {
                log.say("it is built already");
                return Ok(Made { image, lock: lock.clone(), dockerfile: None });
            }
            let made = tokio::select! {
                made = tokio::time::timeout(limit, self.parts.engine.build(&plan, &log)) => {
                    made.unwrap_or(Err(BuildError::TimedOut(limit)))
                }
                () = run.cancel.cancelled() => Err(BuildError::Cancelled),
            };
            if let Err(error) = &made {
                log.say(domain::causes(error));
            }
            made
        };
        let listening = async {
            while let Some(line) = lines.recv().await {
                run.say(&line);
            }
        };
        tokio::join!(building, listening).0
    }

    async fn plan(&self, environment: &Environment) -> Result<Plan, store::Error> {
        let digest = environment.digest.to_string();
        let row = self.parts.store.job_type_version(&environment.name, &digest).await?;
        Ok(Plan {
            job_type: environment.name.clone(),
            base: self.parts.job_types.base(environment),
            python_version: environment.recipe.python_version.clone(),
            requirements: environment.recipe.requirements.clone(),
            lock: row.and_then(|row| row.lock),
            shared_code: self.parts.job_types.shared_code(environment).await?,
            settings: self.settings.clone(),
            digest,
        })
    }

    fn row(&self, run: &BuildRun, wish: &Wish, made: &Made, succeeded: &BuildSucceeded) -> JobTypeVersion {
        JobTypeVersion {
            job_type: run.environment.name.clone(),
            digest: run.environment.digest.to_string(),
            image: made.image.reference.clone(),
            image_digest: made.image.digest.clone(),
            created_at: self.parts.clock.now(),
            build_id: run.build_id,
            dockerfile_hash: succeeded.dockerfile_hash.map(|hash| hash.to_string()),
            requirements_hash: Some(succeeded.requirements_hash.to_string()),
            lock: Some(made.lock.clone()),
            version_tag: wish.version_tag.clone(),
            built_by: Some(wish.by.clone()),
            last_used_at: None,
        }
    }
}

/// What became of a wish for a build.
#[derive(Debug)]
pub enum Wanted {
    There(Built),
    Building(Arc<BuildRun>),
}

impl From<JoinError> for Refusal {
    fn from(lost: JoinError) -> Self {
        Self::of("(any)", &lost.to_string())
    }
}

impl Refusal {
    pub(super) fn of(job_type: &str, message: &str) -> Self {
        let (job_type, message) = (job_type.to_owned(), domain::scrub(message));
        Self::Failed { job_type, message, log_tail: String::new(), retryable: true, retry_after: None }
    }

    pub(super) fn of_store(job_type: &str, error: &store::Error) -> Self {
        tracing::warn!(error = %error, job_type, "the database did not answer a build");
        Self::of(job_type, "the database does not answer")
    }

    pub(super) fn of_build(job_type: &str, error: &BuildError, log_tail: String) -> Self {
        let retryable = match error {
            BuildError::Failed(_) | BuildError::TooLarge { .. } | BuildError::TimedOut(_) => false,
            // Another node may have what is missing here.
            BuildError::BaseGone { .. } | BuildError::Cancelled | BuildError::System { .. } => true,
            BuildError::Engine(error) => matches!(error, engine::Error::Unavailable { .. }),
        };
        let (job_type, message) = (job_type.to_owned(), domain::scrub(&domain::causes(error)));
        let retry_after = match error {
            BuildError::Engine(error) => error.retry_after(),
            _ => None,
        };
        Self::Failed { job_type, message, log_tail, retryable, retry_after }
    }
}

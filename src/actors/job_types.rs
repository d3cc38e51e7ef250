//! The job types of this installation: as they are now, and in the versions that jobs are pinned to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use crate::config::{Config, JobType};
use crate::domain::{Digest, HostRule, Recipe, Reference, Version};
use crate::engine::{self, Engine, build};
use crate::store::{self, JobTypeRule, Store, StoredRecipe};

/// Versions of before that are kept in mind.
const REMEMBERED: usize = 1_000;

/// Every job type, and what its present version is made of.
pub struct JobTypes {
    pub(super) config: Arc<Config>,
    store: Store,
    engine: Arc<dyn Engine>,
    present: RwLock<Arc<BTreeMap<String, Entry>>>,
    /// What images stand on, by reference, as the engine said.
    bases: Mutex<HashMap<String, String>>,
    /// Shared code of the configuration's job types, read once.
    archives: Mutex<HashMap<String, Result<Bytes, String>>>,
    /// Recipes of other versions, by `name@sha256:<12 hex>`.
    remembered: Mutex<HashMap<String, Environment>>,
    /// What job types demand, as this node has told the others.
    told: Mutex<BTreeMap<String, JobTypeRule>>,
}

/// Where a job type comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Configuration,
    /// An administrator defined it, for the so-manieth time.
    Defined {
        revision: i32,
    },
}

#[derive(Clone)]
struct Entry {
    job_type: Arc<JobType>,
    source: Source,
    /// Or why it cannot be used.
    environment: Result<Environment, String>,
    shared_code: Option<Bytes>,
}

/// A version of a job type, with what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub name: String,
    pub digest: Digest,
    pub recipe: Arc<Recipe>,
}

/// A job type as it is now.
#[derive(Debug, Clone)]
pub struct Present {
    pub job_type: Arc<JobType>,
    pub environment: Environment,
    pub source: Source,
}

/// No job type is called that, or not in that version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchJobType {
    #[error("job type {name:?} does not exist{}; there are: {known}", nearest.as_ref().map(|name| format!(", did you mean {name:?}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<String>, known: String },
    #[error("job type {name:?} has no version {version:?} here; its present one is {present}")]
    OtherVersion { name: String, version: String, present: String },
    #[error("{reference:?} stands for several versions: {matches}; write more digits")]
    Ambiguous { reference: String, matches: String },
    #[error("{reference:?} is not a job type: write a name, or name@sha256:<at least 4 lowercase hexadecimal digits>")]
    Malformed { reference: String },
    #[error("job type {name:?} cannot be used: {reason}")]
    Unusable { name: String, reason: String },
}

/// Why a reference leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    #[error(transparent)]
    NoSuchJobType(#[from] NoSuchJobType),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Environment {
    fn of(name: &str, recipe: Recipe) -> Self {
        Self { name: name.to_owned(), digest: recipe.digest(), recipe: Arc::new(recipe) }
    }

    pub fn version(&self) -> Version {
        Version { name: self.name.clone(), digest: self.digest }
    }
}

impl JobTypes {
    /// Reads the job types that administrators defined, beside those of the configuration.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn open(config: Arc<Config>, store: Store, engine: Arc<dyn Engine>) -> Result<Self, store::Error> {
        let job_types = Self {
            config,
            store,
            engine,
            present: RwLock::default(),
            bases: Mutex::default(),
            archives: Mutex::default(),
            remembered: Mutex::default(),
            told: Mutex::default(),
        };
        job_types.refresh().await?;
        Ok(job_types)
    }

    /// Takes over what was defined since, here or on another node, and keeps the recipes of
    /// present versions, so that whoever is pinned to one finds it later.
    ///
    /// # Errors
    /// What the database answers; then all is as before.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let mut found: BTreeMap<String, (Arc<JobType>, Source, Option<String>)> = BTreeMap::new();
        for row in self.store.defined_job_types().await? {
            let read = serde_json::from_str(&row.definition).map_err(|error| error.to_string()).and_then(|given| {
                JobType::from_json(given, &self.config.limits).map_err(|faults| {
                    faults.iter().map(|(field, fault)| format!("{field} {fault}")).collect::<Vec<_>>().join("; ")
                })
            });
            let (job_type, fault) = match read {
                Ok(job_type) => (job_type, None),
                Err(fault) => (JobType { name: row.name.clone(), ..JobType::default() }, Some(fault)),
            };
            found.insert(row.name, (Arc::new(job_type), Source::Defined { revision: row.revision }, fault));
        }
        for (name, job_type) in &self.config.job_types {
            found.insert(name.clone(), (Arc::new(job_type.clone()), Source::Configuration, None));
        }
        let before = self.snapshot();
        let mut entries = BTreeMap::new();
        for (name, (job_type, source, fault)) in found {
            self.look_for_base(&reference(self.engine.kind(), &job_type)).await;
            let entry = self.entry(job_type, source, fault);
            if let Ok(environment) = &entry.environment
                && before.get(&name).and_then(|entry| entry.environment.as_ref().ok()) != Some(environment)
            {
                self.keep(environment, entry.shared_code.as_deref()).await?;
            }
            entries.insert(name, entry);
        }
        self.tell_rules(entries.values().map(|entry| rule(&entry.job_type)).collect()).await?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        Ok(())
    }

    /// Puts in force what was not in force when this node last looked. What another node, with another
    /// configuration, has said since is left alone.
    async fn tell_rules(&self, rules: Vec<JobTypeRule>) -> Result<(), store::Error> {
        let new: Vec<_> = {
            let told = lock(&self.told);
            rules.into_iter().filter(|rule| told.get(&rule.job_type) != Some(rule)).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        self.store.put_job_type_rules(&new).await?;
        lock(&self.told).extend(new.into_iter().map(|rule| (rule.job_type.clone(), rule)));
        Ok(())
    }

    fn entry(&self, job_type: Arc<JobType>, source: Source, fault: Option<String>) -> Entry {
        let archive = match &job_type.shared_code {
            None => Ok(None),
            Some(shared) if source == Source::Configuration => {
                let mut archives = lock(&self.archives);
                let archive = archives.entry(job_type.name.clone());
                archive.or_insert_with(|| shared.archive().map(Bytes::from)).clone().map(Some)
            }
            Some(shared) => shared.archive().map(|bytes| Some(bytes.into())),
        };
        let archive = match fault {
            Some(fault) => Err(fault),
            None => archive.map_err(|fault| format!("shared_code {fault}")),
        };
        let environment = archive.clone().map(|archive| {
            let base = lock(&self.bases).get(&reference(self.engine.kind(), &job_type)).cloned();
            Environment::of(&job_type.name, recipe(&job_type, base, archive.as_deref().map(Digest::of)))
        });
        Entry { job_type, source, environment, shared_code: archive.ok().flatten() }
    }

    async fn look_for_base(&self, reference: &str) {
        if lock(&self.bases).contains_key(reference) {
            return;
        }
        match self.engine.base(reference, false).await {
            Ok(Some(digest)) => drop(lock(&self.bases).insert(reference.to_owned(), digest)),
            Ok(None) => {}
            Err(error) => tracing::debug!(error = %error, reference, "what images stand on is not known yet"),
        }
    }

    async fn keep(&self, environment: &Environment, shared_code: Option<&[u8]>) -> Result<(), store::Error> {
        let recipe = StoredRecipe {
            digest: environment.digest.to_string(),
            job_type: environment.name.clone(),
            recipe: environment.recipe.canonical(),
        };
        self.store.put_recipe(&recipe, shared_code).await
    }

    fn snapshot(&self) -> Arc<BTreeMap<String, Entry>> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every job type as it is now, by name; without those that cannot be used.
    pub fn all(&self) -> Vec<Present> {
        self.snapshot().values().filter_map(Entry::present).collect()
    }

    /// A job type as it is now.
    pub fn present(&self, name: &str) -> Option<Present> {
        self.snapshot().get(name).and_then(Entry::present)
    }

    /// Finds a job type by name, or in a version by `name@sha256:<hex>`, as much of the digest as
    /// tells it from others.
    ///
    /// # Errors
    /// [`NoSuchJobType`], and what the database answers when an older version is asked for.
    pub async fn find(&self, text: &str) -> Result<Present, Unresolved> {
        let shown = || text.chars().take(200).collect::<String>();
        let reference = Reference::parse(text).ok_or_else(|| NoSuchJobType::Malformed { reference: shown() })?;
        if !self.snapshot().contains_key(reference.name) {
            // It may have been defined on another node just now.
            self.refresh().await?;
        }
        let snapshot = self.snapshot();
        let entry = snapshot.get(reference.name).ok_or_else(|| unknown(&snapshot, reference.name))?;
        let name = reference.name.to_owned();
        let unusable = |reason: &String| NoSuchJobType::Unusable { name: name.clone(), reason: reason.clone() };
        let environment = entry.environment.as_ref().map_err(unusable)?;
        let mut found =
            Present { job_type: Arc::clone(&entry.job_type), environment: environment.clone(), source: entry.source };
        let Some(prefix) = reference.prefix else { return Ok(found) };
        if prefix.len() == 64 && environment.digest.to_string() == prefix {
            return Ok(found);
        }
        let recipes = self.store.recipes(&name, prefix).await?;
        found.environment = match &recipes[..] {
            [] => {
                let present = environment.version().to_string();
                return Err(NoSuchJobType::OtherVersion { name, version: format!("sha256:{prefix}"), present }.into());
            }
            [one] => read(one)?,
            several => {
                let matches: Vec<_> = several.iter().map(|recipe| format!("{name}@sha256:{}", recipe.digest)).collect();
                return Err(NoSuchJobType::Ambiguous { reference: shown(), matches: matches.join(", ") }.into());
            }
        };
        Ok(found)
    }

    /// The version that a job is pinned to. One that nobody kept, of an older program, is the
    /// present one instead.
    ///
    /// # Errors
    /// As [`JobTypes::find`].
    pub async fn pinned(&self, name: &str, version: &str) -> Result<Environment, Unresolved> {
        if let Some(present) = self.present(name).filter(|present| present.environment.version().to_string() == version)
        {
            return Ok(present.environment);
        }
        if let Some(environment) = lock(&self.remembered).get(version).cloned() {
            return Ok(environment);
        }
        match self.kept(name, version).await? {
            Some(environment) => {
                let mut remembered = lock(&self.remembered);
                if remembered.len() >= REMEMBERED {
                    remembered.clear();
                }
                remembered.insert(version.to_owned(), environment.clone());
                Ok(environment)
            }
            None => {
                tracing::info!(version, "no recipe of this version was kept; the job runs on the present one");
                Ok(self.find(name).await?.environment)
            }
        }
    }

    /// A version whose recipe is kept, present or not.
    pub async fn kept(&self, name: &str, version: &str) -> Result<Option<Environment>, store::Error> {
        let Some(Reference { prefix: Some(prefix), .. }) = Reference::parse(version) else { return Ok(None) };
        self.store.recipes(name, prefix).await?.first().map(read).transpose()
    }

    /// The same environment with further packages: a version of its own that only jobs name.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn with_requirements(&self, of: &Environment, further: &[String]) -> Result<Environment, store::Error> {
        let mut recipe = (*of.recipe).clone();
        for requirement in further {
            if !recipe.requirements.contains(requirement) {
                recipe.requirements.push(requirement.clone());
            }
        }
        self.derived(of, recipe).await
    }

    /// Why the engine cannot run jobs of a type for want of GPUs, if so.
    pub fn gpu_refusal(&self, name: &str) -> Option<String> {
        let refusal = self.engine.gpu_refusal(&self.present(name)?.job_type.gpu.request()?)?;
        Some(format!("job type {name:?} asks for a GPU, and {refusal}"))
    }

    /// What jobs of a type may reach; `None` for no network.
    pub fn host_rules(&self, name: &str) -> Option<Vec<HostRule>> {
        self.present(name)?.job_type.network.rules()
    }

    /// The environment as it can be built here: with this program's guest and, where the recipe
    /// leaves it open, on what there is to stand on.
    ///
    /// # Errors
    /// When there is nothing to stand on; what the database answers.
    pub async fn settled(&self, environment: &Environment) -> Result<Environment, Unsettled> {
        let mut recipe = (*environment.recipe).clone();
        recipe.guest = build::guest();
        if recipe.base_digest.is_none() {
            let reference = base_reference(self.engine.kind(), &recipe);
            recipe.base_digest = self.engine.base(&reference, true).await?;
            if let Some(digest) = &recipe.base_digest {
                lock(&self.bases).insert(reference, digest.clone());
                self.refresh().await?;
            }
        }
        Ok(self.derived(environment, recipe).await?)
    }

    /// Forgets what images of a job type stand on, so that the next look finds what is there now.
    pub fn forget_base(&self, environment: &Environment) {
        lock(&self.bases).remove(&base_reference(self.engine.kind(), &environment.recipe));
    }

    async fn derived(&self, from: &Environment, recipe: Recipe) -> Result<Environment, store::Error> {
        if recipe == *from.recipe {
            return Ok(from.clone());
        }
        let derived = Environment::of(&from.name, recipe);
        let shared = self.shared_code(from).await?;
        self.keep(&derived, shared.as_deref()).await?;
        Ok(derived)
    }

    /// The archive of a version's shared files.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn shared_code(&self, environment: &Environment) -> Result<Option<Bytes>, store::Error> {
        if environment.recipe.shared_code.is_none() {
            return Ok(None);
        }
        let is_it = |bytes: &Bytes| Some(Digest::of(bytes)) == environment.recipe.shared_code;
        let present = self.snapshot().get(&environment.name).and_then(|entry| entry.shared_code.clone());
        if let Some(bytes) = present.filter(is_it) {
            return Ok(Some(bytes));
        }
        Ok(self.store.shared_code(&environment.name, &environment.digest.to_string()).await?.map(Bytes::from))
    }

    /// Whether this is a certain base that its reference no longer names.
    pub fn has_other_base(&self, base: &build::Base) -> bool {
        let now = lock(&self.bases).get(&base.reference).cloned();
        base.digest.is_some() && now.is_some() && base.digest != now
    }

    /// What an image of this environment stands on, as the engine calls it.
    pub fn base(&self, environment: &Environment) -> build::Base {
        build::Base {
            reference: base_reference(self.engine.kind(), &environment.recipe),
            digest: environment.recipe.base_digest.clone(),
        }
    }
}

/// Why an environment cannot be built here.
#[derive(Debug, thiserror::Error)]
pub enum Unsettled {
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Entry {
    fn present(&self) -> Option<Present> {
        let environment = self.environment.clone().ok()?;
        Some(Present { job_type: Arc::clone(&self.job_type), environment, source: self.source })
    }
}

fn unknown(known: &BTreeMap<String, Entry>, name: &str) -> NoSuchJobType {
    let nearest = known
        .keys()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known.clone());
    let known = known.keys().cloned().collect::<Vec<_>>().join(", ");
    NoSuchJobType::Unknown { name: name.chars().take(100).collect(), nearest, known }
}

fn read(stored: &StoredRecipe) -> Result<Environment, store::Error> {
    let unreadable = |reason: String| store::Error::Corrupt {
        table: "job_type_recipes",
        id: stored.digest.clone(),
        column: "recipe",
        reason,
    };
    let recipe = serde_json::from_str(&stored.recipe).map_err(|error| unreadable(error.to_string()))?;
    let digest = stored.digest.parse().map_err(|error| unreadable(format!("{error}")))?;
    Ok(Environment { name: stored.job_type.clone(), digest, recipe: Arc::new(recipe) })
}

fn rule(job_type: &JobType) -> JobTypeRule {
    JobTypeRule {
        job_type: job_type.name.clone(),
        concurrency: job_type.concurrency,
        runtime: job_type.placement.runtime.clone(),
        labels: job_type.placement.labels.clone(),
        gpu: job_type.gpu.request().map(|gpu| gpu.vendor.as_str().to_owned()),
    }
}

fn recipe(job_type: &JobType, base_digest: Option<String>, shared_code: Option<Digest>) -> Recipe {
    let environment = job_type.environment.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let mut further = BTreeMap::new();
    if job_type.gpu.enabled {
        // Plain numbers and words always serialize.
        further.insert("gpu".to_owned(), serde_json::to_value(&job_type.gpu).unwrap_or_default());
    }
    // An empty list is a network that lets nothing out.
    if let Some(hosts) = job_type.network.digest_part() {
        further.insert("network".to_owned(), hosts.into_iter().collect());
    }
    Recipe {
        python_version: job_type.python_version.clone(),
        base_image: job_type.base_image.clone(),
        base_digest,
        guest: build::guest(),
        requirements: job_type.requirements.clone(),
        shared_code,
        environment: environment.collect(),
        preload: job_type.preload.clone(),
        further,
    }
}

/// Where an engine finds the plain image of a job type.
pub fn reference(kind: engine::Kind, job_type: &JobType) -> String {
    image_reference(kind, job_type.base_image.as_deref(), &job_type.python_version)
}

/// The same of a version.
pub fn base_reference(kind: engine::Kind, recipe: &Recipe) -> String {
    image_reference(kind, recipe.base_image.as_deref(), &recipe.python_version)
}

fn image_reference(kind: engine::Kind, base_image: Option<&str>, python_version: &str) -> String {
    match kind {
        engine::Kind::Docker => base_image.map_or_else(|| format!("tako-vm/executor:{python_version}"), str::to_owned),
        engine::Kind::Native => "host".to_owned(),
        engine::Kind::Scripted => "scripted".to_owned(),
        engine::Kind::None => "none".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves the map whole, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Images of job types: an executor image with packages and shared code, named by its version.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::query_parameters::{
    BuildImageOptionsBuilder, ListImagesOptionsBuilder, PruneImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures::StreamExt;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use super::base;
use super::daemon::{CallError, Daemon};
use super::fetch::fetch;
use super::image::Images;
use super::removal::Removals;
use crate::engine::build::{BuildError, BuiltImage, INSTALL, Log, Made, PACKAGES_RECIPE as DOCKERFILE, Plan};
use crate::engine::wheels::{Wheel, Wheels, lock};
use crate::engine::{Error, Image};

const VERSION: &str = "tako-vm.version";
const JOB_TYPE: &str = "tako-vm.job-type";
const EXECUTOR: &str = "tako-vm.executor";
const KIND: &str = "tako-vm.image";

const PRUNE_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Where images of job types are built, one at a time: a build takes memory and disk.
#[derive(Default)]
pub(super) struct Workshop(Mutex<()>);

/// What a build works with.
pub(super) struct Tools<'a> {
    pub daemon: &'a Arc<Daemon>,
    pub removals: &'a Arc<Removals>,
    pub images: &'a Images,
    pub runtime: &'a str,
}

/// A folder for one build, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tako-vm-build-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "a build's folder could not be removed");
        }
    }
}

fn tag(job_type: &str, digest: &str) -> String {
    format!("tako-vm/job-type:{job_type}-{}", digest.get(..12).unwrap_or(digest))
}

impl Workshop {
    /// See [`crate::engine::Engine::build`].
    pub async fn build(&self, tools: &Tools<'_>, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        let _alone = self.0.lock().await;
        let reference = &plan.base.reference;
        let base_id = match &plan.base.digest {
            Some(digest) => digest.clone(),
            None => tools.images.base(tools.daemon, reference, true).await?.unwrap_or_default(),
        };
        let executor = tools.images.on_base(tools.daemon, reference, &base_id).await?;
        let executor =
            executor.ok_or_else(|| BuildError::BaseGone { reference: reference.clone(), digest: base_id.clone() })?;
        let scratch = Scratch::make().map_err(BuildError::system("cannot make a folder for the build"))?;
        let wheels = wheels(tools, plan, &base_id, &scratch.0, log).await?;
        let lock = lock(&wheels);
        let tag = tag(&plan.job_type, &plan.digest);
        let context = {
            let (path, lock, shared) = (scratch.0.join("context.tar"), lock.clone(), plan.shared_code.clone());
            let written = tokio::task::spawn_blocking(move || write_context(&path, &lock, &wheels, shared.as_deref()));
            written.await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
        };
        let context = context.map_err(BuildError::system("cannot write the build context"))?;
        log.say(format!("building {tag}"));
        let stage = Stage(uuid::Uuid::new_v4().simple().to_string());
        let built = run(tools.daemon, plan, &executor, &tag, &stage, &context, log).await;
        stage.remove(tools.daemon).await;
        built?;
        let (cache, limit) = (Wheels::at(&plan.settings.wheel_cache), plan.settings.wheel_cache_bytes);
        let _ = tokio::task::spawn_blocking(move || cache.shrink(limit)).await;
        let gone = || BuildError::Failed("the image was built and then not found".to_owned());
        let digest = base::id_of(tools.daemon, &tag).await?.ok_or_else(gone)?;
        Ok(Made { image: Image { reference: tag, digest }, lock, dockerfile: Some(DOCKERFILE.to_owned()) })
    }
}

/// The wheels of a plan: those of its lock that are kept, else downloaded.
async fn wheels(
    tools: &Tools<'_>,
    plan: &Plan,
    base_id: &str,
    scratch: &Path,
    log: &Log,
) -> Result<Vec<Wheel>, BuildError> {
    if plan.requirements.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(lock) = plan.lock.clone() {
        let kept = Wheels::at(&plan.settings.wheel_cache);
        let found = tokio::task::spawn_blocking(move || kept.find(&lock)).await.unwrap_or_default();
        if let Some(wheels) = found {
            log.say(format!("all {} packages are kept from an earlier build", wheels.len()));
            return Ok(wheels);
        }
    }
    log.say(format!("getting {}", plan.requirements.join(", ")));
    fetch(tools, plan, base_id, scratch, log).await
}

/// Runs the build itself, which has no network.
async fn run(
    daemon: &Daemon,
    plan: &Plan,
    executor: &Image,
    tag: &str,
    stage: &Stage,
    context: &Path,
    log: &Log,
) -> Result<(), BuildError> {
    let arguments = HashMap::from([("EXECUTOR", executor.digest.as_str()), ("BUILD", stage.0.as_str())]);
    let labels = HashMap::from([
        (VERSION, plan.digest.as_str()),
        (JOB_TYPE, plan.job_type.as_str()),
        (EXECUTOR, executor.digest.as_str()),
    ]);
    // The API counts in 32 bits there.
    let memory = i32::try_from(plan.settings.memory_bytes).unwrap_or(i32::MAX);
    let options = BuildImageOptionsBuilder::default()
        .dockerfile("Dockerfile")
        .t(tag)
        .buildargs(&arguments)
        .labels(&labels)
        .networkmode("none")
        // A step that another build left may go with that one's image while this build stands on it.
        .nocache(true)
        .memory(memory)
        .memswap(memory)
        .rm(true)
        .forcerm(true)
        .build();
    let file = tokio::fs::File::open(context).await.map_err(BuildError::system("cannot read the build context"))?;
    let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 256 << 10));
    let mut progress = daemon.docker.build_image(options, None, Some(body));
    while let Some(step) = progress.next().await {
        let step = step.map_err(|error| super::daemon::unavailable(error.to_string()))?;
        if let Some(detail) = step.error_detail {
            let message = detail.message.unwrap_or_else(|| "the build failed".to_owned());
            log.say_all(&message);
            return Err(BuildError::Failed(message));
        }
        if let Some(text) = step.stream {
            log.say_all(&text);
        }
    }
    Ok(())
}

/// What stands between the two stages of one build: it has no name, and is of no use afterwards. Other
/// servers, too, build on this daemon, and theirs must stay.
struct Stage(String);

impl Stage {
    async fn remove(&self, daemon: &Daemon) {
        let own = format!("tako-vm.build={}", self.0);
        prune(daemon, HashMap::from([("dangling", vec!["true"]), ("label", vec![&own])])).await;
        // Of builds that nobody ended: no build takes so long.
        let lost = [("dangling", vec!["true"]), ("label", vec!["tako-vm.image=packages"]), ("until", vec!["48h"])];
        prune(daemon, HashMap::from(lost)).await;
    }
}

async fn prune(daemon: &Daemon, filters: HashMap<&str, Vec<&str>>) {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        let options = PruneImagesOptionsBuilder::default().filters(&filters).build();
        match daemon.call("prune", daemon.docker.prune_images(Some(options))).await {
            // The daemon does one at a time, and lets nobody wait.
            Err(CallError::Answered { status: 409, .. }) => tokio::time::sleep(PRUNE_PAUSE).await,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "what stood between the stages of a build was not removed");
                return;
            }
        }
    }
}

/// Everything the recipe copies. Times are zero, so that the daemon's cache holds.
fn write_context(path: &Path, lock: &str, wheels: &[Wheel], shared: Option<&[u8]>) -> io::Result<PathBuf> {
    let mut archive = tar::Builder::new(io::BufWriter::new(fs::File::create(path)?));
    let mut add = |name: &str, mode: u32, size: u64, bytes: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(mode);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes)
    };
    for (name, text) in
        [("Dockerfile", DOCKERFILE), ("packages/install.py", INSTALL), ("packages/requirements.lock", lock)]
    {
        add(name, 0o644, text.len() as u64, &mut text.as_bytes())?;
    }
    for wheel in wheels {
        let mut file = fs::File::open(&wheel.path)?;
        let size = file.metadata()?.len();
        add(&format!("packages/wheels/{}", wheel.file_name()), 0o644, size, &mut file)?;
    }
    if let Some(shared) = shared {
        add("packages/has_shared_code", 0o644, 0, &mut io::empty())?;
        let mut files = tar::Archive::new(shared);
        for file in files.entries()? {
            let mut file = file?;
            let name = format!("shared/{}", file.path()?.display());
            let size = file.size();
            add(&name, 0o644, size, &mut file)?;
        }
    }
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_size(0);
    folder.set_mode(0o755);
    folder.set_cksum();
    archive.append_data(&mut folder, "shared/", io::empty())?;
    archive.into_inner()?.into_inner().map_err(|error| error.into_error())?;
    Ok(path.to_owned())
}

/// The image of a version. A tag that somebody moved is not taken for it.
pub(super) async fn find(daemon: &Daemon, job_type: &str, digest: &str) -> Result<Option<Image>, Error> {
    let reference = tag(job_type, digest);
    let found = match daemon.call("inspect image", daemon.docker.inspect_image(&reference)).await {
        Ok(found) => found,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let is_it = labels.get(VERSION).is_some_and(|version| version == digest);
    Ok(found.id.filter(|_| is_it).map(|digest| Image { reference, digest }))
}

pub(super) async fn list(daemon: &Daemon) -> Result<Vec<BuiltImage>, Error> {
    let filters = HashMap::from([("label", vec![format!("{KIND}=job-type")])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let found = daemon.call("list images", daemon.docker.list_images(Some(options))).await?;
    let mut below: HashMap<String, i64> = HashMap::new();
    let mut built = Vec::new();
    for summary in found {
        let label = |name: &str| summary.labels.get(name).cloned();
        let (Some(job_type), Some(version), Some(executor)) = (label(JOB_TYPE), label(VERSION), label(EXECUTOR)) else {
            continue;
        };
        if !below.contains_key(&executor) {
            let size = match daemon.call("inspect image", daemon.docker.inspect_image(&executor)).await {
                Ok(image) => image.size.unwrap_or_default(),
                Err(_) => 0,
            };
            below.insert(executor.clone(), size);
        }
        let shared = below.get(&executor).copied().unwrap_or_default();
        let bytes = u64::try_from(summary.size - shared).unwrap_or_default();
        let image = Image { reference: tag(&job_type, &version), digest: summary.id };
        built.push(BuiltImage { job_type, version, image, bytes });
    }
    Ok(built)
}

/// Removes an image that no container uses.
pub(super) async fn remove(daemon: &Daemon, built: &BuiltImage) -> Result<bool, Error> {
    let options = RemoveImageOptionsBuilder::default().force(false).noprune(false).build();
    let request = daemon.docker.remove_image(&built.image.digest, Some(options), None);
    match daemon.call_within("remove image", std::time::Duration::from_secs(120), request).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(true),
        // A container stands on it, or another name is its own.
        Err(CallError::Answered { status: 409, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_holds_the_recipe_the_wheels_and_the_shared_files_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("w");
        fs::write(&source, "bytes").unwrap();
        let wheel = Wheels::at(&folder.path().join("kept")).keep(&source, "a-1-py3-none-any.whl").unwrap();
        let shared = {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, "pkg/x.py", &b"1"[..]).unwrap();
            archive.into_inner().unwrap()
        };
        let path = write_context(&folder.path().join("c.tar"), "lock", &[wheel], Some(&shared)).unwrap();
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(
            names,
            [
                "Dockerfile",
                "packages/install.py",
                "packages/requirements.lock",
                "packages/wheels/a-1-py3-none-any.whl",
                "packages/has_shared_code",
                "shared/pkg/x.py",
                "shared/",
            ]
        );
    }
}

//! Makes the layer of a job type's packages with the host's own Python.
//!
//! Packages come as wheels alone, so none of their code runs here. As root pip works as a user who owns
//! nothing; what it made is then copied and belongs to us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::layers::{LAYER, Layers, Manifest};
use crate::engine::Image;
use crate::engine::build::{BuildError, Fetch, INSTALL, Lines, Log, Made, PLACE, Plan};
use crate::engine::wheels::{Wheel, Wheels, lock};

/// Nobody, as every Linux numbers them.
const NOBODY: u32 = 65534;

/// What `build.source_distributions` comes to here.
const NO_SOURCES: &str = "; a package without a wheel is not built on the native engine, which would run its code on \
     this host: make its wheel elsewhere (pip wheel) and put it into build.wheel_dir, or build on Docker";

/// The Python that builds, and what it is.
pub(super) struct Host<'a> {
    pub python: &'a Path,
    pub digest: &'a str,
    pub layers: &'a Layers,
}

/// A folder for one build, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tako-vm-layer-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&path)?;
        let scratch = Self(path);
        if is_root() {
            std::os::unix::fs::chown(&scratch.0, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "a build's folder could not be removed");
        }
    }
}

/// See [`crate::engine::Engine::build`].
pub(super) async fn build(host: &Host<'_>, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
    if let Some(digest) = plan.base.digest.as_ref().filter(|digest| *digest != host.digest) {
        let reference = "the host's Python".to_owned();
        return Err(BuildError::BaseGone { reference, digest: digest.clone() });
    }
    let version = version_of(host.python).await?;
    if version != plan.python_version {
        return Err(BuildError::Failed(format!(
            "the host's Python is {version}, and the job type wants {}: set native.python, or python_version",
            plan.python_version
        )));
    }
    let scratch = Scratch::make().map_err(BuildError::system("cannot make a folder for the build"))?;
    let wheels = wheels(host, plan, &scratch.0, log).await?;
    let lock = lock(&wheels);
    let source = lay_out(&scratch.0, &lock, &wheels, plan.shared_code.is_some());
    let source = source.map_err(BuildError::system("cannot lay out the packages"))?;
    let venv = scratch.0.join("venv");
    log.say(format!("making the layer of {}@sha256:{}", plan.job_type, plan.digest.get(..12).unwrap_or_default()));
    let mut command = command(host.python, &scratch.0);
    command.arg("-c").arg(INSTALL).arg(&source).arg(&venv).arg(PLACE);
    let status = run(command, Vec::new(), log).await?;
    if !status.success() {
        return Err(BuildError::Failed(format!("pip could not install the packages ({status})")));
    }
    let manifest = Manifest {
        job_type: plan.job_type.clone(),
        version: plan.digest.clone(),
        digest: digest(host.digest, &lock, plan.shared_code.as_deref()),
        base: host.digest.to_owned(),
        bytes: 0,
    };
    let (layers, shared) = (host.layers.clone(), plan.shared_code.clone());
    let (cache, limit) = (Wheels::at(&plan.settings.wheel_cache), plan.settings.wheel_cache_bytes);
    let put = tokio::task::spawn_blocking(move || {
        let put = layers.put(manifest, &venv, shared.as_deref());
        cache.shrink(limit);
        drop(scratch);
        put
    });
    let manifest = put.await.unwrap_or_else(|lost| Err(io::Error::other(lost)));
    let manifest = manifest.map_err(BuildError::system("cannot keep the layer"))?;
    let image = Image { reference: format!("{LAYER}{}", manifest.version), digest: manifest.digest };
    Ok(Made { image, lock, dockerfile: None })
}

/// Of what a layer is: the same Python, packages and shared files are the same layer.
fn digest(base: &str, lock: &str, shared: Option<&[u8]>) -> String {
    let mut hash = Sha256::new();
    for part in [b"layer", base.as_bytes(), lock.as_bytes(), shared.unwrap_or_default(), INSTALL.as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("sha256:{}", hex::encode(hash.finalize()))
}

async fn version_of(python: &Path) -> Result<String, BuildError> {
    let output = Command::new(python)
        .args(["-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .output()
        .await
        .map_err(BuildError::system("cannot run the host's Python"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn wheels(host: &Host<'_>, plan: &Plan, scratch: &Path, log: &Log) -> Result<Vec<Wheel>, BuildError> {
    if plan.requirements.is_empty() {
        return Ok(Vec::new());
    }
    let kept = Wheels::at(&plan.settings.wheel_cache);
    if let Some(found) = plan.lock.as_deref().and_then(|lock| kept.find(lock)) {
        log.say(format!("all {} packages are kept from an earlier build", found.len()));
        return Ok(found);
    }
    log.say(format!("getting {}", plan.requirements.join(", ")));
    let folder = scratch.join("fetched");
    let links = plan.settings.wheel_dir.as_ref().map(|folder| folder.to_string_lossy().into_owned());
    let folder_text = folder.to_string_lossy().into_owned();
    let input = {
        let fetch = Fetch::of(plan, &folder_text, links.as_deref())?;
        // See `NO_SOURCES`.
        Fetch { source_distributions: false, ..fetch }.text()
    };
    let mut command = command(host.python, scratch);
    command.arg("-c").arg(Fetch::PROGRAM);
    let status = run(command, input, log).await?;
    match status.code() {
        Some(0) => {}
        Some(code) if i64::from(code) == Fetch::BUSY => return Err(log.busy("native")),
        Some(code) if i64::from(code) == Fetch::TOO_LARGE => {
            return Err(BuildError::TooLarge { limit_bytes: plan.settings.max_bytes });
        }
        _ => {
            let unbuilt = if plan.settings.source_distributions { NO_SOURCES } else { "" };
            return Err(BuildError::Failed(format!("pip could not get the packages ({status}){unbuilt}")));
        }
    }
    let collected = tokio::task::spawn_blocking(move || {
        let mut wheels = Vec::new();
        for entry in fs::read_dir(folder.join("wheels"))? {
            let entry = entry?;
            // A link made by whoever downloaded could lead anywhere on this host.
            if entry.file_type()?.is_file() {
                wheels.push(kept.keep(&entry.path(), &entry.file_name().to_string_lossy())?);
            }
        }
        Ok(wheels)
    });
    collected
        .await
        .unwrap_or_else(|lost| Err(io::Error::other(lost)))
        .map_err(BuildError::system("cannot keep the wheels"))
}

/// Puts what `install.py` reads into a folder of its own.
fn lay_out(scratch: &Path, lock: &str, wheels: &[Wheel], has_shared_code: bool) -> io::Result<PathBuf> {
    let source = scratch.join("source");
    fs::create_dir_all(source.join("wheels"))?;
    fs::write(source.join("requirements.lock"), lock)?;
    if has_shared_code {
        fs::write(source.join("has_shared_code"), "")?;
    }
    for wheel in wheels {
        fs::copy(&wheel.path, source.join("wheels").join(wheel.file_name()))?;
    }
    Ok(source)
}

/// The host's Python with an empty environment; as root, as nobody.
fn command(python: &Path, folder: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-I").env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder).env("LANG", "C.UTF-8");
    command.current_dir(folder).process_group(0).kill_on_drop(true);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Runs to the end, with all it says in the log.
async fn run(mut command: Command, input: Vec<u8>, log: &Log) -> Result<ExitStatus, BuildError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(BuildError::system("cannot run the host's Python"))?;
    let group = Group(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says itself why.
        let _ = stdin.write_all(&input).await;
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::join!(copy(stdout, log), copy(stderr, log));
    let status = child.wait().await.map_err(BuildError::system("lost the host's Python"))?;
    group.ended();
    Ok(status)
}

async fn copy(stream: Option<impl AsyncRead + Unpin>, log: &Log) {
    let Some(mut stream) = stream else { return };
    let mut lines = Lines::default();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece).await {
        lines.take(&piece[..count], log);
    }
    lines.end(log);
}

/// Kills what was started and all it started, unless it has ended.
struct Group(Option<u32>);

impl Group {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: kill takes no pointer. The group is the child's own, made above.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}

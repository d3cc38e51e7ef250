//! Downloads packages in a container: the one place where a build has a network, and where nothing of
//! the packages runs unless source distributions are allowed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    InspectContainerOptions, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::build::Tools;
use super::removal::Container;
use crate::engine::Error;
use crate::engine::build::{BuildError, Fetch, Lines, Log, Plan};
use crate::engine::wheels::{Wheel, Wheels};

/// Where a container works.
const FOLDER: &str = "/tmp/tako-build";

/// Where it finds the wheels of `build.wheel_dir`.
const LINKS: &str = "/tmp/tako-wheels";

const PIDS: i64 = 256;

/// Downloads what a plan requires and keeps it by its content.
///
/// # Errors
/// [`BuildError::Failed`] when pip says no; the log has its words.
pub(super) async fn fetch(
    tools: &Tools<'_>,
    plan: &Plan,
    base_id: &str,
    scratch: &Path,
    log: &Log,
) -> Result<Vec<Wheel>, BuildError> {
    let daemon = tools.daemon;
    let links = plan.settings.wheel_dir.as_ref().map(|_| LINKS);
    let input = Fetch::of(plan, FOLDER, links)?.text();
    let container = create(tools, plan, base_id).await?;
    if let Some(folder) = &plan.settings.wheel_dir {
        let archive = wheels_archive(folder, plan.settings.source_distributions).await?;
        let options = UploadToContainerOptionsBuilder::default().path("/tmp").build();
        let body = bollard::body_full(archive.into());
        let request = daemon.docker.upload_to_container(container.id(), Some(options), body);
        daemon.call_within("upload", plan_limit(), request).await.map_err(Error::from)?;
    }
    let options = AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
    let attached = daemon.call("attach", daemon.docker.attach_container(container.id(), Some(options)));
    let mut attached = attached.await.map_err(Error::from)?;
    let start = daemon.docker.start_container(container.id(), None::<StartContainerOptions>);
    daemon.call("start", start).await.map_err(Error::from)?;
    attached.input.write_all(&input).await.map_err(BuildError::system("cannot speak to the build"))?;
    attached.input.shutdown().await.map_err(BuildError::system("cannot speak to the build"))?;
    let mut lines = Lines::default();
    while let Some(piece) = attached.output.next().await {
        match piece {
            Ok(LogOutput::StdOut { message } | LogOutput::StdErr { message }) => lines.take(&message, log),
            Ok(LogOutput::StdIn { .. } | LogOutput::Console { .. }) => {}
            Err(error) => return Err(super::daemon::unavailable(error.to_string()).into()),
        }
    }
    lines.end(log);
    match exit_code(tools, container.id()).await? {
        0 => {}
        Fetch::BUSY => return Err(log.busy("docker")),
        Fetch::TOO_LARGE => return Err(BuildError::TooLarge { limit_bytes: plan.settings.max_bytes }),
        137 => return Err(BuildError::Failed("the download was killed: it needs more than build.memory".to_owned())),
        code => {
            let lost = match plan.lock.is_some() && plan.settings.source_distributions {
                true => "; a wheel that was built here and is kept no more is not made again: change the job type",
                false => "",
            };
            return Err(BuildError::Failed(format!("pip could not get the packages (exit code {code}){lost}")));
        }
    }
    let wheels = collect(tools, plan, container.id(), scratch).await?;
    container.remove().await;
    Ok(wheels)
}

fn plan_limit() -> std::time::Duration {
    std::time::Duration::from_secs(300)
}

async fn create(tools: &Tools<'_>, plan: &Plan, base_id: &str) -> Result<Container, BuildError> {
    let settings = &plan.settings;
    let memory = i64::try_from(settings.memory_bytes).unwrap_or(i64::MAX);
    // Well above the limit that the program watches, which can say so.
    let largest = i64::try_from(settings.max_bytes.saturating_mul(2).max(1 << 30)).unwrap_or(i64::MAX);
    let limit =
        |name: &str, value| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) };
    let body = ContainerCreateBody {
        image: Some(base_id.to_owned()),
        entrypoint: Some(vec!["python3".to_owned()]),
        // No shell, and nothing of a client's in it.
        cmd: Some(vec!["-c".to_owned(), Fetch::PROGRAM.to_owned()]),
        user: Some("1000:1000".to_owned()),
        working_dir: Some("/tmp".to_owned()),
        env: Some(vec!["HOME=/tmp".to_owned(), "PYTHONDONTWRITEBYTECODE=1".to_owned()]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        labels: Some(HashMap::from([("tako-vm.build".to_owned(), plan.digest.clone())])),
        host_config: Some(HostConfig {
            runtime: Some(tools.runtime.to_owned()),
            network_mode: Some(settings.network.clone()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            memory: Some(memory),
            memory_swap: Some(memory),
            pids_limit: Some(PIDS),
            ulimits: Some(vec![limit("fsize", largest), limit("core", 0)]),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: Some(HashMap::new()) }),
            init: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let name = format!("tako-vm-build-{}", Uuid::new_v4().simple());
    // Owned before it exists: should this future be dropped half-way, it is removed all the same.
    let container = tools.removals.own(name.clone());
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let request = tools.daemon.docker.create_container(Some(options), body);
    tools.daemon.call("create", request).await.map_err(Error::from)?;
    Ok(container)
}

async fn exit_code(tools: &Tools<'_>, id: &str) -> Result<i64, BuildError> {
    // The streams end a moment before the daemon knows how.
    for _ in 0..100 {
        let request = tools.daemon.docker.inspect_container(id, None::<InspectContainerOptions>);
        let state = tools.daemon.call("inspect", request).await.map_err(Error::from)?.state.unwrap_or_default();
        if state.running != Some(true) {
            return Ok(state.exit_code.unwrap_or(-1));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(-1)
}

/// Takes the wheels out of the ended container. What comes is not trusted: plain files with the names of
/// wheels count, and no more bytes than allowed.
async fn collect(tools: &Tools<'_>, plan: &Plan, id: &str, scratch: &Path) -> Result<Vec<Wheel>, BuildError> {
    let path = format!("{FOLDER}/wheels");
    let options = DownloadFromContainerOptionsBuilder::default().path(&path).build();
    let mut archive = tools.daemon.docker.download_from_container(id, Some(options));
    let downloaded = scratch.join("wheels.tar");
    let mut file = tokio::fs::File::create(&downloaded).await.map_err(BuildError::system("cannot keep the wheels"))?;
    // Beside the files there are only their names.
    let limit = plan.settings.max_bytes.saturating_add(16 << 20);
    let mut total = 0_u64;
    while let Some(piece) = archive.next().await {
        let piece = piece.map_err(|error| super::daemon::unavailable(error.to_string()))?;
        total += piece.len() as u64;
        if total > limit {
            return Err(BuildError::TooLarge { limit_bytes: plan.settings.max_bytes });
        }
        file.write_all(&piece).await.map_err(BuildError::system("cannot keep the wheels"))?;
    }
    file.flush().await.map_err(BuildError::system("cannot keep the wheels"))?;
    let (scratch, kept) = (scratch.to_owned(), Wheels::at(&plan.settings.wheel_cache));
    let unpacked = tokio::task::spawn_blocking(move || unpack(&downloaded, &scratch, &kept)).await;
    unpacked.unwrap_or_else(|lost| Err(io::Error::other(lost))).map_err(BuildError::system("cannot keep the wheels"))
}

fn unpack(archive: &Path, scratch: &Path, kept: &Wheels) -> io::Result<Vec<Wheel>> {
    let mut archive = tar::Archive::new(fs::File::open(archive)?);
    let mut wheels = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path()?.into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !entry.header().entry_type().is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} is no plain file")));
        }
        let single = scratch.join("wheel");
        io::copy(&mut entry, &mut fs::File::create(&single)?)?;
        wheels.push(kept.keep(&single, &name)?);
    }
    Ok(wheels)
}

/// The wheels of a folder of this host, and its source distributions if they count, as they lie in the
/// container.
async fn wheels_archive(folder: &Path, with_sources: bool) -> Result<Vec<u8>, BuildError> {
    let folder: PathBuf = folder.to_owned();
    let counts = move |name: &str| {
        name.ends_with(".whl") || with_sources && (name.ends_with(".tar.gz") || name.ends_with(".zip"))
    };
    let archive = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if counts(&name) && entry.path().is_file() {
                let bytes = fs::read(entry.path())?;
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                header.set_cksum();
                archive.append_data(&mut header, format!("{}/{name}", &LINKS[5..]), bytes.as_slice())?;
            }
        }
        archive.into_inner()
    });
    archive
        .await
        .unwrap_or_else(|lost| Err(io::Error::other(lost)))
        .map_err(BuildError::system("cannot read build.wheel_dir"))
}

//! Base images: a Python without the guest. Pulled where a registry answers, made from the
//! host's own packages where none does.

use std::process::Stdio;
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use super::daemon::{CallError, Daemon};
use crate::engine::{Error, retry_after};

const SCRIPT: &str = include_str!("../../../docker/base-image.sh");

/// What an executor image stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// A Python of this version, like `3.11`, wherever it comes from.
    Python(String),
    /// An image by its own reference.
    Named(String),
}

impl Base {
    /// Reads what a job type asks for: `tako-vm/executor[:<python>]`, or any image.
    pub fn parse(reference: &str, default_python: &str) -> Result<Self, Error> {
        let version = match reference.strip_prefix("tako-vm/executor") {
            Some("") => default_python,
            Some(tag) if tag.starts_with(':') => &tag[1..],
            _ if reference.is_empty() => return Err(image_error(reference, "its name is empty")),
            _ => return Ok(Self::Named(with_tag(reference))),
        };
        let parts: Vec<&str> = version.split('.').collect();
        let is_number = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(is_number) {
            return Err(image_error(reference, "its tag is not a Python version like 3.11"));
        }
        Ok(Self::Python(version.to_owned()))
    }

    /// The tag of the executor image is this and a hash.
    pub fn label(&self) -> &str {
        match self {
            Self::Python(version) => version,
            Self::Named(_) => "custom",
        }
    }

    /// Where it may lie already, best first.
    fn candidates(&self) -> Vec<String> {
        match self {
            Self::Python(version) => vec![pulled(version), made(version)],
            Self::Named(reference) => vec![reference.clone()],
        }
    }
}

/// A reference without tag or digest means `latest`; a pull of it would fetch every tag.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") }
}

fn pulled(version: &str) -> String {
    format!("python:{version}-slim")
}

fn made(version: &str) -> String {
    format!("tako-vm/python:{version}")
}

pub(super) fn image_error(reference: &str, message: impl Into<String>) -> Error {
    Error::Image { reference: reference.to_owned(), message: message.into() }
}

/// The id (`sha256:…`) of an image the daemon has.
pub(super) async fn id_of(daemon: &Daemon, reference: &str) -> Result<Option<String>, Error> {
    match daemon.call("inspect image", daemon.docker.inspect_image(reference)).await {
        Ok(image) => Ok(image.id),
        Err(error) if error.is_absent() => Ok(None),
        Err(CallError::Answered { status: 400..500, message, .. }) => Err(image_error(reference, message)),
        Err(error) => Err(error.into()),
    }
}

/// The id of the base image, if the daemon has it.
pub(super) async fn find(daemon: &Daemon, base: &Base) -> Result<Option<String>, Error> {
    for candidate in base.candidates() {
        if let Some(id) = id_of(daemon, &candidate).await? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// Gets a base image that the daemon does not have: a pull, then for a plain Python the script.
///
/// # Errors
/// `Image` with what was tried and what helps.
pub(super) async fn obtain(
    daemon: &Daemon,
    base: &Base,
    pull_timeout: Duration,
    build_timeout: Duration,
) -> Result<String, Error> {
    let (source, version) = match base {
        Base::Python(version) => (pulled(version), Some(version)),
        Base::Named(reference) => (reference.clone(), None),
    };
    if let Err(refusal) = pull(daemon, &source, pull_timeout, build_timeout).await {
        tracing::info!(image = %source, reason = %refusal, "no pull");
        let Some(version) = version else {
            if let Some(retry_after) = retry_after::busy(&refusal) {
                let message = format!("the registry of {source} has no time: {refusal}");
                return Err(Error::Unavailable { engine: "docker", message, retry_after });
            }
            return Err(image_error(&source, refusal));
        };
        if !daemon.is_local() {
            let advice = "the daemon is remote, so make the image there: docker/base-image.sh";
            return Err(image_error(&source, format!("{refusal}; {advice}")));
        }
        make(daemon, version, build_timeout)
            .await
            .map_err(|reason| image_error(&source, format!("{refusal}; {reason}")))?;
    }
    let found = find(daemon, base).await?;
    found.ok_or_else(|| image_error(&source, "it was obtained and then not found"))
}

/// Pulls an image. A registry must give a sign of life within `patience`.
async fn pull(daemon: &Daemon, reference: &str, patience: Duration, limit: Duration) -> Result<(), String> {
    tracing::info!(image = %reference, "pulling");
    let options = CreateImageOptionsBuilder::default().from_image(reference).build();
    let mut progress = daemon.docker.create_image(Some(options), None, None);
    let mut wait = patience;
    let whole = tokio::time::sleep(limit);
    tokio::pin!(whole);
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(wait, progress.next()) => {
                next.map_err(|_| format!("no registry answered within {wait:?}"))?
            }
            () = &mut whole => return Err(format!("the pull did not end within {limit:?}")),
        };
        match next {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(info)) => {
                if let Some(detail) = info.error_detail {
                    return Err(detail.message.unwrap_or_else(|| "the pull failed".to_owned()));
                }
                wait = limit;
            }
        }
    }
}

/// Runs `docker/base-image.sh` against this daemon, its lines in our log.
async fn make(daemon: &Daemon, version: &str, limit: Duration) -> Result<(), String> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(SCRIPT)
        .args(["base-image.sh", version, &made(version)])
        .env("DOCKER_HOST", &daemon.address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("sh did not start: {error}"))?;
    let group = ScriptGroup(child.id());
    let lines = async {
        let (said, complaint) = tokio::join!(log(child.stdout.take()), log(child.stderr.take()));
        let status = child.wait().await.map_err(|error| format!("sh was lost: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let last = complaint.or(said).unwrap_or_else(|| format!("base-image ended with {status}"));
        Err(last)
    };
    let result = tokio::time::timeout(limit, lines)
        .await
        .unwrap_or_else(|_| Err(format!("the base image was not made within {limit:?}")));
    if result.is_ok() {
        group.ended();
    }
    result
}

/// Logs each line; answers with the last one.
async fn log(stream: Option<impl AsyncRead + Unpin>) -> Option<String> {
    let mut lines = BufReader::new(stream?).lines();
    let mut last = None;
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::info!("{line}");
        last = Some(line);
    }
    last
}

/// Ends the script and all it started, unless it has ended; its trap then cleans up.
struct ScriptGroup(Option<u32>);

impl ScriptGroup {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for ScriptGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: kill takes no pointer. The group is the script's own, made above.
            unsafe { libc::kill(-group, libc::SIGTERM) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_a_python_or_an_image() {
        let parse = |reference| Base::parse(reference, "3.11");
        assert_eq!(parse("tako-vm/executor").unwrap(), Base::Python("3.11".to_owned()));
        assert_eq!(parse("tako-vm/executor:3.12").unwrap(), Base::Python("3.12".to_owned()));
        let named = |reference| Base::Named(String::from(reference));
        assert_eq!(parse("data:1").unwrap(), named("data:1"));
        assert_eq!(parse("host:5000/data").unwrap(), named("host:5000/data:latest"));
        assert_eq!(parse("data@sha256:00").unwrap(), named("data@sha256:00"));
    }

    #[test]
    fn a_tag_that_is_no_version_is_refused() {
        for tag in ["", "3", "latest", "3.11;id", "3..1", "3.11.2.4", "-3.11", "3.11\n"] {
            assert!(Base::parse(&format!("tako-vm/executor:{tag}"), "3.11").is_err(), "{tag:?}");
        }
        assert!(Base::parse("", "3.11").is_err());
    }
}

//! Executor images: a base image with the guest in it, named by what is in it.

use std::time::Duration;

use bollard::query_parameters::BuildImageOptionsBuilder;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tako_guest::site;
use tokio::sync::{Mutex, MutexGuard};

use super::base::{self, Base, image_error};
use super::daemon::Daemon;
use super::host_lock::HostLock;
use crate::engine::build::EXECUTOR_RECIPE as DOCKERFILE;
use crate::engine::guest_binary;
use crate::engine::{Error, Image};

/// Finds and builds the images sandboxes run.
pub(super) struct Images {
    pub default_python: String,
    pub pull_timeout: Duration,
    pub build_timeout: Duration,
    /// Held while an image is obtained or built, so that many who ask build it once.
    making: Mutex<()>,
}

impl Images {
    pub fn new(default_python: String, pull_timeout: Duration, build_timeout: Duration) -> Self {
        Self { default_python, pull_timeout, build_timeout, making: Mutex::new(()) }
    }

    /// Answers with the executor image of a reference, building it if need be.
    ///
    /// An image id (`sha256:…`), as executions are pinned to, stands for itself: it exists or
    /// it cannot be had.
    pub async fn resolve(&self, daemon: &Daemon, reference: &str) -> Result<Image, Error> {
        if reference.starts_with("sha256:") {
            return match base::id_of(daemon, reference).await? {
                Some(digest) => Ok(Image { reference: reference.to_owned(), digest }),
                None => Err(image_error(reference, "the daemon no longer has it")),
            };
        }
        let base = Base::parse(reference, &self.default_python)?;
        // What is there is found without waiting for another image that is being made.
        if let Some(digest) = find(daemon, &base).await? {
            return Ok(Image { reference: reference.to_owned(), digest });
        }
        let _alone = self.alone().await;
        if let Some(digest) = find(daemon, &base).await? {
            return Ok(Image { reference: reference.to_owned(), digest });
        }
        let base_id = match base::find(daemon, &base).await? {
            Some(id) => id,
            None => base::obtain(daemon, &base, self.pull_timeout, self.build_timeout).await?,
        };
        self.make(daemon, &base, &base_id, reference).await
    }

    /// The id of what executor images of a reference stand on.
    pub async fn base(&self, daemon: &Daemon, reference: &str, obtain: bool) -> Result<Option<String>, Error> {
        let base = Base::parse(reference, &self.default_python)?;
        if let Some(id) = base::find(daemon, &base).await? {
            return Ok(Some(id));
        }
        if !obtain {
            return Ok(None);
        }
        let _alone = self.alone().await;
        match base::find(daemon, &base).await? {
            Some(id) => Ok(Some(id)),
            None => base::obtain(daemon, &base, self.pull_timeout, self.build_timeout).await.map(Some),
        }
    }

    /// The executor image on a certain base, building it if need be; `None` without that base.
    pub async fn on_base(&self, daemon: &Daemon, reference: &str, base_id: &str) -> Result<Option<Image>, Error> {
        let base = Base::parse(reference, &self.default_python)?;
        if base::id_of(daemon, base_id).await?.is_none() {
            return Ok(None);
        }
        let tag = executor_tag(&base, base_id, guest_binary::sha256());
        let named = |digest| Some(Image { reference: reference.to_owned(), digest });
        if let Some(digest) = base::id_of(daemon, &tag).await? {
            return Ok(named(digest));
        }
        let _alone = self.alone().await;
        if let Some(digest) = base::id_of(daemon, &tag).await? {
            return Ok(named(digest));
        }
        self.make(daemon, &base, base_id, reference).await.map(Some)
    }

    /// Made twice, an image would lose its name to the second, and go with whatever stands on it.
    async fn alone(&self) -> (MutexGuard<'_, ()>, Option<HostLock>) {
        (self.making.lock().await, HostLock::take("images.lock", self.build_timeout).await)
    }

    /// Builds an executor image; the builder's cache answers for one that is there.
    async fn make(&self, daemon: &Daemon, base: &Base, base_id: &str, reference: &str) -> Result<Image, Error> {
        let tag = executor_tag(base, base_id, guest_binary::sha256());
        tracing::info!(image = %tag, "building");
        self.build(daemon, base_id, &tag).await.map_err(|message| image_error(reference, message))?;
        let built = base::id_of(daemon, &tag).await?;
        let digest = built.ok_or_else(|| image_error(reference, "it was built and then not found"))?;
        Ok(Image { reference: reference.to_owned(), digest })
    }

    async fn build(&self, daemon: &Daemon, base_id: &str, tag: &str) -> Result<(), String> {
        let context = context().map_err(|error| format!("no build context: {error}"))?;
        let arguments = std::collections::HashMap::from([("BASE", base_id)]);
        let options = BuildImageOptionsBuilder::default()
            .dockerfile("Dockerfile")
            .t(tag)
            .buildargs(&arguments)
            .networkmode("none")
            .rm(true)
            .forcerm(true)
            .build();
        let body = bollard::body_full(context.into());
        let mut progress = daemon.docker.build_image(options, None, Some(body));
        let whole = async {
            let mut last_lines = String::new();
            while let Some(step) = progress.next().await {
                let step = step.map_err(|error| format!("{error}; {last_lines}"))?;
                if let Some(detail) = step.error_detail {
                    let message = detail.message.unwrap_or_else(|| "the build failed".to_owned());
                    return Err(format!("{message}; {last_lines}"));
                }
                if let Some(line) = step.stream.as_deref().map(str::trim).filter(|l| !l.is_empty()) {
                    tracing::debug!("{line}");
                    last_lines = line.to_owned();
                }
            }
            Ok(())
        };
        tokio::time::timeout(self.build_timeout, whole)
            .await
            .unwrap_or_else(|_| Err(format!("the build did not end within {:?}", self.build_timeout)))
    }
}

/// The id of the executor image, if it and its base are there.
async fn find(daemon: &Daemon, base: &Base) -> Result<Option<String>, Error> {
    match base::find(daemon, base).await? {
        Some(base_id) => base::id_of(daemon, &executor_tag(base, &base_id, guest_binary::sha256())).await,
        None => Ok(None),
    }
}

/// The same tag is the same content: base, guest, module and recipe are all in its hash.
fn executor_tag(base: &Base, base_id: &str, guest_sha256: &str) -> String {
    let mut hash = Sha256::new();
    for part in [base_id, guest_sha256, DOCKERFILE, site::SOURCE] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hex::encode(hash.finalize());
    format!("tako-vm/executor:{}-{}", base.label(), &digest[..12])
}

/// A tar of the Dockerfile and what it copies. Times are zero, so that the builder's cache holds.
fn context() -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode, bytes) in [
        ("Dockerfile", 0o644, DOCKERFILE.as_bytes()),
        ("guest", 0o755, guest_binary::GUEST),
        ("sitecustomize.py", 0o644, site::SOURCE.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_changes_with_each_of_its_parts() {
        let python = Base::Python("3.11".to_owned());
        let tag = executor_tag(&python, "sha256:aa", "bb");
        assert!(tag.starts_with("tako-vm/executor:3.11-"));
        assert_eq!(tag, executor_tag(&python, "sha256:aa", "bb"));
        assert_ne!(tag, executor_tag(&python, "sha256:ab", "bb"));
        assert_ne!(tag, executor_tag(&python, "sha256:aa", "bc"));
        assert_ne!(
            executor_tag(&python, "ab", "c"),
            executor_tag(&python, "a", "bc"),
            "the border between the parts counts"
        );
    }

    #[test]
    fn the_context_holds_the_recipe_and_an_executable_guest() {
        let bytes = context().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<(String, u32, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap(), header.size().unwrap())
            })
            .collect();
        assert_eq!(entries[0], ("Dockerfile".to_owned(), 0o644, DOCKERFILE.len() as u64));
        assert_eq!(entries[1], ("guest".to_owned(), 0o755, guest_binary::GUEST.len() as u64));
    }
}

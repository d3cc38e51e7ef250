//! Building the images of job types: what an engine is given, and what comes of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tako_guest::site;
use tokio::sync::mpsc;

use super::{Error, Image, guest_binary};
use crate::domain::Digest;

/// Where the packages of a job type lie in its sandboxes.
pub const PLACE: &str = "/tako/venv";

/// Where its shared code lies.
pub const SHARED: &str = "/tako/shared";

/// How and whence packages are got; the same for every build of a node.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub memory_bytes: u64,
    /// All packages of one job type, as they are downloaded.
    pub max_bytes: u64,
    pub index_url: Option<String>,
    pub extra_index_urls: Vec<String>,
    pub ca_bundle: Option<PathBuf>,
    pub proxy: Option<String>,
    /// Docker network for downloads; `none` asks no index.
    pub network: String,
    /// Wheels that count beside those of the index.
    pub wheel_dir: Option<PathBuf>,
    pub source_distributions: bool,
    /// Where wheels are kept for later builds, and how many bytes of them.
    pub wheel_cache: PathBuf,
    pub wheel_cache_bytes: u64,
}

/// One version to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    pub job_type: String,
    /// Of the version, 64 hexadecimal digits.
    pub digest: String,
    pub base: Base,
    pub python_version: String,
    /// Checked: each names a package of an index.
    pub requirements: Vec<String>,
    /// What they were resolved to before; absent, they are resolved now.
    pub lock: Option<String>,
    /// A tar archive of plain files.
    pub shared_code: Option<Bytes>,
    pub settings: Settings,
}

/// What an image stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub reference: String,
    /// Its identity, if a certain one is meant.
    pub digest: Option<String>,
}

/// Of everything of ours that is in an image: the guest, the module beside it, the recipes.
pub fn guest() -> Digest {
    static GUEST: LazyLock<Digest> = LazyLock::new(|| {
        let parts = [guest_binary::sha256(), site::SOURCE, EXECUTOR_RECIPE, PACKAGES_RECIPE, INSTALL];
        Digest::of(parts.map(|part| Digest::of(part.as_bytes()).to_string()).concat().as_bytes())
    });
    *GUEST
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub image: Image,
    /// Every package with its version and hash, one per line.
    pub lock: String,
    /// The recipe that the engine followed, where there is one.
    pub dockerfile: Option<String>,
}

/// An image of a job type on this engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    pub job_type: String,
    /// Of the version, 64 hexadecimal digits.
    pub version: String,
    pub image: Image,
    /// On disk, beside what it stands on.
    pub bytes: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What is to be built cannot be: a requirement that nobody has, for one. The log says more.
    #[error("{0}")]
    Failed(String),
    #[error("the packages are larger than the limit of {limit_bytes} bytes; raise build.max_size")]
    TooLarge { limit_bytes: u64 },
    /// What it stands on is no longer here.
    #[error(
        "{reference} with the identity {digest} is not here any more; a build of the present version makes another"
    )]
    BaseGone { reference: String, digest: String },
    #[error("the build did not end within {0:?}; raise build.timeout")]
    TimedOut(Duration),
    #[error("the build was cancelled")]
    Cancelled,
    #[error(transparent)]
    Engine(#[from] Error),
    #[error("{context}")]
    System {
        context: String,
        #[source]
        source: std::io::Error,
    },
}

impl BuildError {
    pub(super) fn system(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { context: context.into(), source }
    }
}

/// Where a build writes what it does, line by line.
#[derive(Debug, Clone)]
pub struct Log {
    lines: mpsc::UnboundedSender<String>,
    /// What an index asked to be waited, seconds; 0 when none did.
    asked: Arc<AtomicU64>,
}

impl Log {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { lines: sender, asked: Arc::default() }, receiver)
    }

    /// Nobody may listen any more, which is no reason to stop.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        if let Some(seconds) = line.strip_prefix(Fetch::ASKED).and_then(|text| text.trim().parse().ok()) {
            self.asked.store(seconds, Ordering::Relaxed);
        }
        let _ = self.lines.send(line);
    }

    /// That an index has no time, and what it asked for if it did.
    pub(super) fn busy(&self, engine: &'static str) -> BuildError {
        let message = "the package index answered 429 or 503".to_owned();
        let asked = Some(self.asked.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0);
        Error::Unavailable { engine, message, retry_after: asked.map(Duration::from_secs) }.into()
    }

    /// Text that may hold several lines, or none.
    pub(super) fn say_all(&self, text: &str) {
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            self.say(line);
        }
    }
}

/// Cuts bytes that come in pieces into lines.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// A line longer than that is two.
    const LONGEST: usize = 8 << 10;

    pub fn take(&mut self, bytes: &[u8], log: &Log) {
        for &byte in bytes {
            if byte == b'\n' || self.0.len() >= Self::LONGEST {
                self.end(log);
            }
            if byte != b'\n' {
                self.0.push(byte);
            }
        }
    }

    pub fn end(&mut self, log: &Log) {
        let line = String::from_utf8_lossy(&self.0).into_owned();
        self.0.clear();
        log.say_all(&line.replace('\r', "\n"));
    }
}

/// What `docker/packages/fetch.py` reads.
#[derive(Serialize)]
pub(super) struct Fetch<'a> {
    pub folder: &'a str,
    pub requirements: &'a [String],
    pub lock: Option<&'a str>,
    pub ca: Option<String>,
    pub index_url: Option<&'a str>,
    pub extra_index_urls: &'a [String],
    pub proxy: Option<&'a str>,
    pub no_index: bool,
    pub links: Option<&'a str>,
    pub source_distributions: bool,
    pub max_bytes: u64,
}

impl<'a> Fetch<'a> {
    pub const PROGRAM: &'static str = include_str!("../../docker/packages/fetch.py");
    /// The program's exit code when the limit ended it.
    pub const TOO_LARGE: i64 = 75;
    /// And when an index answered 429 or 503 for as long as pip tried; then a line says what it asked for.
    pub const BUSY: i64 = 69;
    const ASKED: &'static str = "an index has no time; retry-after:";

    /// # Errors
    /// When the certificates cannot be read.
    pub fn of(plan: &'a Plan, folder: &'a str, links: Option<&'a str>) -> Result<Self, BuildError> {
        let settings = &plan.settings;
        let ca = settings.ca_bundle.as_deref().map(std::fs::read_to_string).transpose();
        Ok(Self {
            folder,
            requirements: &plan.requirements,
            lock: plan.lock.as_deref(),
            ca: ca.map_err(BuildError::system("cannot read build.ca_bundle"))?,
            index_url: settings.index_url.as_deref(),
            extra_index_urls: &settings.extra_index_urls,
            proxy: settings.proxy.as_deref(),
            no_index: settings.network == "none",
            links,
            source_distributions: settings.source_distributions,
            max_bytes: settings.max_bytes,
        })
    }

    /// As it goes over standard input.
    pub fn text(&self) -> Vec<u8> {
        // Text, numbers and lists of text always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The recipes of images.
pub(super) const EXECUTOR_RECIPE: &str = include_str!("../../docker/Dockerfile.executor");
pub(super) const PACKAGES_RECIPE: &str = include_str!("../../docker/packages/Dockerfile");

/// What makes an environment out of wheels.
pub(super) const INSTALL: &str = include_str!("../../docker/packages/install.py");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_index_asks_for_is_found_in_the_log() {
        let asked = |line: &str| {
            let (log, _lines) = Log::new();
            log.say_all(line);
            let BuildError::Engine(error) = log.busy("docker") else { panic!("not the engine's") };
            error.retry_after().map(|asked| asked.as_secs())
        };
        assert_eq!(asked("an index has no time; retry-after: 17"), Some(17));
        assert_eq!(asked("an index has no time; retry-after: "), None);
    }

    #[test]
    fn bytes_in_pieces_are_lines_in_the_log() {
        let (log, mut lines) = Log::new();
        let mut cut = Lines::default();
        cut.take(b"one\ntw", &log);
        cut.take(b"o\r50%\r100%\n\n", &log);
        cut.take(b"\xff end", &log);
        cut.end(&log);
        drop(log);
        let mut found = Vec::new();
        while let Ok(line) = lines.try_recv() {
            found.push(line);
        }
        assert_eq!(found, ["one", "two", "50%", "100%", "\u{fffd} end"]);
    }
}

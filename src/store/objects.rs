//! Where large blobs are: a folder, or a bucket of a server that speaks S3.
//!
//! An object is written once under a name that no other ever has, so that one which is removed can never
//! be one that was just written. Its name begins with the kind of its place, so that what was written
//! before a change of the configuration is found for as long as its place is there.

use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};
use uuid::Uuid;

use super::error::Error;
use crate::domain::Digest;

const LOCAL: &str = "local";
const S3: &str = "s3";

/// Failures in a row after which nothing is asked of a place for a while.
const FAILURES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// How long one look at a place counts, and takes at most.
const SIGHT: Duration = Duration::from_secs(2);

/// Tells a folder of blobs from every other.
const MARK: &str = ".tako-vm-blobs";

/// Which places there are, and into which large blobs are put.
#[derive(Debug, Clone, Default)]
pub struct ObjectOptions {
    pub into: ObjectPlace,
    pub folder: Option<PathBuf>,
    pub s3: Option<S3Options>,
    /// Whether a folder that is not there is made.
    pub makes_folder: bool,
}

/// Into what large blobs are put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ObjectPlace {
    #[default]
    Database,
    Folder,
    S3,
}

/// A bucket. What is empty is taken from the AWS variables.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub prefix: String,
    pub access_key_id: String,
    pub secret_access_key: SecretText,
    pub allow_http: bool,
}

/// Text that is never shown.
#[derive(Clone, Default)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Every place of objects that this program can reach.
#[derive(Debug, Default)]
pub struct Objects {
    places: Vec<Place>,
    /// The kind of place that objects are written to; none means that they stay in the database.
    into: Option<&'static str>,
}

#[derive(Debug)]
struct Place {
    kind: &'static str,
    /// Tells it from every other place of every kind.
    name: String,
    store: Arc<dyn ObjectStore>,
    circuit: Mutex<Circuit>,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    open_until: Option<Instant>,
    seen: Option<(Instant, bool)>,
}

/// How the place of large blobs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectsHealth {
    /// `postgres`, `local` or `s3`.
    pub kind: &'static str,
    pub is_available: bool,
    /// Whether calls fail at once, because the last ones failed.
    pub is_open: bool,
}

impl Objects {
    /// Opens the places that there are.
    ///
    /// # Errors
    /// [`Error::ObjectPlace`] for a place that blobs are to be put into and that cannot be used.
    pub fn open(options: &ObjectOptions) -> Result<Self, Error> {
        let mut places = Vec::new();
        let writes_files = options.into == ObjectPlace::Folder;
        if let Some(folder) = &options.folder
            && (folder.join(MARK).exists() || (writes_files && options.makes_folder))
        {
            places.push(local(folder)?);
        }
        if let Some(s3) = &options.s3 {
            places.push(bucket(s3)?);
        }
        let into = match options.into {
            ObjectPlace::Database => None,
            ObjectPlace::Folder => Some(LOCAL),
            ObjectPlace::S3 => Some(S3),
        };
        Ok(Self { places, into })
    }

    /// Whether large blobs are put elsewhere than into the database.
    pub fn is_used(&self) -> bool {
        self.into.is_some()
    }

    /// Tells the place that objects are written to from every other.
    pub fn name(&self) -> Option<&str> {
        self.place(self.into?).ok().map(|place| place.name.as_str())
    }

    /// A name for an object that is not there yet.
    pub(super) fn new_name(&self, hash: Digest) -> Option<String> {
        let (hash, tail) = (hash.to_string(), Uuid::new_v4().simple().to_string());
        Some(format!("{}/{}/{hash}-{}", self.into?, &hash[..2], &tail[..12]))
    }

    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let (place, path) = self.find(name)?;
        place.run("put object", place.store.put(&path, bytes.into())).await.map(drop)
    }

    /// The bytes; `None` when there is no such object.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let (place, path) = self.find(name)?;
        let got = place.run("get object", async { place.store.get(&path).await?.bytes().await }).await;
        absent(got)
    }

    /// Whether an object is there.
    pub(super) async fn has(&self, name: &str) -> Result<bool, Error> {
        let (place, path) = self.find(name)?;
        absent(place.run("look for object", place.store.head(&path)).await).map(|found| found.is_some())
    }

    /// Removes an object; one that is not there is removed.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        let (place, path) = self.find(name)?;
        absent(place.run("remove object", place.store.delete(&path)).await).map(drop)
    }

    /// How the place is that objects are written to, from what was seen at most two seconds ago.
    pub async fn health(&self) -> ObjectsHealth {
        let Some(kind) = self.into else {
            return ObjectsHealth { kind: "postgres", is_available: true, is_open: false };
        };
        let Ok(place) = self.place(kind) else { return ObjectsHealth { kind, is_available: false, is_open: false } };
        let (seen, is_open) = {
            let circuit = place.circuit();
            (circuit.seen.filter(|(at, _)| at.elapsed() < SIGHT), circuit.is_open())
        };
        if let Some((_, is_available)) = seen {
            return ObjectsHealth { kind, is_available: is_available && !is_open, is_open };
        }
        let path = Path::from("probe");
        let look = tokio::time::timeout(SIGHT, place.store.head(&path)).await;
        let is_available = matches!(look, Ok(Ok(_) | Err(object_store::Error::NotFound { .. })));
        place.circuit().seen = Some((Instant::now(), is_available));
        ObjectsHealth { kind, is_available, is_open: place.circuit().is_open() }
    }

    fn find(&self, name: &str) -> Result<(&Place, Path), Error> {
        let (kind, path) = name.split_once('/').unwrap_or((name, ""));
        let path = Path::parse(path).map_err(|error| Error::corrupt("blobs", name, "object", error))?;
        Ok((self.place(kind)?, path))
    }

    fn place(&self, kind: &str) -> Result<&Place, Error> {
        let found = self.places.iter().find(|place| place.kind == kind);
        found.ok_or_else(|| Error::ObjectPlace {
            place: kind.to_owned(),
            reason: "it is not configured on this node, and blobs are there; see blobs in the configuration".to_owned(),
        })
    }
}

impl Place {
    /// Does something there, unless the last tries say that it is in vain.
    async fn run<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, Error> {
        if self.circuit().is_open() {
            let source = "it failed several times in a row, and is left alone for a moment".into();
            let source = object_store::Error::Generic { store: self.kind, source };
            return Err(Error::Objects { operation, source: Arc::new(source) });
        }
        let done = work.await;
        let mut circuit = self.circuit();
        match &done {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                *circuit = Circuit { seen: circuit.seen, ..Circuit::default() }
            }
            Err(_) => {
                circuit.failures += 1;
                circuit.seen = Some((Instant::now(), false));
                if circuit.failures >= FAILURES {
                    circuit.open_until = Some(Instant::now() + PAUSE);
                }
            }
        }
        done.map_err(|source| Error::Objects { operation, source: Arc::new(source) })
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Circuit {
    fn is_open(&self) -> bool {
        self.open_until.is_some_and(|until| Instant::now() < until)
    }
}

fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::Objects { source, .. }) if matches!(*source, object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn local(folder: &FilePath) -> Result<Place, Error> {
    let unusable = |reason: String| Error::ObjectPlace { place: folder.display().to_string(), reason };
    let mark = mark(folder).map_err(|error| unusable(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| unusable(error.to_string()))?;
    // A blob is durable before the event that names it, as it is in the database.
    let store = Arc::new(store.with_fsync(true));
    Ok(Place { kind: LOCAL, name: format!("{LOCAL}:{mark}"), store, circuit: Mutex::default() })
}

/// What the folder is called, whatever its path; made if it has no name yet.
fn mark(folder: &FilePath) -> std::io::Result<String> {
    let file = folder.join(MARK);
    if !file.exists() {
        std::fs::create_dir_all(folder)?;
        // Under another name first, so that nobody reads half of it; the first of several nodes wins.
        let own = folder.join(format!("{MARK}.{}", Uuid::new_v4().simple()));
        std::fs::write(&own, Uuid::new_v4().to_string())?;
        let linked = std::fs::hard_link(&own, &file);
        std::fs::remove_file(&own)?;
        if let Err(error) = linked
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
    }
    Ok(std::fs::read_to_string(&file)?.trim().to_owned())
}

fn bucket(options: &S3Options) -> Result<Place, Error> {
    let name = format!("{S3}:{}/{}/{}", options.endpoint, options.bucket, options.prefix.trim_matches('/'));
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(10),
    };
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(3))
        .with_timeout(Duration::from_secs(60))
        .with_allow_http(options.allow_http);
    let mut builder =
        AmazonS3Builder::from_env().with_client_options(client).with_retry(retry).with_bucket_name(&options.bucket);
    if !options.endpoint.is_empty() {
        builder = builder.with_endpoint(&options.endpoint);
    }
    if !options.region.is_empty() {
        builder = builder.with_region(&options.region);
    }
    if !options.access_key_id.is_empty() {
        builder = builder.with_access_key_id(&options.access_key_id);
    }
    if !options.secret_access_key.0.is_empty() {
        builder = builder.with_secret_access_key(&options.secret_access_key.0);
    }
    let unusable = |reason: String| Error::ObjectPlace { place: name.clone(), reason };
    let store = builder.build().map_err(|error| unusable(error.to_string()))?;
    let prefix = Path::parse(options.prefix.trim_matches('/')).map_err(|error| unusable(error.to_string()))?;
    let store: Arc<dyn ObjectStore> = Arc::new(object_store::prefix::PrefixStore::new(store, prefix));
    Ok(Place { kind: S3, name, store, circuit: Mutex::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(at: &FilePath) -> ObjectOptions {
        ObjectOptions {
            into: ObjectPlace::Folder,
            folder: Some(at.to_owned()),
            makes_folder: true,
            ..ObjectOptions::default()
        }
    }

    #[tokio::test]
    async fn what_is_put_is_there_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(&folder(&dir.path().join("blobs"))).unwrap();
        let name = objects.new_name(Digest::of(b"x")).unwrap();
        assert_ne!(objects.new_name(Digest::of(b"x")).unwrap(), name);
        assert_eq!(objects.get(&name).await.unwrap(), None);
        objects.put(&name, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(objects.get(&name).await.unwrap().unwrap(), "x");
        assert!(objects.has(&name).await.unwrap());
        objects.remove(&name).await.unwrap();
        objects.remove(&name).await.unwrap();
        assert!(!objects.has(&name).await.unwrap());
    }

    #[test]
    fn a_folder_keeps_its_name_wherever_it_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let name = |at: &FilePath| Objects::open(&folder(at)).unwrap().name().unwrap().to_owned();
        let first = name(&here);
        assert_eq!(name(&here), first);
        assert_ne!(name(&there), first);
        std::fs::rename(&here, dir.path().join("moved")).unwrap();
        assert_eq!(name(&dir.path().join("moved")), first);
    }

    #[tokio::test]
    async fn a_place_that_fails_is_left_alone_and_tried_again() {
        let unreachable = S3Options {
            endpoint: "http://127.0.0.1:9".to_owned(),
            bucket: "b".to_owned(),
            region: "r".to_owned(),
            access_key_id: "k".to_owned(),
            secret_access_key: SecretText("s".to_owned()),
            allow_http: true,
            ..S3Options::default()
        };
        let options = ObjectOptions { into: ObjectPlace::S3, s3: Some(unreachable), ..ObjectOptions::default() };
        let objects = Objects::open(&options).unwrap();
        for _ in 0..FAILURES {
            assert!(objects.put("s3/a", Bytes::new()).await.unwrap_err().is_transient());
        }
        let began = Instant::now();
        assert!(objects.get("s3/a").await.unwrap_err().is_transient());
        assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
        let health = objects.health().await;
        assert_eq!((health.kind, health.is_available, health.is_open), ("s3", false, true));
    }

    #[tokio::test]
    async fn a_place_that_is_not_configured_is_named() {
        let error = Objects::default().get("s3/ab/x").await.unwrap_err();
        assert!(!error.is_transient());
        assert!(error.to_string().contains("s3"), "{error}");
    }
}

//! Where the bytes of jobs are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::pip::is_absolute_or_empty;
use super::secret::Secret;
use super::settings::Config;
use super::units::bytes;

/// Code, input, output and artifacts: small ones in PostgreSQL, with the event that names them, the
/// others in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blobs {
    pub store: BlobStore,
    /// The largest that PostgreSQL keeps whatever the store.
    #[serde(with = "bytes")]
    pub inline: u64,
    /// Of `store: local`; empty means `blobs` in `data_dir`. Several nodes must share one.
    pub folder: PathBuf,
    pub s3: S3,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobStore {
    Local,
    Postgres,
    S3,
}

/// A bucket of a server that speaks S3. What is empty is as the AWS variables have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct S3 {
    /// `https://…`; empty for Amazon's own.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    /// Before the name of each object.
    pub prefix: String,
    pub access_key_id: String,
    pub secret_access_key: Secret,
    /// A file that holds it, closed to all but its owner; instead of `secret_access_key`.
    pub secret_access_key_file: PathBuf,
    /// Whether the endpoint may be http, where anybody on the way reads along.
    pub allow_http: bool,
}

impl Default for Blobs {
    fn default() -> Self {
        Self { store: BlobStore::Local, inline: 16 << 10, folder: PathBuf::new(), s3: S3::default() }
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control()
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_path(c: char) -> bool {
    is_part(c) || c == '/'
}

impl Config {
    pub(super) fn check_blobs(&self, bounds: &mut Bounds) {
        let Blobs { store, inline, folder, s3 } = &self.blobs;
        bounds.bytes("blobs.inline", *inline, 0, 1 << 20);
        for (key, path) in [("blobs.folder", folder), ("blobs.s3.secret_access_key_file", &s3.secret_access_key_file)] {
            bounds.require(is_absolute_or_empty(path), key, || {
                format!("{} must be an absolute path or empty", path.display())
            });
        }
        bounds.text("blobs.s3.endpoint", &s3.endpoint, 1_024, is_printable);
        bounds.text("blobs.s3.region", &s3.region, 64, is_part);
        bounds.text("blobs.s3.bucket", &s3.bucket, 255, is_part);
        bounds.text("blobs.s3.prefix", &s3.prefix, 255, is_path);
        bounds.text("blobs.s3.access_key_id", &s3.access_key_id, 255, is_printable);
        bounds.require(*store != BlobStore::S3 || !s3.bucket.is_empty(), "blobs.s3.bucket", || {
            "must be given where blobs.store is s3".to_owned()
        });
        let is_http = s3.endpoint.starts_with("http://");
        let is_web = s3.endpoint.is_empty() || is_http || s3.endpoint.starts_with("https://");
        bounds.require(is_web, "blobs.s3.endpoint", || {
            "must be an http or https URL, or empty for Amazon's own".to_owned()
        });
        bounds.require(!is_http || s3.allow_http, "blobs.s3.endpoint", || {
            "is not encrypted on its way: use https, or set blobs.s3.allow_http on a network that nobody else reads"
                .to_owned()
        });
        let is_given_twice =
            !s3.secret_access_key.expose().is_empty() && !s3.secret_access_key_file.as_os_str().is_empty();
        bounds.require(!is_given_twice, "blobs.s3.secret_access_key_file", || {
            "must be empty where blobs.s3.secret_access_key is given".to_owned()
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::decode;

    #[test]
    fn a_store_that_cannot_work_is_refused_with_the_mend() {
        let config = |blobs: Value| decode::config(json!({ "blobs": blobs }));
        for good in [
            json!({"store": "local", "folder": "/srv/blobs"}),
            json!({"store": "postgres", "inline": 0}),
            json!({"store": "s3", "s3": {"bucket": "jobs", "endpoint": "https://s3.example.com"}}),
            json!({"store": "s3", "s3": {"bucket": "jobs", "endpoint": "http://s3:9000", "allow_http": true}}),
        ] {
            config(good.clone()).unwrap_or_else(|found| panic!("{good}: {found:?}"));
        }
        for (bad, key) in [
            (json!({"store": "s3"}), "blobs.s3.bucket"),
            (json!({"store": "ftp"}), "blobs.store"),
            (json!({"inline": "2m"}), "blobs.inline"),
            (json!({"folder": "blobs"}), "blobs.folder"),
            (json!({"s3": {"endpoint": "http://s3:9000"}}), "blobs.s3.endpoint"),
            (json!({"s3": {"endpoint": "s3:9000"}}), "blobs.s3.endpoint"),
            (json!({"s3": {"prefix": "a b"}}), "blobs.s3.prefix"),
            (
                json!({"s3": {"secret_access_key": "x", "secret_access_key_file": "/x"}}),
                "blobs.s3.secret_access_key_file",
            ),
        ] {
            let Err(found) = config(bad.clone()) else { panic!("{bad} was taken") };
            assert!(found.iter().any(|(at, _)| at == key), "{bad}: {found:?}");
        }
    }
}

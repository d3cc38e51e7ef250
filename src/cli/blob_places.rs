//! Where the configuration says that large blobs are.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, bail};

use crate::config::{BlobStore, Config, S3};
use crate::store::{ObjectOptions, ObjectPlace, Objects, S3Options, SecretText};

/// Opens the places. A server makes its folder; a tool that only reads does not.
pub(super) fn open(config: &Config, makes_folder: bool) -> Result<Objects> {
    let (blobs, data_dir) = (&config.blobs, &config.data_dir);
    let folder = match blobs.folder.as_os_str().is_empty() {
        false => Some(blobs.folder.clone()),
        true if data_dir.as_os_str().is_empty() => None,
        true => Some(data_dir.join("blobs")),
    };
    let into = match blobs.store {
        BlobStore::Postgres => ObjectPlace::Database,
        // Only tests have no folder of their own.
        BlobStore::Local if folder.is_none() => ObjectPlace::Database,
        BlobStore::Local => ObjectPlace::Folder,
        BlobStore::S3 => ObjectPlace::S3,
    };
    let s3 = if blobs.s3.bucket.is_empty() { None } else { Some(bucket(&blobs.s3)?) };
    Ok(Objects::open(&ObjectOptions { into, folder, s3, makes_folder })?)
}

fn bucket(s3: &S3) -> Result<S3Options> {
    Ok(S3Options {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        bucket: s3.bucket.clone(),
        prefix: s3.prefix.clone(),
        access_key_id: s3.access_key_id.clone(),
        secret_access_key: SecretText(secret_access_key(s3)?),
        allow_http: s3.allow_http,
    })
}

fn secret_access_key(s3: &S3) -> Result<String> {
    let file = &s3.secret_access_key_file;
    if file.as_os_str().is_empty() {
        return Ok(s3.secret_access_key.expose().to_owned());
    }
    let cannot = || format!("cannot read blobs.s3.secret_access_key_file {}", file.display());
    let mode = fs::metadata(file).with_context(cannot)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{} is open to others than its owner (mode {mode:o}); do: chmod 600 {0}", file.display());
    }
    Ok(fs::read_to_string(file).with_context(cannot)?.trim().to_owned())
}

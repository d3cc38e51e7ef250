//! The files in which keys that sign seals are kept.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::config::Config;
use crate::store::audit::{PublicKey, SigningKey};
use crate::store::{Privacy, SecretKey};

/// Larger files are no keys.
const MAX_BYTES: u64 = 16 << 10;

/// Where this node's key is: where the configuration says, else in `data_dir`.
pub(super) fn path_of(config: &Config) -> Option<PathBuf> {
    let named = &config.audit.signing_key_file;
    if !named.as_os_str().is_empty() {
        return Some(named.clone());
    }
    // Only a configuration that was never loaded has no folder.
    (!config.data_dir.as_os_str().is_empty()).then(|| config.data_dir.join("audit.key"))
}

/// This node's key. One that nobody named is made if it is not there.
pub(super) fn load_or_make(config: &Config) -> Result<Option<SigningKey>> {
    let Some(path) = path_of(config) else { return Ok(None) };
    if path.exists() || !config.audit.signing_key_file.as_os_str().is_empty() {
        return read_private(&path).map(Some);
    }
    let key = SigningKey::generate();
    match write_new(&path, &key) {
        Ok(()) => {
            tracing::info!(file = %path.display(), public_key = %key.public_key(), "a key that signs seals was made");
            Ok(Some(key))
        }
        // Another node of the same folder was faster.
        Err(_) if path.exists() => read_private(&path).map(Some),
        Err(error) => Err(error),
    }
}

/// Who may have signed the log's seals: this node, and whoever the configuration trusts.
pub(super) fn trusted(config: &Config) -> Result<Vec<PublicKey>> {
    let own = path_of(config).filter(|path| path.exists()).map(|path| read_private(&path)).transpose()?;
    let mut keys: Vec<_> = own.iter().map(SigningKey::public_key).collect();
    for path in &config.audit.trusted_key_files {
        keys.push(read_public(path)?);
    }
    Ok(keys)
}

/// The key under which tenants' keys are kept, and whether payloads are encrypted.
pub(super) fn privacy(config: &Config) -> Result<Option<Privacy>> {
    let path = &config.retention.master_key_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    check_closed(path)?;
    let key = SecretKey::read(&read(path)?)
        .with_context(|| format!("{} is neither 32 bytes nor 64 hex digits", path.display()))?;
    Ok(Some(Privacy { master: Arc::new(key), encrypts: config.retention.encrypt_payloads }))
}

/// Reads a private key, if its file is closed to all but its owner.
pub(super) fn read_private(path: &Path) -> Result<SigningKey> {
    check_closed(path)?;
    SigningKey::read(&read(path)?).with_context(|| path.display().to_string())
}

fn check_closed(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read the key {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{} is open to others than its owner (mode {mode:o}); do: chmod 600 {0}", path.display());
    }
    Ok(())
}

/// Reads a public key.
pub(super) fn read_public(path: &Path) -> Result<PublicKey> {
    PublicKey::read(&read(path)?).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read the key {}", path.display());
    let length = fs::metadata(path).with_context(cannot)?.len();
    if length > MAX_BYTES {
        bail!("{} is too large for a key", path.display());
    }
    fs::read(path).with_context(cannot)
}

/// Writes a key that is not there yet, and its public key beside it with `.pub` behind the name.
pub(super) fn write_new(path: &Path, key: &SigningKey) -> Result<()> {
    write_once(path, &key.to_pem()?)?;
    write(&beside(path, ".pub"), 0o644, &key.public_key().to_pem()?)
}

/// Writes a secret that is not there yet.
pub(super) fn write_once(path: &Path, secret: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Written under another name first, so that nobody reads half a key.
    let unfinished = beside(path, &format!(".{}", std::process::id()));
    write(&unfinished, 0o600, secret)?;
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists; a key that was used must be kept", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).with_context(cannot)?;
    file.write_all(text.as_bytes()).with_context(cannot)?;
    file.sync_all().with_context(cannot)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_closed_to_others_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data_dir: folder.path().join("new"), ..Config::default() };
        let made = load_or_make(&config).unwrap().unwrap();
        let path = path_of(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_make(&config).unwrap().unwrap().public_key(), made.public_key());
        assert_eq!(trusted(&config).unwrap(), [made.public_key()]);
        assert_eq!(read_public(&beside(&path, ".pub")).unwrap(), made.public_key());
        assert!(write_new(&path, &SigningKey::generate()).is_err());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = load_or_make(&config).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_key_that_is_named_is_never_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.audit.signing_key_file = folder.path().join("absent");
        assert!(load_or_make(&config).is_err());
        assert!(!config.audit.signing_key_file.exists());
        assert!(load_or_make(&Config::default()).unwrap().is_none());
    }
}

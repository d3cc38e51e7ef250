//! Where the key comes from under which secrets lie in the database.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, bail};

use crate::config::Config;
use crate::store::VaultKey;

/// Larger files are no keys.
const MAX_BYTES: u64 = 1 << 10;

/// The configured key; `None` when there is none, and then there are no secrets.
pub(super) fn load(config: &Config) -> Result<Option<VaultKey>> {
    let (text, path) = (config.secrets.key.expose(), &config.secrets.key_file);
    if !text.is_empty() {
        return VaultKey::read(text).context("secrets.key").map(Some);
    }
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let cannot = || format!("cannot read the key for secrets {}", path.display());
    let metadata = fs::metadata(path).with_context(cannot)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{} is open to others than its owner (mode {mode:o}); do: chmod 600 {0}", path.display());
    }
    if metadata.len() > MAX_BYTES {
        bail!("{} is too large for a key", path.display());
    }
    let text = fs::read_to_string(path).with_context(cannot)?;
    VaultKey::read(&text).with_context(|| path.display().to_string()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_from_the_configuration_or_from_a_file_closed_to_others() {
        let mut config = Config::default();
        assert!(load(&config).unwrap().is_none());
        let folder = tempfile::tempdir().unwrap();
        config.secrets.key_file = folder.path().join("key");
        assert!(load(&config).is_err());
        let text = "ab".repeat(32);
        fs::write(&config.secrets.key_file, &text).unwrap();
        fs::set_permissions(&config.secrets.key_file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&config).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&config.secrets.key_file, fs::Permissions::from_mode(0o600)).unwrap();
        let from_file = format!("{:?}", load(&config).unwrap().unwrap());
        config.secrets.key_file = "".into();
        config.secrets.key = crate::config::Secret::new(text);
        assert_eq!(format!("{:?}", load(&config).unwrap().unwrap()), from_file);
    }
}

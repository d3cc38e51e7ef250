//! Packages of job types as folders of this host, each mounted read-only into the root of the
//! sandboxes that want it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tako_guest::launch::wire::Bind;

use crate::engine::build::{BuiltImage, PLACE, SHARED};
use crate::engine::{Error, Image};

/// An image reference that begins so names a layer by its version's digest.
pub(super) const LAYER: &str = "layer:";

/// The folder of all layers, one for each version.
#[derive(Debug, Clone)]
pub(super) struct Layers(PathBuf);

/// What stands beside a layer's files. It is written last, so a layer without it is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub job_type: String,
    /// Of the version, 64 hexadecimal digits.
    pub version: String,
    /// Of the Python it stands on, its packages and its shared code.
    pub digest: String,
    /// Of the Python alone.
    pub base: String,
    pub bytes: u64,
}

impl Layers {
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    fn folder(&self, version: &str) -> Option<PathBuf> {
        let is_digest = version.len() == 64 && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| self.0.join(version))
    }

    pub fn find(&self, version: &str) -> Option<Manifest> {
        let text = fs::read(self.folder(version)?.join("layer.json")).ok()?;
        serde_json::from_slice(&text).ok().filter(|manifest: &Manifest| manifest.version == version)
    }

    /// The layer that an image reference names.
    ///
    /// # Errors
    /// [`Error::Image`] when it is not here.
    pub fn resolve(&self, reference: &str) -> Result<Image, Error> {
        let version = reference.strip_prefix(LAYER).unwrap_or_default();
        let gone = || Error::Image { reference: reference.to_owned(), message: "it is not on this host".to_owned() };
        let manifest = self.find(version).ok_or_else(gone)?;
        Ok(Image { reference: reference.to_owned(), digest: manifest.digest })
    }

    /// What a sandbox sees of a layer.
    pub fn binds(&self, version: &str) -> Vec<Bind> {
        let Some(folder) = self.folder(version) else { return Vec::new() };
        [("venv", PLACE), ("shared", SHARED)]
            .into_iter()
            .map(|(name, target)| Bind { source: folder.join(name), target: target.into() })
            .collect()
    }

    /// Moves a finished layer in, made by copying: what was installed as another user becomes ours, and
    /// nobody else's to write.
    ///
    /// # Errors
    /// What the file system says, and anything in the layer that is neither file nor folder.
    pub fn put(&self, mut manifest: Manifest, venv: &Path, shared: Option<&[u8]>) -> io::Result<Manifest> {
        let version = manifest.version.clone();
        let folder = self.folder(&version).ok_or_else(|| io::Error::other("the version is no digest"))?;
        let partial = self.0.join(format!(".{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&partial)?;
        let made = || -> io::Result<Manifest> {
            manifest.bytes = copy_tree(venv, &partial.join("venv"))?;
            let own = partial.join("shared");
            make_folder(&own)?;
            if let Some(shared) = shared {
                manifest.bytes += unpack(shared, &own)?;
            }
            fs::write(partial.join("layer.json"), serde_json::to_vec(&manifest)?)?;
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::rename(&partial, &folder)?;
            Ok(manifest)
        };
        made().inspect_err(|_| drop(fs::remove_dir_all(&partial)))
    }

    pub fn all(&self) -> Vec<BuiltImage> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let versions = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let manifests = versions.filter_map(|version| self.find(&version));
        manifests
            .map(|manifest| BuiltImage {
                image: Image { reference: format!("{LAYER}{}", manifest.version), digest: manifest.digest },
                job_type: manifest.job_type,
                version: manifest.version,
                bytes: manifest.bytes,
            })
            .collect()
    }

    /// # Errors
    /// What the file system says.
    pub fn remove(&self, version: &str) -> io::Result<()> {
        let Some(folder) = self.folder(version) else { return Ok(()) };
        // Without its manifest it is no layer, whatever is left of it.
        match fs::remove_file(folder.join("layer.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Copies files, folders and the links of `bin`; answers with the bytes.
fn copy_tree(from: &Path, to: &Path) -> io::Result<u64> {
    make_folder(to)?;
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            bytes += copy_tree(&source, &target)?;
        } else if kind.is_file() {
            bytes += fs::copy(&source, &target)?;
            let is_program = entry.metadata()?.permissions().mode() & 0o111 != 0;
            fs::set_permissions(&target, fs::Permissions::from_mode(if is_program { 0o755 } else { 0o644 }))?;
        } else if kind.is_symlink() && from.file_name().is_some_and(|name| name == "bin") {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            let name = entry.file_name();
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} is neither a file nor a folder")));
        }
    }
    Ok(bytes)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Unpacks an archive of plain files whose names were checked when it was made.
fn unpack(archive: &[u8], to: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() || !entry.unpack_in(to)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared code holds more than plain files"));
        }
        bytes += entry.size();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            job_type: "a".to_owned(),
            version: "ab".repeat(32),
            digest: "sha256:x".to_owned(),
            base: "sha256:y".to_owned(),
            bytes: 0,
        }
    }

    #[test]
    fn a_layer_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let venv = tempfile::tempdir().unwrap();
        fs::write(venv.path().join("pyvenv.cfg"), "home").unwrap();
        let layers = Layers::at(folder.path());
        let manifest = layers.put(manifest(), venv.path(), None).unwrap();
        assert_eq!(layers.find(&manifest.version), Some(manifest.clone()));
        assert_eq!(layers.all().len(), 1);
        std::os::unix::fs::symlink("/etc/passwd", venv.path().join("link")).unwrap();
        let other = Manifest { version: "cd".repeat(32), ..manifest.clone() };
        assert!(layers.put(other.clone(), venv.path(), None).is_err());
        assert_eq!(layers.find(&other.version), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-made stays");
        layers.remove(&manifest.version).unwrap();
        assert_eq!(layers.all(), []);
        for reference in ["layer:", "layer:../../etc", &format!("layer:{}", manifest.version)] {
            assert!(layers.resolve(reference).is_err(), "{reference}");
        }
    }
}

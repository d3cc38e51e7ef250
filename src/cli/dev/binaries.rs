//! The installed PostgreSQL server programs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Result, bail};

/// A folder that holds `postgres`, `initdb` and `createdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub folder: PathBuf,
    pub major: u32,
    /// As `postgres --version` says it, like `15.12`.
    pub version: String,
}

impl Binaries {
    /// Finds the programs of the `major` version, or of the newest there is.
    ///
    /// Looks in `TAKO_VM_PG_BINDIR` and nowhere else if it is set; otherwise on `PATH`, where
    /// the distributions install them, and where `pg_config` says.
    ///
    /// # Errors
    /// Says which package is missing.
    pub fn find(major: Option<u32>) -> Result<Self> {
        let found = Self::all()?;
        let wanted = match major {
            Some(major) => found.iter().find(|binaries| binaries.major == major),
            None => found.iter().max_by_key(|binaries| binaries.major),
        };
        match (wanted, major, found.is_empty()) {
            (Some(binaries), _, _) => Ok(binaries.clone()),
            (None, Some(major), false) => bail!(
                "the database was made by PostgreSQL {major}, which is not installed; install the \
                 package postgresql-{major}, or start anew with `tako-vm dev down --destroy`"
            ),
            (None, ..) => bail!(
                "no PostgreSQL server programs (postgres, initdb, createdb) found on PATH or in \
                 /usr/lib/postgresql; install the package `postgresql` (Debian, Ubuntu: apt-get \
                 install postgresql) or `postgresql-server` (Fedora), or name their folder in \
                 TAKO_VM_PG_BINDIR"
            ),
        }
    }

    fn all() -> Result<Vec<Self>> {
        if let Some(folder) = env::var_os("TAKO_VM_PG_BINDIR").filter(|folder| !folder.is_empty()) {
            let folder = PathBuf::from(folder);
            return match Self::at(&folder) {
                Some(binaries) => Ok(vec![binaries]),
                None => bail!(
                    "TAKO_VM_PG_BINDIR is {}, which has no working postgres, initdb and createdb",
                    folder.display()
                ),
            };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        // Links lead to where all programs of a version stand together.
        let folders: BTreeSet<PathBuf> = env::split_paths(&path)
            .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok())
            .filter_map(|program| program.parent().map(Path::to_path_buf))
            .chain(versioned("/usr/lib/postgresql", "bin"))
            .chain(versioned("/usr/local/opt", "bin"))
            .chain(["/usr/bin".into(), "/usr/local/pgsql/bin".into()])
            .chain(from_pg_config())
            .collect();
        Ok(folders.iter().filter_map(|folder| Self::at(folder)).collect())
    }

    fn at(folder: &Path) -> Option<Self> {
        let complete = ["postgres", "initdb", "createdb"].iter().all(|name| folder.join(name).is_file());
        if !complete {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        let major = version.split('.').next()?.parse().ok()?;
        Some(Self { folder: folder.to_path_buf(), major, version })
    }
}

/// `postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)` is `15.12`, `17beta1` is `17`.
fn parse_version(text: &str) -> Option<String> {
    let word = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    Some(word[..end].to_owned()).filter(|version| !version.is_empty())
}

fn versioned(folder: &str, below: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(below)).collect()
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_postgres_says() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n", Some("15.12")),
            ("postgres (PostgreSQL) 17beta1\n", Some("17")),
            ("postgres (EnterpriseDB) 15\n", None),
        ] {
            assert_eq!(parse_version(text).as_deref(), version);
        }
    }
}

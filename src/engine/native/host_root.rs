//! What of the host a sandbox sees: enough to run Python, and nothing that tells of the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tako_guest::launch::wire::{Bind, Link, PlacedFile, RootPlan};
use tako_guest::site;

use super::config::{NativeConfig, Root};
use crate::engine::Error;

const DEFAULT_PYTHON: &str = "/usr/bin/python3";

/// Top-level names that hold programs and libraries, as directories or as links into `/usr`.
const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Parts of `/etc` that Python and its libraries look into, none of them private.
const CONFIGURATION: [&str; 3] = ["/etc/alternatives", "/etc/ssl/certs", "/etc/pki/tls/certs"];
const CONFIGURATION_FILES: [&str; 4] =
    ["/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/ssl/openssl.cnf"];

/// Names at the top of an unpacked image that the launcher makes itself.
const MADE_BY_LAUNCHER: [&str; 9] = ["proc", "sys", "dev", "tmp", "output", "code", "input", "run", "tako"];

/// The root and the interpreter in it.
#[derive(Debug, Clone)]
pub struct HostRoot {
    pub plan: RootPlan,
    /// The interpreter as the host reaches it.
    pub python_on_host: PathBuf,
    /// The interpreter's path inside; `None` for the first `python3` on `PATH`.
    pub python_inside: Option<String>,
}

impl HostRoot {
    /// Looks what there is to show.
    ///
    /// # Errors
    /// [`Error::Image`] when there is no interpreter or no root.
    pub fn plan(config: &NativeConfig) -> Result<Self, Error> {
        match &config.root {
            Root::Host => Self::of_host(config.python.as_deref()),
            Root::Unpacked(directory) => Self::of_directory(directory, config.python.as_deref()),
        }
    }

    fn of_host(python: Option<&Path>) -> Result<Self, Error> {
        let python = python.unwrap_or(Path::new(DEFAULT_PYTHON));
        if !python.is_file() {
            return Err(no_image(format!("there is no interpreter {}", python.display())));
        }
        let mut plan = RootPlan { files: identity_files(), ..RootPlan::default() };
        plan.files.extend(site_files(Some(python)));
        for path in PROGRAMS {
            show(&mut plan, Path::new(path), Path::new(path)).map_err(|error| no_image(format!("{path}: {error}")))?;
        }
        for path in CONFIGURATION.into_iter().map(PathBuf::from).chain(python_configuration()) {
            if path.is_dir() {
                plan.binds.push(same(&path));
            }
        }
        plan.copies.extend(CONFIGURATION_FILES.iter().map(Path::new).filter(|path| path.is_file()).map(same));
        for prefix in prefixes(python)? {
            if !prefix.starts_with("/usr") {
                plan.binds.push(same(&prefix));
            }
        }
        let python_inside = python.to_str().map(str::to_owned);
        Ok(Self { plan, python_on_host: python.to_owned(), python_inside })
    }

    fn of_directory(directory: &Path, python: Option<&Path>) -> Result<Self, Error> {
        let unreadable = |error: io::Error| no_image(format!("{}: {error}", directory.display()));
        // The image's interpreter runs in sandboxes only, so nothing was compiled by it here.
        let mut plan = RootPlan { files: site_files(None), ..RootPlan::default() };
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| MADE_BY_LAUNCHER.contains(&name)) {
                continue;
            }
            show(&mut plan, &entry.path(), &Path::new("/").join(&name)).map_err(unreadable)?;
        }
        let inside = python.unwrap_or(Path::new(DEFAULT_PYTHON));
        let on_host = directory.join(inside.strip_prefix("/").unwrap_or(inside));
        Ok(Self { plan, python_on_host: on_host, python_inside: python.and_then(Path::to_str).map(str::to_owned) })
    }
}

/// Shows a directory or a file as it is, and a link as the same link; nothing there is fine.
fn show(plan: &mut RootPlan, source: &Path, target: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.file_type(),
    };
    if kind.is_symlink() {
        plan.links.push(Link { path: target.to_owned(), leads_to: fs::read_link(source)? });
    } else {
        plan.binds.push(Bind { source: source.to_owned(), target: target.to_owned() });
    }
    Ok(())
}

/// Debian keeps each version's `sitecustomize` in `/etc/python3.<minor>`.
fn python_configuration() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"python3"))
        .map(|entry| entry.path())
        .collect()
}

/// Where an interpreter's installation lies, the virtual environment's first.
fn prefixes(python: &Path) -> Result<Vec<PathBuf>, Error> {
    if python.starts_with("/usr") {
        return Ok(Vec::new());
    }
    let output = Command::new(python)
        .args(["-I", "-S", "-c", "import sys; print(sys.prefix); print(sys.base_prefix)"])
        .output()
        .map_err(|error| no_image(format!("{}: {error}", python.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The path as it was given must exist inside too, wherever its links lead.
    let own = python.parent().and_then(Path::parent).map(Path::to_owned);
    let mut prefixes: Vec<PathBuf> = text.lines().map(PathBuf::from).chain(own).collect();
    prefixes.sort();
    prefixes.dedup();
    if prefixes.iter().any(|prefix| prefix.parent().is_none()) {
        return Err(no_image(format!("{} is installed in the root", python.display())));
    }
    Ok(prefixes)
}

/// Users and names as every sandbox sees them; the host's own are its secret.
fn identity_files() -> Vec<PlacedFile> {
    let file = |path: &str, text: &str| PlacedFile { path: path.into(), bytes: text.into() };
    vec![
        file(
            "/etc/passwd",
            "root:x:0:0:root:/:/usr/sbin/nologin\n\
             sandbox:x:1000:1000:sandbox:/tmp:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        ),
        file("/etc/group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
        file("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n"),
        file("/etc/hostname", "sandbox\n"),
        file("/etc/resolv.conf", ""),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ]
}

/// The module in which interpreters wait, and what this one makes of it.
fn site_files(python: Option<&Path>) -> Vec<PlacedFile> {
    let source = PlacedFile { path: site::FILE.into(), bytes: site::SOURCE.into() };
    [source].into_iter().chain(python.and_then(site_bytecode)).collect()
}

/// `None` costs time at each start and nothing else: the interpreter compiles the source then.
fn site_bytecode(python: &Path) -> Option<PlacedFile> {
    let output = Command::new(python)
        .args(["-I", "-S", "-c", site::COMPILE, site::FILE, site::SOURCE])
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let end = output.stdout.iter().position(|&byte| byte == b'\n')?;
    let tag = std::str::from_utf8(&output.stdout[..end]).ok()?;
    Some(PlacedFile { path: site::cached(tag).into(), bytes: output.stdout[end + 1..].to_vec() })
}

fn same(path: &Path) -> Bind {
    Bind { source: path.to_owned(), target: path.to_owned() }
}

fn no_image(message: String) -> Error {
    Error::Image { reference: "host".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_private_of_the_host_is_shown() {
        let root = HostRoot::plan(&NativeConfig::default()).unwrap();
        let shown = root.plan.binds.iter().chain(&root.plan.copies).map(|bind| &bind.source);
        for path in shown {
            let allowed = ["/usr", "/bin", "/sbin", "/lib", "/etc/"];
            let path = path.to_str().unwrap();
            assert!(allowed.iter().any(|start| path.starts_with(start)), "{path}");
            for secret in ["/etc/shadow", "/etc/passwd", "/etc/ssl/private", "/etc/ssh"] {
                assert!(!Path::new(secret).starts_with(path), "{path} shows {secret}");
            }
        }
    }

    #[test]
    fn an_unpacked_image_is_shown_whole_but_for_what_the_launcher_makes() {
        let image = tempfile::tempdir().unwrap();
        for name in ["usr", "opt", "proc", "tmp"] {
            fs::create_dir(image.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", image.path().join("bin")).unwrap();
        let config = NativeConfig { root: Root::Unpacked(image.path().to_owned()), ..NativeConfig::default() };
        let plan = HostRoot::plan(&config).unwrap().plan;
        let mut targets: Vec<_> = plan.binds.iter().map(|bind| bind.target.clone()).collect();
        targets.sort();
        assert_eq!(targets, [Path::new("/opt"), Path::new("/usr")]);
        assert_eq!(plan.links[0].path, Path::new("/bin"));
    }

    #[test]
    fn an_interpreter_that_is_not_there_is_an_image_that_is_not() {
        let config = NativeConfig { python: Some("/nowhere/python3".into()), ..NativeConfig::default() };
        assert!(matches!(HostRoot::plan(&config), Err(Error::Image { .. })));
    }
}

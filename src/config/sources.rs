//! Where the configuration comes from: a file, the job types beside it, the environment.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::decode;
use super::document::{self, Document};
use super::error::{Error, Issue};
use super::known_keys::{Shape, joined};
use super::settings::Config;

const PREFIX: &str = "TAKO_VM_";

/// Variables with our prefix that say something else than a configuration value.
const NOT_SETTINGS: [&str; 3] = ["TAKO_VM_CONFIG", "TAKO_VM_PG_BINDIR", "TAKO_VM_URL"];
const NOT_SETTINGS_PREFIXES: [&str; 2] = ["TAKO_VM_TEST_", "TAKO_VM_BENCH_"];

/// Where to look for configuration.
#[derive(Debug, Clone)]
pub struct Sources {
    /// From `--config` or `TAKO_VM_CONFIG`; it must exist.
    pub file: Option<PathBuf>,
    /// Relative paths start here.
    pub directory: PathBuf,
    pub home: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
}

/// A configuration, and the files it was read from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub files: Vec<PathBuf>,
}

impl Sources {
    /// This process's directory, home and environment; `file` is what `--config` names, before
    /// which `TAKO_VM_CONFIG` gives way.
    pub fn of_process(file: Option<PathBuf>) -> std::io::Result<Self> {
        let named = || std::env::var_os("TAKO_VM_CONFIG").filter(|file| !file.is_empty());
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self {
            file: file.or_else(|| named().map(PathBuf::from)),
            directory: std::env::current_dir()?,
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            environment,
        })
    }

    /// The file that counts, if there is one: the named one, or the first of
    /// `tako_vm.yaml`, `config/tako_vm.yaml`, `~/.tako_vm/config.yaml`, `/etc/tako_vm/config.yaml`.
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(file) = &self.file {
            return Some(self.directory.join(file));
        }
        let home = self.home.as_ref().map(|home| home.join(".tako_vm/config.yaml"));
        [
            Some(self.directory.join("tako_vm.yaml")),
            Some(self.directory.join("config/tako_vm.yaml")),
            home,
            Some(PathBuf::from("/etc/tako_vm/config.yaml")),
        ]
        .into_iter()
        .flatten()
        .find(|path| path.exists())
    }

    /// Reads, merges, decodes and checks.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a file; [`Error::Invalid`] with everything that is wrong;
    /// [`Error::OpenBind`] for a server that anybody could use.
    pub fn load(&self) -> Result<Loaded, Error> {
        let mut layers = Layers { value: Value::Object(Map::new()), ..Layers::default() };
        if let Some(path) = self.find() {
            layers.read_main(path)?;
        }
        self.read_environment(&mut layers);

        let Layers { value, origins, mut issues, files } = layers;
        let mut config = match decode::config(value) {
            Ok(config) if issues.is_empty() => config,
            Ok(_) => return Err(Error::Invalid(issues)),
            Err(found) => {
                issues.extend(found.into_iter().map(|(key, message)| {
                    let origin = origin_of(&origins, &key);
                    Issue { key, message, origin }
                }));
                return Err(Error::Invalid(issues));
            }
        };
        config.check_bind(config.server.host.0)?;
        config.data_dir = self.data_dir(&config.data_dir);
        Ok(Loaded { config, files })
    }

    /// Empty means `.tako` in a project's folder, else `~/.tako_vm`.
    fn data_dir(&self, configured: &Path) -> PathBuf {
        if !configured.as_os_str().is_empty() {
            return self.directory.join(configured);
        }
        let marks = [".tako", "tako_vm.yaml", "config/tako_vm.yaml", "Cargo.toml"];
        let in_project = marks.iter().any(|mark| self.directory.join(mark).exists());
        match &self.home {
            Some(home) if !in_project => home.join(".tako_vm"),
            _ => self.directory.join(".tako"),
        }
    }

    fn read_environment(&self, layers: &mut Layers) {
        let shape = Shape::of_config();
        let mut variables: Vec<_> = self.environment.iter().collect();
        variables.sort();
        if let Some((name, url)) = variables.iter().find(|(name, _)| name == "DATABASE_URL") {
            layers.set(&["database_url".to_owned()], Value::from(url.as_str()), name);
        }
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let is_other = NOT_SETTINGS.contains(&name.as_str())
                || NOT_SETTINGS_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if is_other {
                continue;
            }
            let path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
            let value = match document::scalar(text) {
                Some(value) if !shape.is_text(&path) => value,
                _ => Value::from(text.as_str()),
            };
            layers.set(&path, value, name);
        }
    }
}

/// Values merged so far, and where each came from.
#[derive(Default)]
struct Layers {
    value: Value,
    /// Dotted path to `file:line` or variable.
    origins: BTreeMap<String, String>,
    issues: Vec<Issue>,
    files: Vec<PathBuf>,
}

impl Layers {
    fn read_main(&mut self, path: PathBuf) -> Result<(), Error> {
        let directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
        if let Some(document) = self.read(&path)? {
            self.note_lines(&document, &path, "");
            self.value = document.value;
        }
        self.resolve_shared_code(&directory);
        let beside = [directory.join("job_types"), directory.join("config/job_types")];
        if let Some(folder) = beside.iter().find(|folder| folder.is_dir()) {
            self.read_job_types(folder)?;
        }
        Ok(())
    }

    /// Each file is one job type, named by its `name` or else by the file.
    fn read_job_types(&mut self, folder: &Path) -> Result<(), Error> {
        let unreadable = |source| Error::Unreadable { path: folder.to_path_buf(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let Some(mut document) = self.read(&path)? else {
                continue;
            };
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let named = document.value.get("name").and_then(Value::as_str).map(str::to_owned);
            let Some(name) = named.or(stem) else { continue };
            let key = format!("job_types.{name}");
            if self.value.pointer(&format!("/job_types/{name}")).is_some() {
                let first = origin_of(&self.origins, &key).unwrap_or_default();
                let message = format!("is defined twice; first in {first}");
                let origin = Some(path.display().to_string());
                self.issues.push(Issue { key, message, origin });
                continue;
            }
            resolve(&mut document.value, folder);
            self.note_lines(&document, &path, &key);
            self.set(&["job_types".to_owned(), name], document.value, &path.display().to_string());
        }
        Ok(())
    }

    /// Reads one file; one that is not YAML becomes an issue.
    fn read(&mut self, path: &Path) -> Result<Option<Document>, Error> {
        let text = fs::read(path)
            .and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
            })
            .map_err(|source| Error::Unreadable { path: path.to_path_buf(), source })?;
        self.files.push(path.to_path_buf());
        let (message, line) = match Document::parse(&text) {
            Ok(document) if document.value.is_object() => return Ok(Some(document)),
            Ok(_) => ("must be a map of keys to values".to_owned(), None),
            Err(error) => (error.message, error.line),
        };
        let origin = Some(located(path, line));
        self.issues.push(Issue { key: String::new(), message, origin });
        Ok(None)
    }

    fn note_lines(&mut self, document: &Document, path: &Path, below: &str) {
        for (key, line) in &document.lines {
            self.origins.insert(joined(below, key), located(path, Some(*line)));
        }
    }

    fn resolve_shared_code(&mut self, directory: &Path) {
        if let Some(Value::Object(job_types)) = self.value.get_mut("job_types") {
            job_types.values_mut().for_each(|job_type| resolve(job_type, directory));
        }
    }

    fn set(&mut self, path: &[String], value: Value, origin: &str) {
        let mut slot = &mut self.value;
        let mut key = String::new();
        for part in path {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            slot = &mut slot[part.as_str()];
            key = joined(&key, part);
        }
        *slot = value;
        self.origins.insert(key, origin.to_owned());
    }
}

/// Makes a job type's relative `shared_code` start at the file that names it.
fn resolve(job_type: &mut Value, directory: &Path) {
    if let Some(Value::String(path)) = job_type.get_mut("shared_code") {
        *path = directory.join(&*path).to_string_lossy().into_owned();
    }
}

fn located(path: &Path, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

/// Where a key was set, or else what it is part of.
fn origin_of(origins: &BTreeMap<String, String>, key: &str) -> Option<String> {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return Some(origin.clone());
        }
        key = &key[..key.rfind(['.', '['])?];
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared_code::SharedCode;
    use super::*;

    fn sources(directory: &Path) -> Sources {
        Sources { file: None, directory: directory.to_path_buf(), home: None, environment: Vec::new() }
    }

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn issues(sources: &Sources) -> Vec<Issue> {
        match sources.load() {
            Err(Error::Invalid(issues)) => issues,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_file_of_the_search_path_counts() {
        let dir = tempfile::tempdir().unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut sources = sources(dir.path());
        sources.home = Some(home.path().to_path_buf());
        write(home.path(), ".tako_vm/config.yaml", "max_workers: 3");
        assert_eq!(sources.load().unwrap().config.max_workers, 3);
        write(dir.path(), "config/tako_vm.yaml", "max_workers: 2");
        assert_eq!(sources.load().unwrap().config.max_workers, 2);
        write(dir.path(), "tako_vm.yaml", "max_workers: 1");
        assert_eq!(sources.load().unwrap().config.max_workers, 1);
        write(dir.path(), "named.yaml", "max_workers: 5");
        sources.file = Some("named.yaml".into());
        assert_eq!(sources.load().unwrap().config.max_workers, 5);
    }

    #[test]
    fn no_file_at_all_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let loaded = sources(dir.path()).load().unwrap();
        assert!(loaded.files.is_empty());
        assert_eq!(loaded.config, Config { data_dir: dir.path().join(".tako"), ..Config::default() });
    }

    #[test]
    fn a_named_file_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let mut sources = sources(dir.path());
        sources.file = Some("absent.yaml".into());
        assert!(matches!(sources.load(), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tako_vm.yaml", "max_workers: 1\nlimits: {max_code_bytes: 10k, max_files: 3}");
        let mut sources = sources(dir.path());
        sources.environment = [
            ("TAKO_VM_MAX_WORKERS", "9"),
            ("TAKO_VM_LIMITS__MAX_CODE_BYTES", "20k"),
            ("TAKO_VM_DATABASE_URL", "postgres://u:p #x: y@localhost/d"),
            ("DATABASE_URL", "postgres://other"),
            ("TAKO_VM_NATIVE__PYTHON", "/3"),
            ("TAKO_VM_TEST_SOMETHING", "1"),
            ("HOME", "/nowhere"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let config = sources.load().unwrap().config;
        assert_eq!(config.max_workers, 9);
        assert_eq!(config.limits.max_code_bytes, 20 << 10);
        assert_eq!(config.limits.max_files, 3);
        assert_eq!(config.database_url.expose(), "postgres://u:p #x: y@localhost/d");
        assert_eq!(config.native.python, Path::new("/3"));
    }

    #[test]
    fn an_issue_says_where_the_value_stands() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tako_vm.yaml", "# note\nlimits:\n  max_files: -4\n  max_filez: 1\n");
        let mut sources = sources(dir.path());
        sources.environment = vec![("TAKO_VM_MAX_WORKERS".into(), "0".into())];
        let text = sources.load().unwrap_err().to_string();
        let file = dir.path().join("tako_vm.yaml");
        for line in [
            format!("{}:3: limits.max_files: ", file.display()),
            format!("{}:4: limits.max_filez: unknown key; did you mean `max_files`?", file.display()),
            "TAKO_VM_MAX_WORKERS: max_workers: 0 is out of bounds (1 to 1024)".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} not in {text}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut sources = sources(dir.path());
        sources.environment = vec![("TAKO_VM_MAX_WORKER".into(), "1".into())];
        let issues = issues(&sources);
        assert_eq!(issues[0].message, "unknown key; did you mean `max_workers`?");
        assert_eq!(issues[0].origin.as_deref(), Some("TAKO_VM_MAX_WORKER"));
    }

    #[test]
    fn job_types_stand_beside_the_file_and_in_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "config/tako_vm.yaml", "job_types:\n  one:\n    timeout: 5\n");
        write(dir.path(), "config/job_types/two.yaml", "timeout: 6\nshared_code: lib.py\n");
        write(dir.path(), "config/job_types/lib.py", "");
        let job_types = sources(dir.path()).load().unwrap().config.job_types;
        assert_eq!(job_types["one"].timeout.as_secs(), 5);
        assert_eq!(job_types["two"].timeout.as_secs(), 6);
        let shared = dir.path().join("config/job_types/lib.py");
        assert_eq!(job_types["two"].shared_code, Some(SharedCode::Path(shared)));
        assert!(job_types.contains_key("default"));

        write(dir.path(), "config/job_types/three.yaml", "timeout: -1\n");
        write(dir.path(), "config/job_types/four.yaml", "name: one\n");
        let issues = issues(&sources(dir.path()));
        assert!(issues[0].message.contains("defined twice"), "{issues:?}");
        assert!(issues[1].origin.as_ref().unwrap().ends_with("three.yaml:1"), "{issues:?}");
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let mut sources = sources(Path::new(env!("CARGO_MANIFEST_DIR")));
        sources.file = Some("config/default.yaml".into());
        let loaded = sources.load().unwrap();
        assert_eq!(loaded.files.len(), 4, "{:?}", loaded.files);
        let config = Config { data_dir: PathBuf::new(), ..loaded.config };
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_shipped_file_names_every_key() {
        let text = include_str!("../../config/default.yaml");
        let shipped = Document::parse(text).unwrap().value;
        let default = serde_json::to_value(Config::default()).unwrap();
        let (sections, rest): (Vec<_>, Vec<_>) =
            default.as_object().unwrap().iter().partition(|(_, value)| value.is_object());
        for (key, _) in rest {
            assert!(shipped.get(key).is_some(), "{key}");
        }
        for (section, fields) in sections.iter().filter(|(key, _)| *key != "job_types") {
            for key in fields.as_object().unwrap().keys() {
                assert!(shipped[section.as_str()].get(key).is_some(), "{section}.{key}");
            }
        }
    }

    #[test]
    fn a_server_open_to_all_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tako_vm.yaml", "server: {host: 0.0.0.0}");
        assert!(matches!(sources(dir.path()).load(), Err(Error::OpenBind(_))));
    }

    #[test]
    fn a_text_that_is_not_yaml_is_an_issue_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "tako_vm.yaml", "a: [1\nb: 2\n");
        let issues = issues(&sources(dir.path()));
        assert_eq!(issues.len(), 1, "{issues:?}");
        assert!(issues[0].origin.as_ref().unwrap().contains("tako_vm.yaml:"), "{issues:?}");
    }
}

//! Real packages and shared code on real engines. What needs a package index says so and ends where
//! none answers.

use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tako_vm::cli::server::Chosen;
use tako_vm::config::{Config, JobType, SharedCode};
use tako_vm::engine::docker::{DockerConfig, DockerEngine, RuntimeChoice};
use tako_vm::engine::native::{NativeConfig, NativeEngine};
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::docker::images::{build, docker};
use crate::world::{Choice, World};

const SMALL: &str = "six==1.17.0";

/// A folder with one small wheel from the index; `None` where no index answers.
static WHEEL: LazyLock<Option<TempDir>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let downloaded = Command::new("/usr/bin/python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--timeout", "10"])
        .args(["--retries", "1", "--dest"])
        .arg(folder.path())
        .arg(SMALL)
        .output();
    downloaded.is_ok_and(|output| output.status.success()).then_some(folder)
});

fn has_index(test: &str) -> bool {
    if WHEEL.is_none() {
        eprintln!("skipped: {test}: no package index answers here");
    }
    WHEEL.is_some()
}

/// A server with real sandboxes and folders of its own.
pub struct Real {
    /// Dropped first, so that nothing uses what is removed then.
    world: Option<World>,
    images: Vec<String>,
    folder: TempDir,
}

impl Real {
    async fn start(choice: Choice, configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_owned();
        let configure = move |config: &mut Config| {
            config.data_dir = data_dir;
            config.max_workers = 1;
            config.build.timeout = Duration::from_secs(300);
            configure(config);
        };
        let world = World::start_with(configure, choice).await;
        Self { world: Some(world), images: Vec::new(), folder }
    }

    pub async fn docker(configure: impl FnOnce(&mut Config)) -> Self {
        let connect = |_: &Config| {
            let mut config = DockerConfig::default();
            if let Ok(runtime) = std::env::var("TAKO_VM_TEST_RUNTIME") {
                config.runtime = RuntimeChoice::Named(runtime);
            }
            let engine = Handle::current().block_on(DockerEngine::connect(config));
            Chosen::Docker(Arc::new(engine.expect("these tests need a Docker Engine")))
        };
        Self::start(Arc::new(connect), configure).await
    }

    pub async fn native(configure: impl FnOnce(&mut Config)) -> Self {
        let make = |config: &Config| {
            let own = NativeConfig {
                layers: Some(config.data_dir.join("layers")),
                runtime_dir: Some(config.data_dir.join("run")),
                ..NativeConfig::default()
            };
            Chosen::Native(Arc::new(NativeEngine::new(own).unwrap()))
        };
        Self::start(Arc::new(make), configure).await
    }

    pub fn world(&self) -> &World {
        self.world.as_ref().unwrap()
    }

    pub async fn build(&mut self, name: &str) -> (u16, Value) {
        let (status, body) = self.world().post(&format!("/job-types/{name}/build"), json!({})).await;
        if let Some(image) = body["image_ref"].as_str().filter(|image| image.starts_with("tako-vm/job-type:")) {
            self.images.push(image.to_owned());
        }
        (status, body)
    }

    /// Standard output of a job that must succeed.
    pub async fn print(&self, job_type: &str, code: &str) -> String {
        let (status, accepted) = self.world().post("/jobs", json!({"code": code, "job_type": job_type})).await;
        assert_eq!(status, 202, "{accepted}");
        let record = self.world().ended(accepted["execution_id"].as_str().unwrap().parse().unwrap()).await;
        assert_eq!(record["status"], "succeeded", "{record:#}");
        record["stdout"].as_str().unwrap().to_owned()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.world.take());
        for image in &self.images {
            let _ = docker(&["rmi", image]);
        }
    }
}

const REPORT: &str = "import sys\n\
    import numpy, pandas\n\
    frame = pandas.DataFrame({'team': ['a', 'b', 'a'], 'hours': [1.5, 2.0, 3.0]})\n\
    print(frame.groupby('team').hours.sum().to_json(), float(numpy.std([1, 2, 3, 4])))\n\
    print(pandas.__version__, numpy.__version__, pandas.__file__, pandas.concat.__code__.co_filename)\n\
    print(sys.prefix, [path for path in sys.path if 'tako' in path], 'PYTHONPATH' in __import__('os').environ)\n";

#[tokio::test(flavor = "multi_thread")]
async fn data_processing_is_built_and_gives_the_same_result_on_both_engines() {
    if !has_index("data_processing_is_built_and_gives_the_same_result_on_both_engines") {
        return;
    }
    let mut results = Vec::new();
    for mut real in [Real::docker(|_| {}).await, Real::native(|_| {}).await] {
        let (status, built) = real.build("data-processing").await;
        assert_eq!(status, 200, "{built:#}");
        results.push(real.print("data-processing", REPORT).await);
        let (_, versions) = real.world().get("/job-types/data-processing/versions").await;
        let lock = versions[0]["lock"].as_str().unwrap();
        for package in ["numpy==2.2.6 --hash=sha256:", "pandas==2.2.3 --hash=sha256:", "python-dateutil=="] {
            assert!(lock.lines().any(|line| line.starts_with(package)), "{package}: {lock}");
        }
        let (_, images) = real.world().get("/images").await;
        assert!(images["size_bytes"].as_u64().unwrap() > 50 << 20, "{images:#}");
    }
    assert!(results[0].starts_with("{\"a\":4.5,\"b\":2.0} 1.118"), "{}", results[0]);
    assert!(results[0].contains("2.2.3 2.2.6 /tako/venv/lib/python3.11/site-packages/pandas"), "{}", results[0]);
    assert_eq!(results[0], results[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requirement_that_nobody_has_fails_with_pips_own_words() {
    if !has_index("a_requirement_that_nobody_has_fails_with_pips_own_words") {
        return;
    }
    let wrong = |config: &mut Config| {
        let requirements = vec!["pandsa==2.3.1".to_owned()];
        let job_type = JobType { name: "wrong".to_owned(), requirements, ..JobType::default() };
        config.job_types.insert("wrong".to_owned(), job_type);
    };
    for mut real in [Real::docker(wrong).await, Real::native(wrong).await] {
        let (status, problem) = real.build("wrong").await;
        assert_eq!(status, 422, "{problem:#}");
        let tail = problem["log_tail"].as_str().unwrap();
        assert!(tail.contains("No matching distribution found for pandsa==2.3.1"), "{problem:#}");
        eprintln!("{problem:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_beyond_the_limit_are_no_image() {
    if !has_index("packages_beyond_the_limit_are_no_image") {
        return;
    }
    for mut real in [Real::docker(narrow).await, Real::native(narrow).await] {
        let (status, problem) = real.build("large").await;
        assert_eq!(status, 422, "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains("raise build.max_size"), "{problem:#}");
        let (_, images) = real.world().get("/images").await;
        assert!(images["items"].as_array().unwrap().iter().all(|image| image["job_type"] != "large"), "{images:#}");
    }
    // Of its own, as other tests build on the same daemon.
    fn narrow(config: &mut Config) {
        config.build.max_size = 1 << 20;
        let requirements = vec!["numpy==2.2.6".to_owned()];
        let job_type = JobType { name: "large".to_owned(), requirements, ..JobType::default() };
        config.job_types.insert("large".to_owned(), job_type);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_packages_come_from_the_folder_of_wheels() {
    let Some(wheels) =
        WHEEL.as_ref().filter(|_| has_index("without_a_network_packages_come_from_the_folder_of_wheels"))
    else {
        return;
    };
    let offline = |config: &mut Config| {
        config.build.wheel_dir = wheels.path().to_owned();
        config.build.network = "none".to_owned();
        let requirements = vec![SMALL.to_owned()];
        let job_type = JobType { name: "small".to_owned(), requirements, ..JobType::default() };
        config.job_types.insert("small".to_owned(), job_type);
    };
    for mut real in [Real::docker(offline).await, Real::native(offline).await] {
        let (status, built) = real.build("small").await;
        assert_eq!(status, 200, "{built:#}");
        // Gone and wanted again, it is made of the very wheels of its lock.
        match built["image_ref"].as_str().unwrap().strip_prefix("layer:") {
            Some(layer) => std::fs::remove_dir_all(real.folder.path().join("layers").join(layer)).unwrap(),
            None => drop(docker(&["rmi", built["image_ref"].as_str().unwrap()]).unwrap()),
        }
        let (status, again) = real.build("small").await;
        assert_eq!((status, &again), (200, &built));
        let (_, builds) = real.world().get("/builds").await;
        let log = format!("{}/builds/{}/log", real.world().url, builds[0]["build_id"].as_str().unwrap());
        let log = real.world().http.get(log).send().await.unwrap().text().await.unwrap();
        assert!(log.contains("all 1 packages are kept from an earlier build"), "{log}");
        let code = "import six; print(six.__version__, six.__file__)";
        assert_eq!(real.print("small", code).await, "1.17.0 /tako/venv/lib/python3.11/site-packages/six.py\n");
        let (status, _) = real.world().post("/job-types", json!({"name": "other", "requirements": ["numpy"]})).await;
        assert_eq!(status, 201);
        let (status, problem) = real.build("other").await;
        assert_eq!(status, 422, "no index is asked: {problem:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_code_is_imported_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pkg")).unwrap();
    std::fs::write(folder.path().join("pkg/__init__.py"), "def twice(x):\n    return 2 * x\n").unwrap();
    std::fs::write(folder.path().join("helpers.py"), "NAME = 'tako'\n").unwrap();
    let shared = |config: &mut Config| {
        let shared_code = Some(SharedCode::Path(folder.path().to_owned()));
        let job_type = JobType { name: "lib".to_owned(), shared_code, ..JobType::default() };
        config.job_types.insert("lib".to_owned(), job_type);
    };
    let code = "import helpers, pkg, os, subprocess\n\
                print(helpers.NAME, pkg.twice(21), pkg.__file__)\n\
                print(subprocess.run(['python3', '-c', 'import pkg; print(pkg.twice(4))'], capture_output=True).stdout)\n\
                for path in ('/tako/shared/helpers.py', '/tako/venv/new', '/tako/shared/new'):\n\
                \x20   try:\n\
                \x20       open(path, 'w')\n\
                \x20       print('written', path)\n\
                \x20   except OSError as error:\n\
                \x20       print(type(error).__name__)\n";
    for mut real in [Real::docker(shared).await, Real::native(shared).await] {
        let (status, built) = real.build("lib").await;
        assert_eq!(status, 200, "{built:#}");
        let printed = real.print("lib", code).await;
        assert!(printed.starts_with("tako 42 /tako/shared/pkg/__init__.py\nb'8\\n'\n"), "{printed}");
        assert!(!printed.contains("written"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_leaves_alone_what_another_one_has_between_its_stages() {
    let recipe = format!("FROM scratch\nLABEL tako-vm.image=packages tako-vm.build={}\n", Uuid::new_v4());
    let other = build(&recipe, &[]);
    let shared = |config: &mut Config| {
        let files = [("helpers.py".to_owned(), "x = 1\n".to_owned())];
        let shared_code = Some(SharedCode::Files(files.into()));
        let job_type = JobType { name: "brief".to_owned(), shared_code, ..JobType::default() };
        config.job_types.insert("brief".to_owned(), job_type);
    };
    let mut real = Real::docker(shared).await;
    let (status, built) = real.build("brief").await;
    let remains = docker(&["rmi", &other]);
    assert_eq!(status, 200, "{built:#}");
    remains.expect("another build would have stood on it");
}

//! Packages that come as source, whose own code makes their wheel.

use std::path::Path;
use std::process::Command;

use tako_vm::config::{Config, JobType};
use tempfile::TempDir;

use super::packages::Real;

/// Makes `homemade-1.0.tar.gz` in a folder. It needs nothing but itself to be built.
const MAKE: &str = r#"
import io, sys, tarfile
files = {
    'PKG-INFO': 'Metadata-Version: 2.1\nName: homemade\nVersion: 1.0\n',
    'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    'backend.py': '''
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = 'homemade-1.0-py3-none-any.whl'
    info = 'homemade-1.0.dist-info/'
    with zipfile.ZipFile(os.path.join(folder, name), 'w') as wheel:
        wheel.writestr('homemade.py', 'MADE_BY = %r\\n' % os.getuid())
        wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: homemade\\nVersion: 1.0\\n')
        wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr(info + 'RECORD', ''.join('%s,,\\n' % path for path in wheel.namelist() + [info + 'RECORD']))
    return name
''',
}
with tarfile.open(sys.argv[1] + '/homemade-1.0.tar.gz', 'w:gz') as archive:
    for name, text in files.items():
        entry = tarfile.TarInfo('homemade-1.0/' + name)
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
"#;

fn source() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("python3").args(["-c", MAKE]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    folder
}

fn homemade(folder: &Path, source_distributions: bool) -> impl FnOnce(&mut Config) {
    move |config| {
        config.build.wheel_dir = folder.to_owned();
        config.build.network = "none".to_owned();
        config.build.source_distributions = source_distributions;
        let requirements = vec!["homemade==1.0".to_owned()];
        let job_type = JobType { name: "made".to_owned(), requirements, ..JobType::default() };
        config.job_types.insert("made".to_owned(), job_type);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_docker_a_package_is_made_of_its_source_when_that_is_allowed() {
    let folder = source();
    let mut real = Real::docker(homemade(folder.path(), true)).await;
    let (status, built) = real.build("made").await;
    assert_eq!(status, 200, "{built:#}");
    // Its code ran as nobody of note.
    let printed = real.print("made", "import homemade; print(homemade.MADE_BY, homemade.__file__)").await;
    assert_eq!(printed, "1000 /tako/venv/lib/python3.11/site-packages/homemade.py\n");
    let (_, versions) = real.world().get("/job-types/made/versions").await;
    assert!(versions[0]["lock"].as_str().unwrap().starts_with("homemade==1.0 --hash=sha256:"), "{versions:#}");
    drop(real);
    let mut real = Real::docker(homemade(folder.path(), false)).await;
    let (status, problem) = real.build("made").await;
    assert_eq!(status, 422, "its code is not run unasked: {problem:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_native_engine_refuses_to_run_a_packages_code_on_its_host_and_says_what_helps() {
    let folder = source();
    let mut real = Real::native(homemade(folder.path(), true)).await;
    let (status, problem) = real.build("made").await;
    assert_eq!(status, 422, "{problem:#}");
    assert!(problem["detail"].as_str().unwrap().contains("put it into build.wheel_dir"), "{problem:#}");
}

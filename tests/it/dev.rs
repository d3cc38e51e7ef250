//! The development cluster, on the installed PostgreSQL.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tako_vm::cli::dev::Cluster;
use tako_vm::cli::dev::cluster::{DATABASE, State};

/// A folder that the database's user can enter, whatever this process's umask is.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

async fn ask(cluster: &Cluster, database: &str, question: &str) -> String {
    let url = cluster.url(database);
    let mut connection = PgConnection::connect(url.expose()).await.unwrap();
    sqlx::query_scalar(sqlx::AssertSqlSafe(question)).fetch_one(&mut connection).await.unwrap()
}

fn kill_9(pid: u32) {
    // SAFETY: the process is the postmaster that this test started.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) }, 0);
}

fn is_gone(folder: &Path) -> bool {
    !matches!(Cluster::state(folder), Ok(State::Running(_)))
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[tokio::test]
async fn a_cluster_has_its_database_and_writes_it_to_disk() {
    let folder = open_folder();
    let cluster = Cluster::up(folder.path()).unwrap();
    assert!(cluster.is_new());
    let mut answers = Vec::new();
    for setting in ["fsync", "synchronous_commit", "data_checksums", "server_encoding"] {
        answers.push(ask(&cluster, DATABASE, &format!("SHOW {setting}")).await);
    }
    // It would outlive a failed assertion.
    Cluster::down(folder.path(), true).unwrap();
    assert_eq!(answers, ["on", "on", "on", "UTF8"]);
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let folder = open_folder();
    let cluster = Cluster::start(folder.path()).unwrap();
    let url = cluster.url(DATABASE).expose().replace("tako:", "tako:x");
    assert!(PgConnection::connect(&url).await.is_err());
    for secret in ["password", "log"] {
        let mode = fs::metadata(cluster.folder().join(secret)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[tokio::test]
async fn what_was_committed_survives_kill_9_of_the_postmaster() {
    let folder = open_folder();
    let cluster = Cluster::start(folder.path()).unwrap();
    let mut connection = PgConnection::connect(cluster.url(DATABASE).expose()).await.unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 'kept' AS v").execute(&mut connection).await.unwrap();
    let (url, pid) = (cluster.url(DATABASE), cluster.postmaster().pid);
    kill_9(pid);
    assert!(eventually(|| is_gone(folder.path())));

    let again = Cluster::start(folder.path()).unwrap();
    assert!(!again.is_new());
    assert_ne!(again.postmaster().pid, pid);
    assert_eq!(again.url(DATABASE), url, "the port is remembered");
    assert_eq!(ask(&again, DATABASE, "SELECT v FROM t").await, "kept");
}

#[test]
fn many_at_once_get_the_same_cluster() {
    let folder = open_folder();
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let up = || Cluster::up(folder.path()).unwrap().postmaster().pid;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(up)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert!(matches!(Cluster::down(folder.path(), true).unwrap(), State::Running(_)));
    assert_eq!(Cluster::state(folder.path()).unwrap(), State::Absent);
}

#[test]
fn a_folder_closed_to_the_database_user_is_left_for_another() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let cluster = Cluster::start(folder.path()).unwrap();
    let place = cluster.folder().to_path_buf();
    // Only root hands the database to another user.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    assert_eq!(place != folder.path(), is_root);
    drop(cluster);
    assert_eq!(place.exists(), !is_root, "nobody else would delete it");
}

#[test]
fn a_taken_port_is_not_insisted_on() {
    let folder = open_folder();
    let first = Cluster::start(folder.path()).unwrap();
    let port = first.postmaster().port;
    drop(first);
    assert!(is_gone(folder.path()));
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let second = Cluster::start(folder.path()).unwrap();
    assert_ne!(second.postmaster().port, port);
}

#[test]
fn a_folder_left_half_made_is_made_anew() {
    let folder = open_folder();
    drop(Cluster::start(folder.path()).unwrap());
    let cluster = folder.path().join("cluster");
    fs::rename(cluster.join("data"), cluster.join("data.new")).unwrap();
    fs::remove_file(cluster.join("data.new/PG_VERSION")).unwrap();
    assert!(Cluster::start(folder.path()).unwrap().is_new());
}

#[tokio::test]
async fn databases_are_made_empty_or_as_copies() {
    let folder = open_folder();
    let cluster = Cluster::start(folder.path()).unwrap();
    let first = cluster.create_database("first", None).unwrap();
    let mut connection = PgConnection::connect(first.expose()).await.unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 'copied' AS v").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    cluster.create_database("second", Some("first")).unwrap();
    assert_eq!(ask(&cluster, "second", "SELECT v FROM t").await, "copied");
    let twice = cluster.create_database("first", None).unwrap_err();
    assert!(twice.to_string().contains("already exists"), "{twice}");
}

#[test]
fn a_killed_owner_takes_its_cluster_along() {
    const NAME: &str = "dev::a_killed_owner_takes_its_cluster_along";
    const FOLDER: &str = "TAKO_VM_TEST_CLUSTER";
    // The owner is this same test in another process.
    if let Some(folder) = std::env::var_os(FOLDER) {
        let _cluster = Cluster::start(Path::new(&folder)).unwrap();
        println!("\nheld");
        std::thread::park_timeout(Duration::from_secs(600));
        return;
    }
    let folder = open_folder();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "held"));
    assert!(!is_gone(folder.path()));
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(eventually(|| is_gone(folder.path())));
}

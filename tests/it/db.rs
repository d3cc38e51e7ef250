//! A throwaway PostgreSQL cluster for this process, and a migrated database for each test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection};
use tako_vm::store::{Options, Store, migrate};

/// A database of one test's own.
pub struct Db {
    pub store: Store,
    pub options: Options,
    /// As the cluster's superuser, for what the store does not offer.
    pub admin: PgPool,
}

/// A database with every migration, connected.
pub async fn fresh() -> Db {
    fresh_on(cluster()).await
}

/// The same on a cluster of the caller's.
pub async fn fresh_on(cluster: &Cluster) -> Db {
    let options = cluster.options(&cluster.copy_of_template().await);
    let admin = PgPool::connect(&options.url).await.unwrap();
    let store = Store::connect(&options).await.unwrap();
    Db { store, options, admin }
}

/// An empty database: no migration has been run.
pub async fn empty() -> Options {
    let cluster = cluster();
    cluster.options(&cluster.create("template0").await)
}

/// A PostgreSQL server that ends with this process, however it ends.
pub struct Cluster {
    socket: PathBuf,
    databases: AtomicU32,
    /// Owns the server; ends it and removes its folder when this process closes the pipe.
    _guardian: Child,
}

/// The process's cluster. It forgets everything with the process, so it does not wait for disks.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&["fsync=off", "full_page_writes=off"]))
}

const TEMPLATE: &str = "migrated";

impl Cluster {
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("tako-it-").tempdir().unwrap().keep();
        let bin = server_binaries();
        // PostgreSQL refuses to run as root. A signal that reaches the server before its handlers
        // stand is lost, so the guardian repeats it.
        let mut command = if unsafe { libc::geteuid() } == 0 {
            let owner = Command::new("chown").arg("postgres").arg(&folder).status().unwrap();
            assert!(owner.success());
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh", "-c"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.arg("-c");
            command
        };
        let settings: String = settings.iter().map(|setting| format!(" -c {setting}")).collect();
        command.arg(format!(
            "cd / && trap '' INT HUP TERM; \
             '{bin}/initdb' -D '{dir}/data' -U postgres -A trust -E UTF8 --no-sync >'{dir}/initdb.log' 2>&1; \
             '{bin}/postgres' -D '{dir}/data' -k '{dir}' -c listen_addresses= -c max_connections=200 \
             {settings} >'{dir}/server.log' 2>&1 & pid=$!; \
             read _; while kill -QUIT $pid 2>/dev/null; do sleep 0.1; done; rm -rf '{dir}'",
            bin = bin.display(),
            dir = folder.display(),
        ));
        let guardian = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let cluster = Self { socket: folder, databases: AtomicU32::new(0), _guardian: guardian };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(cluster.make_template());
            });
        });
        cluster
    }

    async fn make_template(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut admin = loop {
            match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "server did not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let create = format!("CREATE DATABASE {TEMPLATE}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
        migrate(&self.options(TEMPLATE)).await.unwrap();
    }

    async fn copy_of_template(&self) -> String {
        self.create(TEMPLATE).await
    }

    async fn create(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.unwrap();
        name
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.socket.display())
    }

    fn options(&self, database: &str) -> Options {
        Options { node: "test".into(), ..Options::new(self.url(database)) }
    }
}

/// The folder of PostgreSQL's own programs.
pub fn server_binaries() -> PathBuf {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|dir| has_server(dir));
    versions.pop().or_else(on_path).expect("PostgreSQL's server binaries are installed")
}

fn has_server(dir: &Path) -> bool {
    dir.join("initdb").exists() && dir.join("postgres").exists()
}

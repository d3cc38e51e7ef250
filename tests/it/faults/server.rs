//! A PostgreSQL of a test's own, to be stopped, killed and started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tako_vm::store::{Options, Store, migrate};

use super::is_root;
use crate::db::{self, Db};

/// Ends with the value, or with this process.
pub struct Postgres {
    folder: PathBuf,
    settings: String,
    /// Ends the server and removes the folder when this process closes its pipe.
    guardian: Child,
}

impl Postgres {
    pub fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("tako-pg-").tempdir().unwrap().keep();
        Self::start_in(folder, &[], settings)
    }

    /// The same in a folder that goes with it, and with more arguments for `initdb`.
    pub fn start_in(folder: PathBuf, arguments: &[&str], settings: &[&str]) -> Self {
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&folder).status().unwrap().success());
        }
        let mut initdb = as_owner(&db::server_binaries().join("initdb"));
        initdb.arg("-D").arg(folder.join("data")).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        initdb.args(arguments);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let settings: String = settings.iter().map(|setting| format!(" -c {setting}")).collect();
        let settings = format!("-k {} -c listen_addresses= -c fsync=off{settings}", folder.display());
        let end = format!(
            "trap '' INT HUP TERM; read _; '{ctl}' -D '{dir}/data' -m immediate stop; rm -rf '{dir}'",
            ctl = db::server_binaries().join("pg_ctl").display(),
            dir = folder.display(),
        );
        let guardian = as_owner(Path::new("sh")).args(["-c", &end]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let postgres = Self { folder, settings, guardian: guardian.unwrap() };
        postgres.run();
        postgres
    }

    fn ctl(&self, args: &[&str]) -> bool {
        let mut command = as_owner(&db::server_binaries().join("pg_ctl"));
        // What it starts would keep a pipe open.
        let said = std::fs::File::options().create(true).append(true).open(self.folder.join("ctl.log")).unwrap();
        command.arg("-D").arg(self.folder.join("data")).arg("-l").arg(self.folder.join("log"));
        command.args(["-o", &self.settings]).args(args);
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        command.status().unwrap().success()
    }

    /// Runs it; what an earlier one left in the way goes by itself, in a while.
    pub fn run(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ctl(&["-w", "start"]) {
            assert!(Instant::now() < deadline, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether it runs, however well.
    pub fn is_running(&self) -> bool {
        self.ctl(&["status"])
    }

    /// What it says.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn stop(&self, mode: &str) -> bool {
        self.ctl(&["-m", mode, "-t", "2", "-w", "stop"])
    }

    /// `kill -9` of the postmaster, whose children end when they notice.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        assert!(pid > 1);
        // SAFETY: the process that this test's own pg_ctl started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.display())
    }

    /// Its one database, with every migration.
    pub async fn db(&self) -> Db {
        let options = Options { node: "test".into(), max_connections: 2, ..Options::new(self.url()) };
        migrate(&options).await.unwrap();
        let admin = PgPoolOptions::new().max_connections(2).connect(&options.url).await.unwrap();
        let store = Store::connect(&options).await.unwrap();
        Db { store, options, admin }
    }

    /// Takes every connection there is, those of servers too.
    pub async fn use_up(&self) -> Vec<sqlx::PgConnection> {
        let options: PgConnectOptions = self.url().parse().unwrap();
        let options = options.disable_statement_logging();
        let mut taken = vec![sqlx::PgConnection::connect_with(&options).await.unwrap()];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            while let Ok(connection) = sqlx::PgConnection::connect_with(&options).await {
                taken.push(connection);
            }
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tako-vm'";
            sqlx::query(others).execute(&mut taken[0]).await.unwrap();
        }
        taken
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn as_owner(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

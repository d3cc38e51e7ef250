//! The connection to PostgreSQL, its role and its migrations.

use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

use super::error::Error;
use super::objects::Objects;
use super::payload_keys::Privacy;
use super::row_functions;
use crate::domain::Digest;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The role that may append and may not change what was appended.
const ROLE: &str = "tako_vm_app";

/// Priorities go from 0 to 9.
const PRIORITIES: usize = 10;

/// How long a migration may wait for a lock, with every append behind it.
const LOCK_TIMEOUT: &str = "1s";

/// Between two tries, in which others have their turn.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// How long such a lock is waited for in all.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// How to reach the database.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user@host:port/database`; `?host=/dir` names the folder of a unix socket.
    pub url: String,
    pub max_connections: u32,
    /// How long a statement waits for a free connection.
    pub acquire_timeout: Duration,
    /// As shown in `pg_stat_activity`.
    pub application_name: String,
    /// Who appends, as its notifications say; others tell theirs from their own by it.
    pub node: String,
}

impl Options {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            application_name: "tako-vm".into(),
            node: String::new(),
        }
    }

    fn connect_options(&self) -> Result<PgConnectOptions, Error> {
        let options = PgConnectOptions::from_str(&self.url).map_err(Error::during("read URL"))?;
        Ok(options
            .application_name(&self.application_name)
            .options([
                // A transaction that its program forgot would keep the append lock for ever.
                ("idle_in_transaction_session_timeout", "30s"),
                // A prepared statement keeps the plan it got while the tables were small: without this a
                // young connection reads streams by walking over the whole log, for as long as it lives.
                ("enable_seqscan", "off"),
                ("jit", "off"),
            ])
            .disable_statement_logging())
    }
}

/// A pool of connections to a database with this program's tables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    node: Arc<str>,
    /// What the last claim learned; see `claim_jobs`.
    floors: Arc<Mutex<Vec<i64>>>,
    /// How private payloads are treated; without it they are appended as they are.
    privacy: Option<Privacy>,
    /// Where large blobs are.
    objects: Arc<Objects>,
    /// The largest blob that is not large.
    inline_bytes: u64,
}

/// Blobs up to this size travel with the append, unless it is said otherwise.
const INLINE_BYTES: u64 = 16 << 10;

impl Store {
    /// Connects and checks that the database's migrations are this program's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not answer, [`Error::DatabaseOlder`] and
    /// [`Error::DatabaseNewer`].
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            // A ping before each statement would double its round trips; only what has been idle
            // for a while can have been closed unnoticed.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > Duration::from_secs(1) {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| Box::pin(assume_role(connection)))
            .connect_with(options.connect_options()?)
            .await
            .map_err(Error::during("connect"))?;
        let floors = Arc::new(Mutex::new(vec![0; PRIORITIES]));
        let store = Self {
            pool,
            node: options.node.as_str().into(),
            floors,
            privacy: None,
            objects: Arc::default(),
            inline_bytes: INLINE_BYTES,
        };
        store.check_migrations().await?;
        Ok(store)
    }

    /// The same store, with keys for what is private in events.
    #[must_use]
    pub fn with_privacy(mut self, privacy: Option<Privacy>) -> Self {
        self.privacy = privacy;
        self
    }

    /// The same store, with places for blobs of more than so many bytes.
    #[must_use]
    pub fn with_objects(mut self, objects: Arc<Objects>, inline_bytes: u64) -> Self {
        self.objects = objects;
        self.inline_bytes = inline_bytes;
        self
    }

    /// Where large blobs are.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn inline_bytes(&self) -> u64 {
        self.inline_bytes
    }

    async fn check_migrations(&self) -> Result<(), Error> {
        let program = newest_migration();
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&self.pool)
            .await
            .map_err(Error::during("check migrations"))?;
        let database: i64 = if exists {
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
                .fetch_one(&self.pool)
                .await
                .map_err(Error::during("check migrations"))?
        } else {
            0
        };
        match database.cmp(&program) {
            std::cmp::Ordering::Less => Err(Error::DatabaseOlder { database, program }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Error::DatabaseNewer { database, program }),
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not, within the pool's acquire timeout.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop).map_err(Error::during("ping"))
    }

    /// Whether there is room for more: keeps some pages, and forgets them.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn try_to_grow(&self) -> Result<(), Error> {
        let run = Error::during("try to grow");
        // Bytes that do not compress, and that no page in use has room for.
        let bytes: Vec<u8> = (0..8192).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
        let mut transaction = self.pool.begin().await.map_err(&run)?;
        sqlx::query("INSERT INTO blobs (hash, size, bytes) VALUES ($1, $2, $3)")
            .bind(*Digest::of(&bytes).as_bytes())
            .bind(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
            .bind(&bytes)
            .execute(&mut *transaction)
            .await
            .map_err(&run)?;
        transaction.rollback().await.map_err(&run)
    }

    /// What tells this event log from every other: the database cluster's own identifier and
    /// the database's name.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn installation(&self) -> Result<String, Error> {
        sqlx::query_scalar("SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()")
            .fetch_one(&self.pool)
            .await
            .map_err(Error::during("identify the installation"))
    }

    /// Waits for running statements and closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Who this node is in notifications.
    pub fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn privacy(&self) -> Option<&Privacy> {
        self.privacy.as_ref()
    }

    pub(super) fn floors(&self) -> MutexGuard<'_, Vec<i64>> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// Works as the application's role where there is one and the login may take it.
async fn assume_role(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let may: bool = sqlx::query_scalar(
        "SELECT coalesce((SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles \
         WHERE rolname = $1), false)",
    )
    .bind(ROLE)
    .fetch_one(&mut *connection)
    .await?;
    if may {
        sqlx::query("SET ROLE tako_vm_app").execute(connection).await?;
    }
    Ok(())
}

/// Runs the migrations the database lacks, one program at a time; answers how many. Other nodes go on
/// meanwhile: a migration that cannot have a lock within a second gives way to those behind it, and is
/// tried again, for some minutes.
///
/// # Errors
/// [`Error::DatabaseNewer`] before anything is run; [`Error::Migration`] for one that failed.
pub async fn migrate(options: &Options) -> Result<usize, Error> {
    let began = Instant::now();
    loop {
        match migrate_once(options).await {
            Err(Error::Migration(error)) if is_lock_timeout(&error) && began.elapsed() < LOCK_PATIENCE => {
                tracing::info!("migrations wait for a lock that others hold");
                tokio::time::sleep(LOCK_PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
            }
            result => return result,
        }
    }
}

async fn migrate_once(options: &Options) -> Result<usize, Error> {
    let options = options.connect_options()?.options([("lock_timeout", LOCK_TIMEOUT)]);
    let mut connection = PgConnection::connect_with(&options).await.map_err(Error::during("connect"))?;
    // sqlx takes an advisory lock of its own around the run, and drops it with the connection.
    let before = applied(&mut connection).await?;
    let result = run_all(&mut connection).await;
    let after = applied(&mut connection).await;
    // The work is done or undone by now; how the connection ends changes nothing.
    drop(connection.close().await);
    match result {
        Ok(()) => Ok(after?.0.saturating_sub(before.0)),
        Err(MigrateError::VersionMissing(_)) if before.1 > newest_migration() => {
            Err(Error::DatabaseNewer { database: before.1, program: newest_migration() })
        }
        Err(error) => Err(Error::Migration(Arc::new(error))),
    }
}

async fn run_all(connection: &mut PgConnection) -> Result<(), MigrateError> {
    MIGRATIONS.run_to(row_functions::LAST_BEFORE, &mut *connection).await?;
    row_functions::keep_as_text(connection).await?;
    MIGRATIONS.run(connection).await
}

/// `lock_not_available`, of whatever statement.
fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

/// How many migrations the database has, and the newest.
async fn applied(connection: &mut PgConnection) -> Result<(usize, i64), Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(Error::during("count migrations"))?;
    if !exists {
        return Ok((0, 0));
    }
    let (count, newest): (i64, i64) =
        sqlx::query_as("SELECT count(*), coalesce(max(version), 0) FROM _sqlx_migrations")
            .fetch_one(connection)
            .await
            .map_err(Error::during("count migrations"))?;
    Ok((usize::try_from(count).unwrap_or_default(), newest))
}

fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

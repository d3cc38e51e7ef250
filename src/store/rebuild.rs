//! Making what is derived from the log anew, while the program runs.
//!
//! A rebuild fills tables of its own with the fold of every stream, follows the log until it is
//! close behind its end, and compares its tables with those in use in one snapshot, which it
//! takes while the log stands still. Then it puts them in their place. `migrations/0010` has what
//! is done to the tables, and why it disturbs nobody. The log's lock is held twice, each time for
//! the last few events; nothing else waits.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Transaction};
use uuid::Uuid;

use super::append::StreamKind;
use super::database::Store;
use super::error::Error;
use super::projected::{Folded, TABLES, remove};

/// Events of whole streams that are read and folded together, about.
const PART: i64 = 10_000;

/// Parts that are read, folded and written at the same time. Each takes a connection.
const LANES: usize = 3;

/// So few events may be left when the log is locked.
const NEAR: i64 = 500;

/// How many differing executions are named.
const NAMED: i64 = 100;

/// How long the swap waits, with all appends behind it, for those who read the old tables: the
/// first time, and at most. In between they have time to end.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);
const MOST_PATIENCE: Duration = Duration::from_secs(3);

/// How often the swap is tried.
const ATTEMPTS: u32 = 12;

/// Held as long as a rebuild runs, by its connection: a program that dies lets it go.
pub(super) const REBUILD_LOCK: i64 = 8_386_102_107_227_058_024;

const REBUILD: &str = "rebuild projections";

/// What a rebuild is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilding {
    /// So many events are folded.
    Folding(u64),
    Indexing,
    Comparing,
    Swapping,
}

/// What a rebuild read and found. The new tables are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Of the tables that were made.
    pub version: i64,
    /// Events folded. One that was appended meanwhile may count twice.
    pub events: u64,
    /// Where in the log both versions were compared.
    pub position: i64,
    pub tables: Vec<Compared>,
    /// Executions with rows that were not the fold of their events: missing, different or without
    /// any event. They are right now.
    pub differing: u64,
    /// The first of them, by id.
    pub first_differing: Vec<Uuid>,
    pub took: Duration,
}

impl Rebuilt {
    /// How many executions there were at the position of the comparison.
    pub fn executions(&self) -> u64 {
        self.tables.first().map_or(0, |table| table.rebuilt.rows)
    }
}

/// A table of the version that was in use and of the one that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub table: &'static str,
    pub live: Content,
    pub rebuilt: Content,
}

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Content {
    #[sqlx(try_from = "i64")]
    pub rows: u64,
    /// The exclusive or of a 64-bit hash of each row: whatever their order, equal for equal rows.
    pub digest: i64,
}

impl Store {
    /// Folds every execution from its events into new tables, compares them with those in use,
    /// and puts them in their place. Appends and readers go on. Says what it is doing.
    ///
    /// # Errors
    /// None of them changes anything. [`Error::Corrupt`] for a stream that does not fold;
    /// [`Error::RebuildRunning`]; [`Error::Unavailable`], also when somebody reads the old tables in
    /// a transaction that does not end.
    pub async fn rebuild_projections(&self, progress: &(dyn Fn(Rebuilding) + Send + Sync)) -> Result<Rebuilt, Error> {
        let started = Instant::now();
        let mut holder = self.hold_rebuild().await?;
        let begun = sqlx::query_scalar("SELECT begin_rebuild()").fetch_one(&mut holder).await;
        let version = begun.map_err(Error::during(REBUILD))?;
        let rebuild = Rebuild { store: self, progress, version, checkpoint: 0, events: 0 };
        let rebuilt = rebuild.run(&mut holder, started).await;
        if rebuilt.is_err() {
            // What cannot be dropped now, the next rebuild drops.
            let dropped = sqlx::query("SELECT drop_rebuild($1)").bind(version).execute(&mut holder).await;
            drop(dropped);
        }
        // The work is done or undone by now; how the connection ends changes nothing.
        drop(holder.close().await);
        rebuilt
    }

    /// A connection that no other rebuild can have at the same time.
    async fn hold_rebuild(&self) -> Result<PgConnection, Error> {
        let run = Error::during(REBUILD);
        let mut holder = self.pool().acquire().await.map_err(&run)?.detach();
        // One that was killed a moment ago lets go within this time.
        sqlx::query("SET lock_timeout = '2s'").execute(&mut holder).await.map_err(&run)?;
        match sqlx::query("SELECT pg_advisory_lock($1)").bind(REBUILD_LOCK).execute(&mut holder).await {
            Err(error) if is_lock_timeout(&error) => return Err(Error::RebuildRunning),
            held => held.map_err(&run)?,
        };
        sqlx::query("RESET lock_timeout").execute(&mut holder).await.map_err(run)?;
        Ok(holder)
    }
}

struct Rebuild<'a> {
    store: &'a Store,
    progress: &'a (dyn Fn(Rebuilding) + Send + Sync),
    version: i64,
    /// The tables hold every event up to here, and some behind it.
    checkpoint: i64,
    events: u64,
}

impl Rebuild<'_> {
    async fn run(mut self, holder: &mut PgConnection, started: Instant) -> Result<Rebuilt, Error> {
        self.fill().await?;
        (self.progress)(Rebuilding::Indexing);
        let index = sqlx::query("SELECT index_rebuild($1)").bind(self.version).execute(&mut *holder).await;
        index.map_err(Error::during(REBUILD))?;
        self.catch_up(NEAR).await?;
        (self.progress)(Rebuilding::Comparing);
        let mut rebuilt = self.compare(holder).await?;
        self.catch_up(NEAR).await?;
        (self.progress)(Rebuilding::Swapping);
        self.swap(holder, rebuilt.differing).await?;
        rebuilt.events = self.events;
        rebuilt.took = started.elapsed();
        Ok(rebuilt)
    }

    async fn fill(&mut self) -> Result<(), Error> {
        let (store, version) = (self.store, self.version);
        let end = store.last_position().await?;
        let parts = store.parts(PART).map_ok(|part| async move {
            let folded = store.fold_streams(&part.condition("stream_id")).await?;
            let mut connection = store.pool().acquire().await.map_err(Error::during(REBUILD))?;
            folded.insert(&mut connection, version).await?;
            Ok(folded.events)
        });
        let mut parts = std::pin::pin!(parts.try_buffer_unordered(LANES));
        while let Some(events) = parts.try_next().await? {
            self.folded(events);
        }
        self.reach(end).await
    }

    /// Folds the streams that have grown again, until at most so many events are left.
    async fn catch_up(&mut self, near: i64) -> Result<(), Error> {
        loop {
            let end = self.store.last_position().await?;
            if end - self.checkpoint <= near {
                return Ok(());
            }
            while self.checkpoint < end {
                self.follow(end.min(self.checkpoint + PART)).await?;
            }
        }
    }

    async fn follow(&mut self, to: i64) -> Result<(), Error> {
        let run = Error::during(REBUILD);
        let grown: Vec<Uuid> = sqlx::query_scalar(
            "SELECT DISTINCT stream_id FROM events WHERE position > $1 AND position <= $2 AND stream_kind = $3",
        )
        .bind(self.checkpoint)
        .bind(to)
        .bind(StreamKind::Execution as i16)
        .fetch_all(self.store.pool())
        .await
        .map_err(&run)?;
        if !grown.is_empty() {
            let ids: Vec<_> = grown.iter().map(Uuid::to_string).collect();
            let folded: Folded = self.store.fold_streams(&format!("stream_id = ANY ('{{{}}}')", ids.join(","))).await?;
            let mut transaction = self.store.pool().begin().await.map_err(&run)?;
            remove(&mut transaction, self.version, &grown).await?;
            folded.insert(&mut transaction, self.version).await?;
            transaction.commit().await.map_err(&run)?;
            self.folded(folded.events);
        }
        self.reach(to).await
    }

    fn folded(&mut self, events: u64) {
        self.events += events;
        (self.progress)(Rebuilding::Folding(self.events));
    }

    async fn reach(&mut self, position: i64) -> Result<(), Error> {
        self.checkpoint = position;
        sqlx::query("UPDATE projection_versions SET checkpoint = $2 WHERE version = $1")
            .bind(self.version)
            .bind(position)
            .execute(self.store.pool())
            .await
            .map(drop)
            .map_err(Error::during(REBUILD))
    }

    /// Compares both versions at one position.
    async fn compare(&mut self, holder: &mut PgConnection) -> Result<Rebuilt, Error> {
        let run = Error::during(REBUILD);
        let mut standstill = holder.begin().await.map_err(&run)?;
        sqlx::query("SELECT lock_log()").execute(&mut *standstill).await.map_err(&run)?;
        self.catch_up(0).await?;
        let mut snapshot = self.store.pool().begin().await.map_err(&run)?;
        for statement in [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // Whole tables are read, and this plan is made for them as they are.
            "SET LOCAL enable_seqscan = on",
            // The snapshot is taken by the first query.
            "SELECT 1",
        ] {
            sqlx::query(statement).execute(&mut *snapshot).await.map_err(&run)?;
        }
        standstill.rollback().await.map_err(&run)?;

        let position = self.checkpoint;
        let mut tables = Vec::new();
        for table in TABLES {
            let live = content(&mut snapshot, table.name).await?;
            let rebuilt = content(&mut snapshot, &format!("{}_v{}", table.name, self.version)).await?;
            tables.push(Compared { table: table.name, live, rebuilt });
        }
        let is_same = tables.iter().all(|table| table.live == table.rebuilt);
        let (differing, first_differing) =
            if is_same { (0, Vec::new()) } else { self.differing(&mut snapshot).await? };
        snapshot.rollback().await.map_err(&run)?;
        let version = self.version;
        Ok(Rebuilt { version, events: 0, position, tables, differing, first_differing, took: Duration::ZERO })
    }

    async fn differing(&self, snapshot: &mut PgConnection) -> Result<(u64, Vec<Uuid>), Error> {
        let tables = TABLES.map(|table| {
            let (name, key) = (table.name, table.key.join(", "));
            format!(
                "SELECT execution_id FROM {name} o FULL JOIN {name}_v{} n USING ({key}) \
                  WHERE ROW(o.*) IS DISTINCT FROM ROW(n.*)",
                self.version
            )
        });
        let differing = format!(
            "WITH differing AS ({}) \
             SELECT (SELECT count(*) FROM differing), \
                    ARRAY(SELECT execution_id FROM differing ORDER BY execution_id LIMIT {NAMED})",
            tables.join(" UNION ")
        );
        let (count, first): (i64, Vec<Uuid>) =
            sqlx::query_as(AssertSqlSafe(differing)).fetch_one(snapshot).await.map_err(Error::during(REBUILD))?;
        Ok((count.unsigned_abs(), first))
    }

    async fn swap(&mut self, holder: &mut PgConnection, differing: u64) -> Result<(), Error> {
        let mut patience = FIRST_PATIENCE;
        for left in (0..ATTEMPTS).rev() {
            self.catch_up(NEAR).await?;
            match self.try_swap(holder, differing, patience).await? {
                Ok(()) => return Ok(()),
                Err(error) if left == 0 => return Err(Error::during(REBUILD)(error)),
                Err(_) => tokio::time::sleep(patience).await,
            }
            patience = MOST_PATIENCE.min(patience * 2);
        }
        Ok(())
    }

    /// The inner error is that the tables were not free in time.
    async fn try_swap(
        &mut self,
        holder: &mut PgConnection,
        differing: u64,
        patience: Duration,
    ) -> Result<Result<(), sqlx::Error>, Error> {
        let run = Error::during(REBUILD);
        let mut transaction = holder.begin().await.map_err(&run)?;
        sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.map_err(&run)?;
        self.catch_up(0).await?;
        let patience = format!("SET LOCAL lock_timeout = {}", patience.as_millis());
        sqlx::query(AssertSqlSafe(patience)).execute(&mut *transaction).await.map_err(&run)?;
        let swapped = sqlx::query("SELECT swap_projections($1, $2, $3)")
            .bind(self.version)
            .bind(self.checkpoint)
            .bind(differing.cast_signed())
            .execute(&mut *transaction)
            .await;
        match swapped {
            Ok(_) => transaction.commit().await.map(Ok).map_err(run),
            Err(error) if is_lock_timeout(&error) => {
                transaction.rollback().await.map_err(run)?;
                Ok(Err(error))
            }
            Err(error) => Err(run(error)),
        }
    }
}

async fn content(snapshot: &mut Transaction<'_, Postgres>, table: &str) -> Result<Content, Error> {
    let content =
        format!("SELECT count(*) AS rows, coalesce(bit_xor(hashtextextended(t::text, 0)), 0) AS digest FROM {table} t");
    sqlx::query_as(AssertSqlSafe(content)).fetch_one(&mut **snapshot).await.map_err(Error::during(REBUILD))
}

/// A lock was not to be had in time, or was part of a ring of waits.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

//! The nodes that share the database, and their signs of life.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// A node as it last spoke of itself.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Node {
    pub node_id: Uuid,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    /// How many jobs it runs at once.
    pub slots: i32,
    /// Of the program.
    pub version: String,
    /// `running`, `draining` or `stopped`.
    pub state: String,
    /// `docker`, `native` or `scripted`; empty for one of an older program.
    pub engine: String,
    /// `runc`, `runsc`, `namespaces`.
    pub runtime: String,
    #[sqlx(json)]
    pub labels: BTreeMap<String, String>,
    /// Vendors of GPUs that its sandboxes can have.
    pub gpus: Vec<String>,
    /// Job types whose present image it has.
    pub warm: Vec<String>,
    /// `all`, `api` or `worker`.
    pub role: String,
    /// Where it puts large blobs; `None` for the database.
    pub blob_place: Option<String>,
}

/// A node as the others see it.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Member {
    #[sqlx(flatten)]
    pub node: Node,
    /// Seconds since its last heartbeat.
    pub silent_s: f64,
    /// It said nothing for so long that its jobs are taken from it.
    pub is_dead: bool,
    /// Jobs that it holds.
    pub claimed: i64,
}

/// The nodes that give signs of life, by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct LiveRoles {
    /// Those that answer requests.
    pub answering: i64,
    /// Those that run jobs.
    pub working: i64,
}

/// Whether a node takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Running,
    /// Finishes what it has.
    Draining,
    Stopped,
}

impl NodeState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl Store {
    /// Makes a node known, running from now on. Only then can it claim.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn register_node(&self, node_id: Uuid, slots: u32, version: &str) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO nodes (node_id, slots, version, state) VALUES ($1, $2, $3, 'running') \
             ON CONFLICT (node_id) DO UPDATE SET started_at = clock_timestamp(), \
                 heartbeat_at = clock_timestamp(), slots = $2, version = $3, state = 'running'",
        )
        .bind(node_id)
        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
        .bind(version)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("register node"))
    }

    /// Says what a registered node is for and where it puts large blobs.
    ///
    /// # Errors
    /// As [`Store::heartbeat`].
    pub async fn describe_node(&self, node_id: Uuid, role: &str, blob_place: Option<&str>) -> Result<(), Error> {
        let done = sqlx::query("UPDATE nodes SET role = $2, blob_place = $3 WHERE node_id = $1")
            .bind(node_id)
            .bind(role)
            .bind(blob_place)
            .execute(self.pool())
            .await
            .map_err(Error::during("describe node"))?;
        Error::unless_one(done.rows_affected(), "describe node", "nodes", node_id)
    }

    /// A place, other than this, into which a live node puts large blobs, and that node.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn other_blob_place(&self, place: &str, dead_after: Duration) -> Result<Option<(Uuid, String)>, Error> {
        sqlx::query_as(
            "SELECT node_id, blob_place FROM nodes WHERE state <> 'stopped' AND blob_place <> $1 \
                AND heartbeat_at > now() - make_interval(secs => $2) LIMIT 1",
        )
        .bind(place)
        .bind(dead_after.as_secs_f64())
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("compare blob places"))
    }

    /// How many nodes that gave a sign of life within `dead_after` do what.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn live_roles(&self, dead_after: Duration) -> Result<LiveRoles, Error> {
        sqlx::query_as(
            "SELECT count(*) FILTER (WHERE role <> 'worker') AS answering, \
                    count(*) FILTER (WHERE role <> 'api') AS working \
               FROM nodes WHERE state = 'running' AND heartbeat_at > now() - make_interval(secs => $1)",
        )
        .bind(dead_after.as_secs_f64())
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("count live nodes"))
    }

    /// A sign of life, for all jobs of the node at once; timed by the database, whose time is the answer.
    ///
    /// # Errors
    /// [`Error::Affected`] for a node that is not registered; [`Error::Unavailable`].
    pub async fn heartbeat(&self, node_id: Uuid) -> Result<DateTime<Utc>, Error> {
        // A heartbeat that a dying database forgets is missed by nobody, so it need not reach the disk.
        let beat = "WITH hasty AS (SELECT set_config('synchronous_commit', 'off', true)) \
             UPDATE nodes SET heartbeat_at = clock_timestamp() FROM hasty WHERE node_id = $1 \
             RETURNING heartbeat_at";
        let beaten = sqlx::query_scalar(beat).bind(node_id).fetch_optional(self.pool()).await;
        let beaten: Option<DateTime<Utc>> = beaten.map_err(Error::during("heartbeat"))?;
        Error::unless_one(beaten.iter().count() as u64, "heartbeat", "nodes", node_id)?;
        beaten.ok_or_else(|| Error::corrupt("nodes", node_id, "heartbeat_at", "is missing"))
    }

    /// Says whether a node takes work; also a sign of life.
    ///
    /// # Errors
    /// As [`Store::heartbeat`].
    pub async fn set_node_state(&self, node_id: Uuid, state: NodeState) -> Result<(), Error> {
        let done = sqlx::query("UPDATE nodes SET state = $2, heartbeat_at = clock_timestamp() WHERE node_id = $1")
            .bind(node_id)
            .bind(state.as_str())
            .execute(self.pool())
            .await
            .map_err(Error::during("set node state"))?;
        Error::unless_one(done.rows_affected(), "set node state", "nodes", node_id)
    }

    /// Every node that was ever registered, the latest sign of life first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        sqlx::query_as("SELECT * FROM nodes ORDER BY heartbeat_at DESC")
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list nodes"))
    }

    /// The nodes that gave a sign of life within a day, by the database's clock, the latest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn fleet(&self) -> Result<Vec<Member>, Error> {
        sqlx::query_as(
            "SELECT n.*, extract(epoch FROM clock_timestamp() - n.heartbeat_at)::float8 AS silent_s, \
                    n.state <> 'stopped' AND n.heartbeat_at < clock_timestamp() - make_interval(secs => s.dead_after) \
                        AS is_dead, \
                    (SELECT count(*) FROM queue q WHERE q.lease IS NOT NULL AND q.node_id = n.node_id) AS claimed \
               FROM nodes n, claim_settings s WHERE n.heartbeat_at > clock_timestamp() - interval '1 day' \
              ORDER BY n.heartbeat_at DESC",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list nodes"))
    }

    /// Whether a node that lives has what a job type asks for.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn is_runnable(&self, job_type: &str) -> Result<bool, Error> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM nodes n CROSS JOIN claim_settings s LEFT JOIN job_type_rules u ON u.job_type = $1 \
                 WHERE n.state = 'running' AND n.heartbeat_at > clock_timestamp() - make_interval(secs => s.dead_after) \
                   AND (u.job_type IS NULL OR is_fit(n, u)))",
        )
        .bind(job_type)
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("look for a node that fits"))
    }

    /// The nodes that gave a sign of life within `dead_after`, by the database's clock.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn live_nodes(&self, dead_after: Duration) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "SELECT node_id FROM nodes WHERE state <> 'stopped' AND heartbeat_at > now() - make_interval(secs => $1)",
        )
        .bind(dead_after.as_secs_f64())
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list live nodes"))
    }
}

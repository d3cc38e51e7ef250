//! The nodes that share the database, and their signs of life.

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

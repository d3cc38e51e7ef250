//! Wake-ups from other nodes, by the database's notifications.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use sqlx::postgres::{PgListener, PgNotification};

use super::database::Store;
use super::error::Error;

const CHANNEL: &str = "tako_vm";
const MAX_DELAY: Duration = Duration::from_secs(5);

/// What an append somewhere changed. One stands for a whole batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Wake {
    /// Who appended, as in [`super::Options::node`]; empty for "anybody".
    pub node: String,
    /// Jobs became claimable.
    pub queue: bool,
    /// Executions ended.
    pub ended: bool,
    /// A running job is to be cancelled.
    pub cancel: bool,
    /// Something ended that a job waits for. An older program does not say so.
    #[serde(default)]
    pub dependents: bool,
    /// Somebody watches the output of a job through another node.
    #[serde(default)]
    pub watch: bool,
    /// A node asks others to build.
    #[serde(default)]
    pub build: bool,
}

impl Wake {
    /// Anything may have happened.
    fn everything() -> Self {
        Self { node: String::new(), queue: true, ended: true, cancel: true, dependents: true, watch: true, build: true }
    }

    fn of(notification: &PgNotification) -> Self {
        // A newer program may say it differently; then everything is worth a look.
        serde_json::from_str(notification.payload()).unwrap_or_else(|_| Self::everything())
    }
}

/// Listens for as long as it is asked, whatever happens to the connection.
pub struct Listener {
    store: Store,
    connection: Option<PgListener>,
    delay: Duration,
}

impl Store {
    /// Wake-ups of all nodes. Takes one of the pool's connections for itself.
    pub fn listener(&self) -> Listener {
        Listener { store: self.clone(), connection: None, delay: Duration::ZERO }
    }

    /// A notification by this node about one thing.
    pub(super) fn wake_text(&self, what: &str) -> String {
        // The first four are there for programs that know no others.
        let mut wake = json!({"node": self.node(), "queue": false, "ended": false, "cancel": false});
        wake[what] = true.into();
        wake.to_string()
    }
}

impl Listener {
    /// The next wake-up. After each new connection, the first included, one that says that
    /// anything may have happened, because nobody knows what was missed. Cancel safe.
    pub async fn next(&mut self) -> Wake {
        loop {
            let Some(connection) = &mut self.connection else {
                match self.connect().await {
                    Ok(()) => return Wake::everything(),
                    Err(error) => tracing::warn!(error = %error, "cannot listen for wake-ups"),
                }
                continue;
            };
            match connection.try_recv().await {
                Ok(Some(notification)) => return Wake::of(&notification),
                // The connection was lost.
                Ok(None) => self.connection = None,
                Err(error) => {
                    tracing::warn!(error = %error, "the connection that listens for wake-ups was lost");
                    self.connection = None;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let delay = self.delay;
        // Set before waiting, so that a cancelled call does not shorten the next one's wait.
        self.delay = (delay * 2).clamp(Duration::from_millis(100), MAX_DELAY);
        tokio::time::sleep(delay).await;
        let mut connection =
            PgListener::connect_with(self.store.pool()).await.map_err(Error::during("connect to listen"))?;
        connection.listen(CHANNEL).await.map_err(Error::during("listen"))?;
        self.connection = Some(connection);
        self.delay = Duration::ZERO;
        Ok(())
    }
}

//! What the routes work with.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::audit::Desk;
use super::health;
use super::problem::Problem;
use crate::actors::builder::Builder;
use crate::actors::builds::Builds;
use crate::actors::dlq::Dlq;
use crate::actors::fleet::Fleet;
use crate::actors::intake::Intake;
use crate::actors::job_types::JobTypes;
use crate::actors::live_output::LiveOutput;
use crate::actors::queue::Queue;
use crate::actors::retention::Retention;
use crate::actors::schedules::Schedules;
use crate::actors::submission::Origin;
use crate::actors::vault::Vault;
use crate::actors::waiters::Waiters;
use crate::actors::writes::Writes;
use crate::config::Config;
use crate::domain::{Digest, ExecutionRecord};
use crate::store::{self, Store};

/// Everything a route may reach.
pub struct App {
    pub node_id: Uuid,
    pub config: Arc<Config>,
    pub store: Store,
    /// Where the database is talked to; never on a thread that answers HTTP.
    pub io: runtime::Handle,
    pub intake: Addr<Intake>,
    pub queue: Addr<Queue>,
    pub dlq: Addr<Dlq>,
    pub vault: Addr<Vault>,
    pub schedules: Addr<Schedules>,
    pub retention: Addr<Retention>,
    pub builder: Addr<Builder>,
    pub builds: Arc<Builds>,
    pub waiters: Arc<Waiters>,
    pub live_output: Arc<LiveOutput>,
    /// How many nodes there are.
    pub fleet: Arc<Fleet>,
    /// Whether the database takes writes, as of this node's last ones.
    pub writes: Arc<Writes>,
    pub job_types: Arc<JobTypes>,
    pub health: Arc<dyn health::Probe>,
    /// Where the log is verified, one request at a time.
    pub audit: Arc<Desk>,
    /// Cancelled when the server stops: whoever waits is answered at once.
    pub stopping: CancellationToken,
}

impl App {
    /// Runs a read on the I/O runtime.
    pub async fn read<T, F>(&self, read: impl FnOnce(Store) -> F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, store::Error>> + Send + 'static,
    {
        match self.io.spawn(read(self.store.clone())).await {
            Ok(answer) => Ok(answer?),
            Err(lost) => Err(Problem::defect(&lost)),
        }
    }

    /// How the store of large blobs is, as of the last seconds.
    pub async fn objects_health(&self) -> Result<store::ObjectsHealth, Problem> {
        self.read(|store| async move { Ok(store.objects().health().await) }).await
    }

    /// The tenant's own execution; another tenant's does not exist.
    pub async fn record(&self, origin: &Origin, id: Uuid) -> Result<ExecutionRecord, Problem> {
        let record = self.record_or_expired(origin, id).await?;
        match record.expired_at {
            Some(at) => Err(Problem::expired(id, at)),
            None => Ok(record),
        }
    }

    /// The same, even if its time in the records is over: the stream is still there.
    pub async fn record_or_expired(&self, origin: &Origin, id: Uuid) -> Result<ExecutionRecord, Problem> {
        let stored = self.read(move |store| async move { store.record(id).await }).await?;
        stored
            .map(|stored| stored.record)
            .filter(|record| record.submitted.tenant == origin.tenant)
            .ok_or_else(|| Problem::no_execution(id))
    }

    /// Waits until the execution has ended or the time is over, whichever is first, and answers
    /// with the record of that moment. `patience` says how long, from the record as it is now.
    pub async fn record_at_end(
        &self,
        origin: &Origin,
        id: Uuid,
        patience: impl FnOnce(&ExecutionRecord) -> Duration,
    ) -> Result<ExecutionRecord, Problem> {
        // Before the look at the record, so that an end between the two is not missed.
        let ended = self.waiters.ended(id, Duration::MAX);
        let record = self.record(origin, id).await?;
        let within = patience(&record);
        if record.is_ended() || within.is_zero() {
            return Ok(record);
        }
        tokio::select! {
            _ = tokio::time::timeout(within, ended) => {}
            () = self.stopping.cancelled() => {}
        }
        self.record(origin, id).await
    }

    /// Blobs by hash; one that is no longer kept is absent.
    pub async fn blobs(&self, mut hashes: Vec<Digest>) -> Result<HashMap<Digest, Bytes>, Problem> {
        let empty = Digest::of(b"");
        hashes.sort_unstable();
        hashes.dedup();
        let asks_for_nothing = hashes.contains(&empty);
        hashes.retain(|hash| *hash != empty);
        let mut blobs = match hashes.is_empty() {
            true => HashMap::new(),
            false => self.read(move |store| async move { store.blobs(&hashes).await }).await?,
        };
        if asks_for_nothing {
            blobs.insert(empty, Bytes::new());
        }
        Ok(blobs)
    }
}

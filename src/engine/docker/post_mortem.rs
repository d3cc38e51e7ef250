//! What the daemon knows of a container that ended before its guest could report.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::ContainerState;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions, WaitContainerOptions};
use chrono::DateTime;
use futures::StreamExt;

use super::attached::Diagnosis;
use super::daemon::Daemon;
use crate::engine::Error;

/// How long a container may take to end after its streams did.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the word of an OOM kill may take after the end of the container it killed.
const OOM_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// Adds to a lost session what the daemon and the container's standard error know of it.
pub(super) async fn explain(error: Error, daemon: &Daemon, id: &str, said: &Diagnosis) -> Error {
    let Error::Lost { message, oom_killed } = error else {
        return error;
    };
    // The streams end before the daemon has noted how the container ended.
    let mut end = daemon.docker.wait_container(id, None::<WaitContainerOptions>);
    let _ = tokio::time::timeout(END_TIMEOUT, end.next()).await;
    let oom_killed = oom_killed || died_of_memory(daemon, id).await;
    let said = said.text();
    let message = if said.is_empty() { message } else { format!("{message}; it said: {said}") };
    Error::Lost { message, oom_killed }
}

/// Whether the daemon saw the cgroup's OOM killer; `None` when it does not say.
pub(super) async fn was_oom_killed(daemon: &Daemon, id: &str) -> Option<bool> {
    state(daemon, id).await?.oom_killed
}

async fn died_of_memory(daemon: &Daemon, id: &str) -> bool {
    let Some(state) = state(daemon, id).await else {
        return false;
    };
    if state.oom_killed == Some(true) {
        return true;
    }
    // The kill and the exit reach the daemon by different ways, and the state keeps a kill
    // only if it came first. The event is there in either order.
    const KILLED: i64 = 128 + libc::SIGKILL as i64;
    let began = state.started_at.as_deref().map(DateTime::parse_from_rfc3339);
    let (Some(KILLED), Some(Ok(began))) = (state.exit_code, began) else {
        return false;
    };
    let filters = HashMap::from([("container", vec![id]), ("event", vec!["oom"])]);
    let options = EventsOptionsBuilder::default().since(&began.timestamp().to_string()).filters(&filters).build();
    let mut events = daemon.docker.events(Some(options));
    matches!(tokio::time::timeout(OOM_WORD_TIMEOUT, events.next()).await, Ok(Some(Ok(_))))
}

async fn state(daemon: &Daemon, id: &str) -> Option<ContainerState> {
    let inspect = daemon.docker.inspect_container(id, None::<InspectContainerOptions>);
    daemon.call("inspect", inspect).await.ok()?.state
}

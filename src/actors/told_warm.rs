//! What other nodes know of the images that are here.

use std::sync::Arc;

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::store::Store;

/// Tells the other nodes of which job types this node has the image, when that has changed.
#[derive(Clone)]
pub(super) struct ToldWarm {
    store: Store,
    node_id: Uuid,
    /// Job types, as the other nodes know.
    told: Arc<Mutex<Vec<String>>>,
}

impl ToldWarm {
    pub fn new(store: Store, node_id: Uuid) -> Self {
        Self { store, node_id, told: Arc::default() }
    }

    pub async fn tell(&self, warm: Vec<String>) {
        let mut told = self.told.lock().await;
        if *told != warm {
            match self.store.advertise_warm(self.node_id, &warm).await {
                Ok(()) => *told = warm,
                Err(error) => tracing::debug!(error = %error, "other nodes do not know yet which images are here"),
            }
        }
    }
}

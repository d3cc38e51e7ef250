//! Which images references name, as this node's engine said.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::engine::pool::Pool;
use crate::engine::{self, Image};

/// Images by reference, resolved once each, however many ask at the same time.
#[derive(Default)]
pub(super) struct Images(std::sync::Mutex<HashMap<String, Arc<Mutex<Option<Image>>>>>);

impl Images {
    pub async fn resolve(&self, pool: &Pool, reference: &str) -> Result<Image, engine::Error> {
        self.find(pool, reference, false).await
    }

    /// What the reference names now, whatever it named before.
    pub async fn resolve_anew(&self, pool: &Pool, reference: &str) -> Result<Image, engine::Error> {
        self.find(pool, reference, true).await
    }

    async fn find(&self, pool: &Pool, reference: &str, anew: bool) -> Result<Image, engine::Error> {
        let cell = {
            let mut images = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(images.entry(reference.to_owned()).or_default())
        };
        let mut resolved = cell.lock().await;
        if let Some(image) = resolved.as_ref().filter(|_| !anew) {
            return Ok(image.clone());
        }
        let image = pool.engine().resolve_image(reference).await?;
        *resolved = Some(image.clone());
        Ok(image)
    }

    pub fn is_resolved(&self, reference: &str) -> bool {
        let images = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        images.get(reference).is_some_and(|cell| cell.try_lock().is_ok_and(|image| image.is_some()))
    }
}

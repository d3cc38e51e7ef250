//! What the engine does with layers: makes cells that have one, builds and removes them.

use std::sync::PoisonError;

use super::build;
use super::cell::Cell;
use super::config::Root;
use super::engine::{HOST_IMAGE, NativeEngine, unavailable};
use super::layers::{LAYER, Layers};
use crate::engine::build::{BuildError, BuiltImage, Log, Made, Plan};
use crate::engine::{Engine as _, Error, Image};

impl NativeEngine {
    /// Makes a cell with a layer in its root, or with none.
    pub(super) async fn make_cell(&self, layer: Option<&str>) -> Result<Cell, Error> {
        // Each root has cells of its own; those of roots that nobody wants make room.
        if let Some(surplus) = self.cells.take_surplus(self.config.max_cells) {
            let _ = tokio::task::spawn_blocking(move || surplus.dismantle()).await;
        }
        let mut plan = self.root.plan.clone();
        if let (Some(layer), Some(layers)) = (layer, &self.layers) {
            plan.binds.extend(layers.binds(layer));
        }
        let held = layer.map(|layer| self.cells.hold(layer));
        Cell::make(&self.cells.registry, &self.cells.cgroups, plan, held).await
    }

    /// The digest of the Python of this engine's root.
    pub(super) async fn host_digest(&self) -> Result<String, Error> {
        let known = self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(digest) => Ok(digest),
            None => self.resolve_image(HOST_IMAGE).await.map(|image| image.digest),
        }
    }

    pub(super) fn layers(&self) -> Result<&Layers, Error> {
        self.layers.as_ref().ok_or_else(|| unavailable("it has no folder for packages".to_owned()))
    }

    pub(super) async fn build_layer(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        if self.config.root != Root::Host {
            let advice = "put the packages into the unpacked image of native.root, or leave native.root empty";
            return Err(BuildError::Failed(format!(
                "packages are installed with the host's own Python alone: {advice}"
            )));
        }
        let digest = self.host_digest().await?;
        let host = build::Host { python: &self.root.python_on_host, digest: &digest, layers: self.layers()? };
        let made = build::build(&host, plan, log).await?;
        // Cells with the layer of before see files that are gone.
        self.dismantle(&plan.digest).await;
        Ok(made)
    }

    pub(super) async fn find_layer(&self, digest: &str) -> Result<Option<Image>, Error> {
        let now = self.host_digest().await?;
        let manifest = self.layers.as_ref().and_then(|layers| layers.find(digest));
        let manifest = manifest.filter(|manifest| manifest.base == now);
        Ok(manifest.map(|manifest| Image { reference: format!("{LAYER}{digest}"), digest: manifest.digest }))
    }

    pub(super) async fn remove_layer(&self, built: &BuiltImage) -> Result<bool, Error> {
        self.dismantle(&built.version).await;
        if self.cells.is_held(&built.version) {
            return Ok(false);
        }
        let (layers, version) = (self.layers()?.clone(), built.version.clone());
        let removed = tokio::task::spawn_blocking(move || layers.remove(&version)).await;
        removed.unwrap_or_else(|lost| Err(std::io::Error::other(lost))).map(|()| true).map_err(|source| Error::System {
            context: format!("native engine: cannot remove the layer of {}", built.job_type),
            source,
        })
    }

    /// Ends the waiting cells of a layer.
    async fn dismantle(&self, layer: &str) {
        let cells = self.cells.take_all(layer);
        let _ = tokio::task::spawn_blocking(move || cells.into_iter().for_each(Cell::dismantle)).await;
    }
}

//! The engine of a node that runs nothing.

use async_trait::async_trait;

use super::build::{BuildError, BuiltImage, Log, Made, Plan};
use super::{Engine, Error, Image, Kind, Sandbox, SandboxLabels, SandboxSpec};
use crate::domain::GpuRequest;

/// Has no images and starts no sandbox. What jobs can have is left to the nodes that run them.
#[derive(Debug, Default)]
pub struct Absent;

fn refusal() -> Error {
    Error::Unavailable { engine: Kind::None.as_str(), message: "this node runs no jobs".to_owned(), retry_after: None }
}

#[async_trait]
impl Engine for Absent {
    fn kind(&self) -> Kind {
        Kind::None
    }

    fn runtime(&self) -> &str {
        Kind::None.as_str()
    }

    async fn resolve_image(&self, _: &str) -> Result<Image, Error> {
        Err(refusal())
    }

    fn gpu_refusal(&self, _: &GpuRequest) -> Option<String> {
        None
    }

    async fn base(&self, _: &str, _: bool) -> Result<Option<String>, Error> {
        Ok(None)
    }

    async fn build(&self, _: &Plan, _: &Log) -> Result<Made, BuildError> {
        Err(refusal().into())
    }

    async fn find_built(&self, _: &str, _: &str) -> Result<Option<Image>, Error> {
        Ok(None)
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        Ok(Vec::new())
    }

    async fn remove_built(&self, _: &BuiltImage) -> Result<bool, Error> {
        Ok(false)
    }

    async fn start(&self, _: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        Err(refusal())
    }

    async fn health(&self) -> Result<(), Error> {
        Err(refusal())
    }

    async fn list(&self, _: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn shutdown(&self) {}
}

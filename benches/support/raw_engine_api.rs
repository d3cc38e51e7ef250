//! What a program without sandboxes of its own would do: the reference of every Docker figure.

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use futures::StreamExt;

/// Creates a container for `python3 -c 'print(1)'`, starts it, waits for it, removes it.
pub async fn run(docker: &Docker, image: &str) -> Result<()> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec![]),
        cmd: Some(["python3", "-c", "print(1)"].map(str::to_owned).to_vec()),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
    docker.start_container(&id, None::<StartContainerOptions>).await?;
    let ended = docker.wait_container(&id, None::<WaitContainerOptions>).next().await;
    docker.remove_container(&id, None::<RemoveContainerOptions>).await?;
    ensure!(ended.context("no answer to wait")??.status_code == 0, "the raw job failed");
    Ok(())
}

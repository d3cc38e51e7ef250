//! A job that asks for a GPU where there is none is told so at once, on every engine.

use serde_json::json;
use tako_vm::config::{Gpu, JobType};
use tako_vm::domain::GpuVendor;

use crate::world::{Choice, World, scripted};
use crate::{docker, native};

async fn refuses(choice: Choice, said: &str) {
    let gpu = Gpu { enabled: true, vendor: GpuVendor::Nvidia, ..Gpu::default() };
    let world = World::start_with(
        |config| {
            let job_type = JobType { name: "trained".to_owned(), gpu, ..JobType::default() };
            config.job_types.insert("trained".to_owned(), job_type);
        },
        choice,
    )
    .await;
    let (status, answer) = world.post("/jobs", json!({"code": "print(1)", "job_type": "trained"})).await;
    let detail = answer["detail"].as_str().unwrap();
    assert!(status == 422 && detail.contains("asks for a GPU") && detail.contains(said), "{answer}");
    let (status, answer) = world.post("/job-types/trained/build", json!({})).await;
    assert!(status == 422 && answer["detail"].as_str().unwrap().contains(said), "{answer}");
    let other = world.submit("print 1").await;
    world.ended(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_without_gpus_refuses_a_job_that_asks_for_one() {
    refuses(scripted(), "the scripted engine gives no nvidia GPU").await;
    refuses(native::choice(), "the native engine gives no nvidia GPU").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_engine_without_the_vendors_toolkit_refuses_it_too() {
    refuses(docker::choice().await, "nvidia").await;
}

//! Images found, made and refused.

use std::io::Write;
use std::process::{Command, Stdio};

use tako_vm::engine::build::Base;
use tako_vm::engine::{Engine, Error};
use uuid::Uuid;

use super::{Bench, engine};

#[tokio::test]
async fn a_pinned_image_is_the_same_image() {
    let bench = Bench::new().await;
    let digest = &bench.spec.image.digest;
    assert_eq!(&bench.engine.resolve_image(digest).await.unwrap().digest, digest);
    let again = bench.engine.resolve_image("tako-vm/executor:3.11").await.unwrap();
    assert_eq!(&again.digest, digest);
    let gone = format!("sha256:{}", "0".repeat(64));
    assert!(matches!(bench.engine.resolve_image(&gone).await, Err(Error::Image { .. })));
    bench.end().await;
}

#[tokio::test]
async fn an_image_that_nobody_has_is_refused_by_name() {
    let bench = Bench::new().await;
    for reference in ["tako-vm/no-such-image:1", "tako-vm/executor:latest", "", "Not A Name"] {
        let refused = bench.engine.resolve_image(reference).await;
        assert!(matches!(refused, Err(Error::Image { .. })), "{reference:?}: {refused:?}");
    }
    bench.end().await;
}

#[tokio::test]
async fn many_who_ask_for_an_image_get_the_same() {
    let bench = Bench::new().await;
    let asked = (0..8).map(|_| bench.engine.resolve_image("tako-vm/executor:3.11"));
    for image in futures::future::join_all(asked).await {
        assert_eq!(image.unwrap(), bench.spec.image);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_sandbox_of_a_missing_image_does_not_start() {
    let mut bench = Bench::new().await;
    bench.spec.image.digest = format!("sha256:{}", "0".repeat(64));
    let started = bench.engine.start(&bench.spec).await.map(|_| ());
    assert!(matches!(started, Err(Error::Image { .. })), "{started:?}");
    bench.end().await;
}

#[tokio::test]
async fn the_plain_image_on_a_certain_base_is_had_while_that_base_is_there() {
    let bench = Bench::new().await;
    let reference = "tako-vm/executor:3.11".to_owned();
    let digest = bench.engine.base(&reference, false).await.unwrap();
    assert!(digest.is_some());
    let on = |digest| Base { reference: reference.clone(), digest };
    let image = bench.engine.image_on(&on(digest)).await.unwrap().unwrap();
    assert_eq!(image.digest, bench.spec.image.digest);
    let gone = Some(format!("sha256:{}", "0".repeat(64)));
    assert_eq!(bench.engine.image_on(&on(gone)).await.unwrap(), None);
    bench.end().await;
}

#[tokio::test]
async fn servers_that_share_a_daemon_make_an_image_once() {
    let bench = Bench::new().await;
    let base = bench.engine.base("tako-vm/executor:3.11", false).await.unwrap().unwrap();
    let own = format!("tako-vm-test/base:{}", Uuid::new_v4().simple());
    build(&format!("FROM {base}\nLABEL test={own}\n"), &["-t", &own]);
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(engine().await);
    }
    let made = futures::future::join_all(servers.iter().map(|server| server.resolve_image(&own))).await;
    let made: Vec<_> = made.into_iter().map(|image| image.unwrap().digest).collect();
    let removed = [docker(&["rmi", "-f", &made[0]]), docker(&["rmi", &own])];
    assert!(made.iter().all(|digest| *digest == made[0]), "one lost its name to another: {made:?}");
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    bench.end().await;
}

/// Runs the Docker CLI; answers with what it says on standard output, or else on standard error.
pub fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// Builds an image of a recipe alone; answers with its id.
pub fn build(recipe: &str, options: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.env("DOCKER_BUILDKIT", "0").args(["build", "-q"]).args(options).arg("-");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(recipe.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{recipe}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

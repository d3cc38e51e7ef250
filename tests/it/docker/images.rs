//! Images found, made and refused.

use tako_vm::engine::build::Base;
use tako_vm::engine::{Engine, Error};

use super::Bench;

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

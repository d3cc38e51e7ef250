//! Large blobs in a folder: there before an event names them, verified, and removed with what named them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tako_vm::config::Config;
use tako_vm::domain::Digest;
use tako_vm::store::{Blob, ObjectOptions, ObjectPlace, Objects};
use uuid::Uuid;

use crate::db;
use crate::world::{World, scripted};

/// The files of a folder of blobs, without the folder's name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (folders, _): (Vec<PathBuf>, Vec<PathBuf>) =
        Vec::into_iter(entries(folder)).partition(|path: &PathBuf| path.is_dir());
    folders.iter().flat_map(|folder| -> Vec<PathBuf> { entries(folder) }).collect()
}

fn objects(folder: &Path) -> Arc<Objects> {
    let (into, folder) = (ObjectPlace::Folder, Some(folder.to_owned()));
    Arc::new(Objects::open(&ObjectOptions { into, folder, makes_folder: true, s3: None }).unwrap())
}

fn in_folder(folder: &Path) -> impl Fn(&mut Config) + use<> {
    let folder = folder.to_owned();
    move |config| {
        config.blobs.store = tako_vm::config::BlobStore::Local;
        config.blobs.folder.clone_from(&folder);
        config.blobs.inline = 1 << 10;
    }
}

async fn world(folder: &Path) -> World {
    let mut world = World::start_with(in_folder(folder), scripted()).await;
    world.objects = objects(folder);
    world
}

/// Code of 20 kB that leaves an artifact of 5 kB.
async fn run_large(world: &World) -> Uuid {
    let code = format!("artifact large {}\n{}", "x".repeat(5_000), "# nothing\n".repeat(1_500));
    let id = world.submit(&code).await;
    assert_eq!(world.ended(id).await["status"], "succeeded");
    id
}

async fn artifact(world: &World, url: &str, id: Uuid) -> (u16, Vec<u8>) {
    let answer = world.http.get(format!("{url}/jobs/{id}/artifacts/large")).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

async fn count(world: &World, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&world.db.admin).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_are_files_that_every_node_reads_and_small_ones_are_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = world(folder.path()).await;
    let other = world.join(in_folder(folder.path()), scripted());
    let id = run_large(&world).await;
    assert_eq!(files(folder.path()).len(), 2, "the code and the artifact");
    for url in [world.url.clone(), other] {
        assert_eq!(artifact(&world, &url, id).await, (200, b"x".repeat(5_000)));
    }
    assert_eq!(count(&world, "SELECT count(*) FROM blobs WHERE object IS NULL AND size > 1024").await, 0);
    assert_eq!(count(&world, "SELECT count(*) FROM blobs WHERE object IS NOT NULL AND length(bytes) > 0").await, 0);
    assert!(count(&world, "SELECT count(*) FROM blobs WHERE object IS NULL").await > 0);
    // The same bytes again are the same files.
    run_large(&world).await;
    assert_eq!(files(folder.path()).len(), 2);
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&world, "SELECT count(*) FROM blob_puts").await > 0 {
        assert!(Instant::now() < deadline, "what events name is not settled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_changed_or_are_gone_are_never_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = world(folder.path()).await;
    world.is_checked = false;
    let id = run_large(&world).await;
    let hash = Digest::of(&b"x".repeat(5_000)).to_string();
    let file = files(folder.path()).into_iter().find(|file| file.to_str().unwrap().contains(&hash)).unwrap();
    std::fs::write(&file, b"y".repeat(5_000)).unwrap();
    assert_eq!(artifact(&world, &world.url, id).await.0, 500);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(artifact(&world, &world.url, id).await.0, 500);
    let store = world.store().clone().with_objects(objects(folder.path()), 0);
    let checked = store.check_invariants(true, &|_| {}).await.unwrap();
    assert_eq!(checked.violation_count, 1, "{:#?}", checked.violations);
    assert!(checked.violations[0].what.contains("is lost"), "{:#?}", checked.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_takes_the_files_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = world(folder.path()).await;
    world.keeps_blobs = false;
    let id = run_large(&world).await;
    let (status, done) = world.post(&format!("/executions/{id}/shred"), json!({})).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    assert_eq!(artifact(&world, &world.url, id).await.0, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_puts_left_that_came_to_nothing_is_removed_after_an_hour() {
    let (folder, db) = (tempfile::tempdir().unwrap(), db::fresh().await);
    let store = db.store.clone().with_objects(objects(folder.path()), 0);
    let blob = |text: &str| Blob::new(text.as_bytes().to_vec());
    // Nobody appended an event after any of these.
    let _ = store.put_blobs(&[blob("an old one"), blob("another old one")]).await.unwrap();
    sqlx::query("UPDATE blob_puts SET put_at = put_at - interval '2 hours'").execute(&db.admin).await.unwrap();
    sqlx::query("UPDATE blobs SET created_at = created_at - interval '2 hours'").execute(&db.admin).await.unwrap();
    let _ = store.put_blobs(&[blob("a young one")]).await.unwrap();
    // A node died before it could say that it had put this.
    let lost = store.objects().name().unwrap().to_owned();
    assert!(lost.starts_with("local:"));
    std::fs::create_dir_all(folder.path().join("ab")).unwrap();
    std::fs::write(folder.path().join("ab/lost"), "lost").unwrap();
    sqlx::query(
        "INSERT INTO blob_puts (put_id, hash, object, put_at) \
         VALUES (gen_random_uuid(), decode(repeat('ab', 32), 'hex'), 'local/ab/lost', now() - interval '2 hours')",
    )
    .execute(&db.admin)
    .await
    .unwrap();
    assert_eq!(files(folder.path()).len(), 4);

    let mut world = World::start_on(db, in_folder(folder.path()), scripted());
    world.objects = objects(folder.path());
    let deadline = Instant::now() + Duration::from_secs(20);
    while files(folder.path()).len() > 1 {
        assert!(Instant::now() < deadline, "{:?}", files(folder.path()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let young = store.blob(blob("a young one").hash()).await.unwrap();
    assert_eq!(young.as_deref(), Some(&b"a young one"[..]));
    assert_eq!(store.blob(blob("an old one").hash()).await.unwrap(), None);
    assert_eq!(count(&world, "SELECT count(*) FROM blob_puts").await, 1);
    assert_eq!(count(&world, "SELECT count(*) FROM blobs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_was_taken_for_a_failed_one_begins_anew() {
    let (folder, db) = (tempfile::tempdir().unwrap(), db::fresh().await);
    let store = db.store.clone().with_objects(objects(folder.path()), 0);
    // Every first announcement is given up before its blob is there.
    sqlx::raw_sql(
        "CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF (SELECT count(*) FROM blob_puts) = 0 THEN NEW.doomed := true; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER give_up BEFORE INSERT ON blob_puts FOR EACH ROW EXECUTE FUNCTION give_up()",
    )
    .execute(&db.admin)
    .await
    .unwrap();
    let blob = Blob::new(b"tried twice".to_vec());
    let put = store.put_blobs(std::slice::from_ref(&blob)).await.unwrap();
    assert!(!put.is_empty());
    assert_eq!(store.remove_doomed().await.unwrap(), 1);
    assert_eq!(store.blob(blob.hash()).await.unwrap().as_deref(), Some(&b"tried twice"[..]));
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_folder_does_not_join() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = world(folder.path()).await;
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_tako-vm"))
        .args(["server", "--role", "api", "--port", "0"])
        .env("TAKO_VM_DATABASE_URL", &world.db.options.url)
        .env("TAKO_VM_DATA_DIR", other.path())
        .current_dir(other.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("blobs.folder") && said.contains("postgres always works"), "{said}");
    let (_, health): (u16, Value) = world.get("/health").await;
    assert_eq!(health["blobs"], json!({"store": "local", "available": true, "circuit_open": false}));
}

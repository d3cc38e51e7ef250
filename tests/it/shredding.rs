//! Payloads that nobody can read any more, in a log that verifies all the same.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tako_vm::config::{ApiKey, Config, Scope, Secret};
use tako_vm::domain::Digest;
use tako_vm::store::audit::{Trust, Verification, verify_archives};
use tempfile::TempDir;
use uuid::Uuid;

use crate::world::{World, scripted};

/// A master key, and how a configuration names it.
struct Keeper(TempDir);

impl Keeper {
    fn new() -> Self {
        let keeper = Self(tempfile::tempdir().unwrap());
        let path = keeper.path();
        let made = Command::new(env!("CARGO_BIN_EXE_tako-vm"))
            .args(["audit", "keygen", "--master", "--out", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        keeper
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("master.key")
    }

    fn encrypts(&self) -> impl FnOnce(&mut Config) + use<> {
        let path = self.path();
        move |config| {
            config.retention.encrypt_payloads = true;
            config.retention.master_key_file = path;
            config.retry.base_delay = Duration::from_millis(10);
        }
    }
}

const SECRETS: [&str; 3] = ["tag-secret", "file-secret.txt", "words-secret"];

/// Fails, with a tag, a file and an artifact whose names are secrets.
async fn run_secret(world: &World) -> Uuid {
    let body = json!({
        "code": "print stdout-secret\nartifact words-secret x\nexit 3",
        "tags": {"customer": "tag-secret"},
        "files": {"file-secret.txt": "aGk="},
    });
    let (status, accepted) = world.post("/jobs", body).await;
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["execution_id"].as_str().unwrap().parse().unwrap();
    world.ended(id).await;
    id
}

async fn stored(world: &World) -> String {
    let texts: Vec<String> =
        sqlx::query_scalar("SELECT payload::text FROM events").fetch_all(&world.db.admin).await.unwrap();
    texts.join("\n")
}

async fn shown(world: &World, id: Uuid) -> Value {
    let (status, record) = world.get(&format!("/executions/{id}?view=full")).await;
    assert_eq!(status, 200, "{record}");
    record
}

async fn has_bytes(world: &World, text: &str) -> bool {
    world.store().missing_blobs(&[Digest::of(text.as_bytes())]).await.unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_readable_over_the_api_and_nowhere_in_the_log() {
    let keeper = Keeper::new();
    let world = World::start_with(keeper.encrypts(), scripted()).await;
    let id = run_secret(&world).await;
    let record = shown(&world, id).await;
    assert_eq!((&record["tags"]["customer"], &record["client_ip"]), (&json!("tag-secret"), &json!("127.0.0.1")));
    assert_eq!(record["input_artifacts"][2]["name"], "file-secret.txt", "{record:#}");
    assert_eq!(record["artifacts"][0]["name"], "words-secret", "{record:#}");
    let events = world.get(&format!("/jobs/{id}/events")).await.1.to_string();
    let stored = stored(&world).await;
    for secret in SECRETS {
        assert!(events.contains(secret) && !stored.contains(secret), "{secret}");
    }
    assert!(!stored.contains("127.0.0.1"), "{stored}");
    // Hashes are no secret: lineage finds by them as ever.
    let code = record["code_hash"].as_str().unwrap();
    assert_eq!(world.get(&format!("/code/{code}/executions")).await.1["items"][0]["execution_id"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shredded_execution_is_unreadable_for_good_and_its_chain_valid() {
    let keeper = Keeper::new();
    let world = World::start_with(keeper.encrypts(), scripted()).await;
    let (id, other) = (run_secret(&world).await, run_secret(&world).await);
    let own = world.submit("print only-own").await;
    world.ended(own).await;
    let (status, done) = world.post(&format!("/executions/{own}/shred"), json!({"reason": "asked for"})).await;
    assert_eq!((status, &done["destroyed_keys"], &done["executions"]), (200, &json!(1), &json!(1)), "{done}");
    assert_eq!((&done["removed_blobs"], has_bytes(&world, "print only-own").await), (&json!(2), false));

    let (_, done) = world.post(&format!("/executions/{id}/shred"), json!({})).await;
    assert_eq!(done["removed_blobs"], 0, "the other needs the same bytes: {done}");
    let record = shown(&world, id).await;
    assert!(record["shredded_at"].is_string(), "{record:#}");
    for secret in SECRETS {
        assert!(!record.to_string().contains(secret), "{record:#}");
        assert!(shown(&world, other).await.to_string().contains(secret), "{secret}");
    }
    // What is not private stays.
    let facts = (&record["status"], &record["exit_code"], &record["job_type"]);
    assert_eq!(facts, (&json!("failed"), &json!(3), &json!("default")), "{record:#}");
    assert_eq!(world.event_names(id).await.last(), Some(&"PayloadShredded"));
    let again = world.post(&format!("/executions/{id}/shred"), json!({})).await.1;
    assert_eq!((&again["destroyed_keys"], &again["executions"]), (&json!(0), &json!(0)));
    let verified = world.store().verify_log(&Verification::default(), &|_| {}).await.unwrap();
    assert!(verified.holds(), "{:#?}", verified.faults);
    // A replay would need the bytes.
    let (_, refused) = world.post(&format!("/executions/{own}/replay"), json!({})).await;
    assert_eq!((&refused["verdict"], &refused["cause"]), (&json!("refused"), &json!("blob_gone")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shredded_tenant_is_unreadable_even_in_an_archive_that_verifies() {
    let keeper = Keeper::new();
    let mut world = World::start_with(keeper.encrypts(), scripted()).await;
    let ids = [run_secret(&world).await, run_secret(&world).await];
    let running = world.submit("sleep 20000").await;
    let (status, refused) = world.post("/tenants/default/shred", json!({})).await;
    assert_eq!(status, 409, "{refused}");
    world.post(&format!("/jobs/{running}/cancel"), json!({"reason": "reason-secret"})).await;
    world.ended(running).await;
    let (status, done) = world.post("/tenants/default/shred", json!({"reason": "the contract ended"})).await;
    assert_eq!((status, &done["executions"]), (200, &json!(3)), "{done}");
    for id in ids {
        let record = shown(&world, id).await;
        assert!(record["shredded_at"].is_string() && record["stdout"].is_null(), "{record:#}");
        assert!(SECRETS.iter().all(|secret| !record.to_string().contains(secret)), "{record:#}");
    }
    assert!(!has_bytes(&world, "stdout-secret\n").await);
    // Its next execution is as readable as ever.
    let next = run_secret(&world).await;
    assert_eq!(shown(&world, next).await["tags"]["customer"], "tag-secret");
    world.stop_first(Duration::from_secs(5)).await;
    let mut archive = Vec::new();
    world.store().export_archive(0, &mut archive).await.unwrap();
    let verified = verify_archives([archive.as_slice()], &Trust::default(), &|_| {}).unwrap();
    assert!(verified.holds() && verified.events > 10, "{:#?}", verified.faults);
    let archive = String::from_utf8(archive).unwrap();
    assert!(archive.contains("TenantShredded") && SECRETS.iter().all(|secret| !archive.contains(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_master_key_reads_everything_but_what_is_private() {
    let keeper = Keeper::new();
    let mut world = World::start_with(keeper.encrypts(), scripted()).await;
    let id = run_secret(&world).await;
    world.url = world.join(|_| {}, scripted());
    let record = shown(&world, id).await;
    assert_eq!((&record["status"], &record["tags"]), (&json!("failed"), &json!({})));
    assert!(record["shredded_at"].is_null());
    // And with another key it says what is wrong, to the operator's log alone.
    let stranger = Keeper::new();
    world.url = world.join(stranger.encrypts(), scripted());
    assert_eq!(world.get(&format!("/executions/{id}")).await.0, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_encryption_the_bytes_go_and_the_answer_says_that_no_key_did() {
    let world = World::start().await;
    let id = run_secret(&world).await;
    let output = {
        let url = world.url.clone();
        let run = move || {
            Command::new(env!("CARGO_BIN_EXE_tako-vm"))
                .args(["audit", "shred", "--execution", &id.to_string(), "--reason", "why not", "--url", &url])
                .output()
                .unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("0 keys destroyed") && said.contains("stays readable"), "{said}");
    assert!(!has_bytes(&world, "stdout-secret\n").await);
    assert!(shown(&world, id).await["shredded_at"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_needs_an_administrator() {
    let key = |name: &str, scopes| ApiKey {
        name: name.to_owned(),
        sha256: Secret::new(Digest::of(name.as_bytes()).to_string()),
        tenant: "acme".to_owned(),
        scopes,
    };
    let configure = |config: &mut Config| {
        config.api_keys = vec![key("worker", vec![Scope::Submit, Scope::Read]), key("chief", vec![Scope::Admin])];
    };
    let world = World::start_with(configure, scripted()).await;
    for (name, status) in [("worker", 403), ("chief", 200)] {
        let asked = world.http.post(format!("{}/tenants/acme/shred", world.url)).bearer_auth(name).send().await;
        assert_eq!(asked.unwrap().status().as_u16(), status, "{name}");
    }
}

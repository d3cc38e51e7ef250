//! Large blobs in a bucket of a real server that speaks S3: moto's, installed from PyPI into a virtual
//! environment of its own. Where it cannot be had the test says so by name.
//!
//! `TAKO_VM_TEST_S3=http://host:port` takes a server that runs, with the bucket `jobs` and the keys
//! `test` and `test`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tako_vm::config::{BlobStore, Config, Secret};
use tako_vm::store::{ObjectOptions, ObjectPlace, Objects, S3Options, SecretText};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::world::{World, scripted};

/// The server, which ends with the value.
struct S3 {
    process: Option<Child>,
    address: String,
}

impl S3 {
    /// `None` where the server cannot be had; it said why.
    async fn start() -> Option<Self> {
        if let Ok(url) = std::env::var("TAKO_VM_TEST_S3") {
            return Some(Self { process: None, address: url.trim_start_matches("http://").to_owned() });
        }
        let program = match tokio::task::spawn_blocking(installed).await.unwrap() {
            Ok(program) => program,
            Err(reason) => {
                println!("SKIPPED cluster::s3: no S3 server can be had here: {reason}");
                return None;
            }
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { process: Some(process), address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(120);
        let http = reqwest::Client::new();
        // Any credentials make a bucket there.
        while !http
            .put(format!("http://{}/jobs", server.address))
            .header("authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(Instant::now() < deadline, "the S3 server does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Some(server)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The server's program, installed once for all runs.
fn installed() -> Result<PathBuf, String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("moto");
    let program = folder.join("bin/moto_server");
    let done = folder.join("done");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&folder);
        let run = |command: &mut Command| {
            let output = command.output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--timeout", "20", "moto[server]==5.*"]))?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(program)
}

/// A way to the server that a test can cut.
struct Way {
    address: String,
    open: watch::Sender<bool>,
}

impl Way {
    async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, is_open) = watch::channel(true);
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (server, mut is_open) = (server.clone(), is_open.clone());
                tokio::spawn(async move {
                    if !*is_open.borrow() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_blobs_and_its_outage_loses_nothing() {
    let Some(server) = S3::start().await else { return };
    let way = Way::to(&server.address).await;
    let endpoint = format!("http://{}", way.address);
    let configure = {
        let endpoint = endpoint.clone();
        move |config: &mut Config| {
            config.blobs.store = BlobStore::S3;
            config.blobs.inline = 1 << 10;
            config.blobs.s3 = tako_vm::config::S3 {
                endpoint: endpoint.clone(),
                region: "us-east-1".to_owned(),
                bucket: "jobs".to_owned(),
                prefix: "a/b".to_owned(),
                access_key_id: "test".to_owned(),
                secret_access_key: Secret::new("test"),
                allow_http: true,
                ..Default::default()
            };
        }
    };
    let mut world = World::start_with(configure.clone(), scripted()).await;
    let other = world.join(configure, scripted());
    let s3 = S3Options {
        endpoint,
        region: "us-east-1".to_owned(),
        bucket: "jobs".to_owned(),
        prefix: "a/b".to_owned(),
        access_key_id: "test".to_owned(),
        secret_access_key: SecretText("test".to_owned()),
        allow_http: true,
    };
    let options = ObjectOptions { into: ObjectPlace::S3, s3: Some(s3), ..ObjectOptions::default() };
    world.objects = std::sync::Arc::new(Objects::open(&options).unwrap());
    world.keeps_blobs = false;

    let large = |text: &str| format!("artifact large {}", text.repeat(3_000));
    let id = world.submit(&large("a")).await;
    assert_eq!(world.ended(id).await["status"], "succeeded");
    let artifact = async |url: &str, id| {
        let answer = world.http.get(format!("{url}/jobs/{id}/artifacts/large")).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    for url in [&world.url, &other] {
        let (status, bytes) = artifact(url, id).await;
        assert_eq!((status, &bytes[..]), (200, &b"a".repeat(3_000)[..]));
    }
    let listed = async || {
        let url = format!("http://{}/jobs?list-type=2&prefix=a/b/", server.address);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        text.matches("<Key>").count()
    };
    assert_eq!(listed().await, 2, "the code and the artifact");

    // A job that began before the outage ends after it, with all that it left.
    let running = world.submit("sleep 1500\nartifact large %n%n%n\nprint done").await;
    let big = world.submit(&format!("sleep 1500\n{}", large("b"))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    way.open.send_replace(false);
    let (status, problem) = world.post("/jobs", json!({"code": large("c")})).await;
    assert_eq!(status, 503, "{problem}");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, problem) = world.get("/readyz").await;
        if status == 503 {
            assert!(problem["detail"].as_str().unwrap().contains("object store"), "{problem}");
            break;
        }
        assert!(Instant::now() < deadline, "nobody tells that the object store is down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.get("/health").await.1["blobs"]["available"], false);
    // Small ones need no store.
    assert_eq!(world.ended(running).await["status"], "succeeded");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.get(&format!("/executions/{big}")).await.1["status"], "running");
    way.open.send_replace(true);
    assert_eq!(world.ended(big).await["status"], "succeeded");
    assert_eq!(world.get("/readyz").await.0, 200);
    assert_eq!(artifact(&world.url, big).await.0, 200);
    world.check(big).await;

    for id in [id, big] {
        let (status, done) = world.post(&format!("/executions/{id}/shred"), json!({})).await;
        assert_eq!(status, 200, "{done}");
    }
    // What was refused may have left the announcement of an object, never a blob without one.
    assert_eq!(listed().await, 0, "shredded bytes are in the bucket");
}

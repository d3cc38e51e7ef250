//! The disk with the server's own log is full.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::demand_invariants;
use crate::db;

/// Ends with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_its_log_works_on() {
    let db = db::fresh().await;
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("address");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command
        .args(["server", "--port", "0", "--address-file", address.to_str().unwrap()])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env("TAKO_VM_DATABASE_URL", &db.options.url)
        .env("TAKO_VM_DATA_DIR", folder.path().join("data"))
        .env("TAKO_VM_ENGINE", "native")
        .env("TAKO_VM_LOG__LEVEL", "debug")
        .env("TAKO_VM_AUDIT__SEAL_EVERY", "0.2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().write(true).open("/dev/full").unwrap());
    let server = Server(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    let url = loop {
        match std::fs::read_to_string(&address) {
            Ok(address) if !address.is_empty() => break format!("http://{address}"),
            _ => assert!(Instant::now() < deadline, "the server does not start"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    for number in 0..5 {
        let body = json!({"code": format!("print({number})")});
        let answer: Value = http.post(format!("{url}/execute")).json(&body).send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["success"], &answer["stdout"]), (&json!(true), &json!(format!("{number}\n"))), "{answer}");
    }
    while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM seals").fetch_one(&db.admin).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "nothing is sealed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(server);
    demand_invariants(&db.options.url, false);
}

//! `tako-vm audit` as an auditor uses it, with a database and then without one.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use crate::world::{World, scripted};

/// A folder with a configuration for the world's database, whose key signs the world's seals.
struct Auditor {
    folder: TempDir,
    url: String,
}

impl Auditor {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: String::new() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_other("audit", args)
    }

    fn run_other(&self, subcommand: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        command.arg(subcommand).args(args).current_dir(self.folder.path()).env("HOME", self.folder.path());
        command.env("TAKO_VM_DATA_DIR", self.folder.path().join("data"));
        command.env("TAKO_VM_DATABASE_URL", &self.url);
        command.output().unwrap()
    }

    #[track_caller]
    fn says(&self, code: i32, args: &[&str]) -> String {
        Self::said(&self.run(args), code, args)
    }

    #[track_caller]
    fn said(output: &Output, code: i32, args: &[&str]) -> String {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{told}");
        said + &told
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_finds_what_was_done_to_the_log() {
    let mut auditor = Auditor::new();
    auditor.says(0, &["keygen"]);
    assert!(auditor.says(1, &["keygen"]).contains("exists"));
    let data_dir = auditor.folder.path().join("data");
    let mut world = World::start_with(
        |config| {
            config.data_dir = data_dir;
            config.audit.seal_every = Duration::from_millis(100);
        },
        scripted(),
    )
    .await;
    // What is done to this log must not hold.
    world.is_checked = false;
    auditor.url = world.db.options.url.clone();
    let (one, two) = (world.submit("print(1)").await, world.submit("print(2)").await);
    world.ended(one).await;
    world.ended(two).await;
    let url = format!("{}/executions/{one}/proof", world.url);
    let proof = loop {
        let text = world.http.get(&url).send().await.unwrap().text().await.unwrap();
        if !text.contains("\"seal_no\":null") {
            break text;
        }
    };
    world.stop_first(Duration::from_secs(5)).await;
    tokio::task::spawn_blocking(move || audit(&auditor, &proof, &world)).await.unwrap();
}

fn audit(auditor: &Auditor, proof: &str, world: &World) {
    // A node seals all there is when it stops.
    let said = auditor.says(0, &["verify", "--projections"]);
    assert!(said.ends_with("OK\n") && !said.contains("not sealed yet"), "{said}");
    look_after(auditor, world);
    auditor.says(0, &["anchor", "--out", "seal.json"]);
    auditor.says(0, &["export", "--events", "--out", "log.ndjson"]);
    for against in ["seal.json", "log.ndjson"] {
        auditor.says(0, &["verify", "--against", against]);
    }
    let exported = std::fs::read_to_string(auditor.path("log.ndjson")).unwrap();
    let positions: Vec<_> = exported
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]["position"].as_i64())
        .collect();
    assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>());
    assert!(positions.len() >= 8);

    // Offline, with nothing but the public key.
    let key = auditor.path("data/audit.key.pub");
    archive_verifies_offline(auditor, &exported, &key);
    std::fs::write(auditor.path("proof.json"), proof).unwrap();
    let offline = Auditor { folder: tempfile::tempdir().unwrap(), url: "postgres://nobody@127.0.0.1:1/none".into() };
    let file = auditor.path("proof.json");
    assert!(offline.says(0, &["proof-check", &file, "--public-key", &key]).contains("PROVEN"));
    std::fs::write(auditor.path("altered.json"), proof.replacen("JobDequeued", "JobRejected", 1)).unwrap();
    let said = offline.says(1, &["proof-check", &auditor.path("altered.json"), "--public-key", &key]);
    assert!(said.contains("REFUTED") && said.contains("version 2"), "{said}");
    offline.says(0, &["keygen", "--out", "other.key"]);
    let said = offline.says(1, &["proof-check", &file, "--public-key", "other.key.pub"]);
    assert!(said.contains("not trusted"), "{said}");
    open_key_is_refused(auditor);

    tamper(world, "UPDATE events SET actor = 'somebody else' WHERE position = 3");
    let said = auditor.says(1, &["verify"]);
    assert!(said.contains("FIRST BAD  position 3, stream ") && said.ends_with("NOT OK\n"), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&auditor.run(&["verify", "--json"]).stdout).unwrap();
    assert_eq!((&answer["ok"], &answer["first_bad"]["position"]), (&false.into(), &3.into()));

    tamper(world, "DELETE FROM events WHERE position >= 3");
    tamper(world, "DELETE FROM seals");
    auditor.says(0, &["verify"]);
    let said = auditor.says(1, &["verify", "--against", "seal.json"]);
    assert!(said.contains("its tail was cut off"), "{said}");
}

/// Every event of the archive is a row, with the very texts and bytes.
fn becomes_parquet(offline: &Auditor, archive: &str, exported: &str) {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};
    let value = |row: &Row, name: &str| {
        let (_, field) = row.get_column_iter().find(|(column, _)| *column == name).unwrap();
        match field {
            Field::Null => serde_json::Value::Null,
            Field::Int(number) => (*number).into(),
            Field::Long(number) => (*number).into(),
            Field::Str(text) => text.as_str().into(),
            other => panic!("{name} is {other}"),
        }
    };
    offline.says(0, &["parquet", archive, "--out", "log.parquet"]);
    let reader = SerializedFileReader::new(std::fs::File::open(offline.path("log.parquet")).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let lines = exported.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let events: Vec<_> = lines.filter_map(|mut line| line.get_mut("event").map(serde_json::Value::take)).collect();
    assert!(events.len() > 3);
    assert_eq!(rows.len(), events.len());
    for (row, event) in rows.iter().zip(&events) {
        let fields = ["position", "stream_id", "stream_kind", "version", "event_id", "type", "schema_version", "actor"];
        for field in fields.iter().chain(&["correlation_id", "causation_id", "payload"]) {
            assert_eq!(value(row, field), event[*field], "{field}");
        }
    }
    assert!(offline.says(1, &["parquet", "log.parquet", "--out", "none"]).contains("cannot read"));
}

fn archive_verifies_offline(auditor: &Auditor, exported: &str, key: &str) {
    let offline = Auditor { folder: tempfile::tempdir().unwrap(), url: "postgres://nobody@127.0.0.1:1/none".into() };
    let file = auditor.path("log.ndjson");
    let anchor = auditor.path("seal.json");
    let said = offline.says(0, &["verify", "--archive", &file, "--public-key", key, "--against", &anchor]);
    assert!(said.ends_with("OK\n"), "{said}");
    let altered = exported.replacen("\"type\":\"JobDequeued\"", "\"type\":\"JobRejected\"", 1);
    assert_ne!(altered, exported);
    std::fs::write(offline.path("altered.ndjson"), altered).unwrap();
    let said = offline.says(1, &["verify", "--archive", "altered.ndjson", "--public-key", key]);
    assert!(said.contains("FIRST BAD  position ") && said.contains("not what its hash was made of"), "{said}");
    offline.says(0, &["keygen", "--out", "stranger.key"]);
    let said = offline.says(1, &["verify", "--archive", &file, "--public-key", "stranger.key.pub"]);
    assert!(said.contains("not trusted"), "{said}");
    assert!(offline.says(1, &["verify", "--archive", "none.ndjson", "--public-key", key]).contains("cannot read"));
    becomes_parquet(&offline, &file, exported);
}

/// What else is derived from the log, and what it must be.
fn look_after(auditor: &Auditor, world: &World) {
    let says = |code, subcommand: &str, args: &[&str]| Auditor::said(&auditor.run_other(subcommand, args), code, args);
    assert!(says(0, "doctor", &["--invariants"]).contains("OK: "));
    // The audit before has rebuilt them once.
    let said = says(0, "projections", &["status"]);
    assert!(said.contains("version      2, in use since") && said.contains("lag 0"), "{said}");
    tamper(world, "UPDATE executions SET status = 'failed'");
    let said = says(1, "doctor", &["--invariants"]);
    assert!(said.contains("executions has it as failed") && said.contains("NOT OK: 2"), "{said}");
    let answer = auditor.run_other("doctor", &["--invariants", "--json"]).stdout;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&answer).unwrap()["violation_count"], 2);
    let said = says(1, "projections", &["rebuild"]);
    assert!(said.contains("DIFFERENT") && said.contains("2 executions had rows that were not"), "{said}");
    assert!(says(0, "projections", &["rebuild"]).contains("version 4 is in use"));
    assert!(says(0, "doctor", &["--invariants"]).contains("OK: "));
}

fn open_key_is_refused(auditor: &Auditor) {
    use std::os::unix::fs::PermissionsExt as _;
    let key = auditor.path("data/audit.key");
    let set = |mode| std::fs::set_permissions(Path::new(&key), std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o644);
    assert!(auditor.says(1, &["verify"]).contains("chmod 600"));
    set(0o600);
}

/// As the superuser who has taken the triggers off.
fn tamper(world: &World, statement: &'static str) {
    let url = world.db.options.url.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let admin = sqlx::PgPool::connect(&url).await.unwrap();
        for table in ["events", "seals"] {
            let disable = format!("ALTER TABLE {table} DISABLE TRIGGER ALL");
            sqlx::query(AssertSqlSafe(disable)).execute(&admin).await.unwrap();
        }
        assert!(sqlx::query(statement).execute(&admin).await.unwrap().rows_affected() > 0);
        admin.close().await;
    });
}

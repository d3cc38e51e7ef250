//! What a client does, so that every step of the service is taken at some time.
//!
//! Each story can be told again from its beginning after the server died in its middle.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::kill_sandboxes;
use super::life::{Dead, Life};
use crate::past::{Past, age};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    Starts,
    Works,
    Follows,
    IsScheduled,
    IsPaused,
    Fails,
    TimesOut,
    Hoards,
    IsCancelled,
    LosesItsNode,
    LosesItsSandbox,
    IsReplayed,
    GetsSecrets,
    GoesOut,
    IsDefined,
    IsBuilt,
    IsNotBuilt,
    MakesRoom,
    Expires,
    IsShredded,
    Stops,
    IsReady,
    FindsOrphans,
}

impl Story {
    /// In which a step is taken.
    pub fn of(step: &str) -> Self {
        match step {
            "append:NodeStarted" | "engine:list" => Self::Starts,
            "append:DependenciesDeclared" | "append:DependenciesMet" => Self::Follows,
            "append:JobTypePaused" | "append:JobTypeResumed" => Self::IsPaused,
            step if step.starts_with("append:Schedule") || step == "append:JobScheduled" => Self::IsScheduled,
            "append:ExecutionFailed" => Self::Fails,
            "append:ExecutionTimedOut" => Self::TimesOut,
            "append:ExecutionOutOfMemory" => Self::Hoards,
            "append:CancelRequested" | "append:ExecutionCancelled" => Self::IsCancelled,
            "append:LeaseExpired" => Self::LosesItsNode,
            "append:RetryScheduled" | "append:JobDeadLettered" => Self::LosesItsSandbox,
            "append:DeadLetterRequeued" | "append:DeadLetterDiscarded" => Self::LosesItsSandbox,
            "append:ReplayVerdictRecorded" => Self::IsReplayed,
            "append:SecretsDelivered" | "append:SecretSet" | "append:SecretRemoved" => Self::GetsSecrets,
            "append:EgressObserved" => Self::GoesOut,
            "append:JobTypeDefined" => Self::IsDefined,
            "append:BuildRequested" | "append:BuildStarted" | "append:BuildSucceeded" => Self::IsBuilt,
            "engine:build" | "engine:find_built" | "engine:base" => Self::IsBuilt,
            "append:BuildFailed" => Self::IsNotBuilt,
            "engine:built" | "engine:remove_built" => Self::MakesRoom,
            "append:ExecutionExpired" | "append:RetentionApplied" => Self::Expires,
            "append:PayloadShredded" | "append:TenantShredded" => Self::IsShredded,
            "append:NodeDraining" | "append:NodeStopped" => Self::Stops,
            "engine:destroy" | "engine:shutdown" => Self::Stops,
            "engine:health" => Self::IsReady,
            "engine:remove" => Self::FindsOrphans,
            "append:JobSubmitted" | "append:JobDequeued" | "append:ExecutionStarted" => Self::Works,
            "append:ExecutionSucceeded" | "engine:resolve_image" | "engine:start" => Self::Works,
            "engine:run" | "engine:collect" | "store:claim" | "store:put_blobs" | "store:seal" => Self::Works,
            step => panic!("{step}: no story takes this step; tell one"),
        }
    }

    /// Whether the bytes that events name must be there at the end.
    pub fn keeps_blobs(self) -> bool {
        !matches!(self, Self::Expires | Self::IsShredded)
    }

    /// Settings beside those that every story has.
    pub fn settings(self, folder: &str) -> String {
        match self {
            Self::Stops => "pool: {min_idle: 1, max_idle: 1}\n".to_owned(),
            Self::GetsSecrets => format!("secrets: {{key: {}}}\n", "5a".repeat(32)),
            Self::GoesOut => "job_types:\n  online: {network: {enabled: true, allow: [example.com]}}\n".to_owned(),
            Self::Hoards => "job_types:\n  small: {memory_limit: 64m}\n".to_owned(),
            Self::IsBuilt => format!("job_types:\n  lib: {{shared_code: {folder}/lib}}\n"),
            Self::MakesRoom => "build: {disk_budget: 1}\n".to_owned(),
            Self::IsNotBuilt => "build: {index_url: 'http://127.0.0.1:9/simple', network: none}\n\
                 job_types:\n  broken: {requirements: [no-such-package-of-tako==9]}\n"
                .to_owned(),
            Self::Expires => "retention: {every: 0.2}\n".to_owned(),
            Self::IsShredded => {
                format!("retention: {{encrypt_payloads: true, master_key_file: {folder}/master.key}}\n")
            }
            _ => String::new(),
        }
    }

    /// What must be there before the server that dies is started.
    pub async fn prepare(self, life: &mut Life, folder: &std::path::Path) {
        match self {
            Self::LosesItsNode => {
                life.node.start();
                let id = life.job("lost", json!({"code": SLEEPS_ONCE})).await.unwrap();
                life.becomes(id, &["running"]).await.unwrap();
                life.node.kill();
            }
            Self::IsBuilt => {
                std::fs::create_dir(folder.join("lib")).unwrap();
                std::fs::write(folder.join("lib/helpers.py"), "NAME = 'tako'\n").unwrap();
            }
            Self::Expires => {
                age(&life.db).await;
                Past { days: 100, ..Past::default() }.append(&life.db).await;
                sqlx::query("UPDATE blobs SET created_at = now() - interval '400 days'")
                    .execute(&life.db.admin)
                    .await
                    .unwrap();
            }
            Self::IsShredded => {
                let key = folder.join("master.key");
                std::fs::write(&key, "c4".repeat(32)).unwrap();
                std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            _ => {}
        }
    }

    /// Tells it to its end, or to the server's.
    pub async fn tell(self, life: &mut Life) -> Result<(), Dead> {
        match self {
            Self::Starts | Self::FindsOrphans => life.get("/livez").await.map(drop),
            Self::IsReady => life.get("/readyz").await.map(drop),
            Self::Works => expect(life, "works", json!({"code": WORKS}), "succeeded").await,
            Self::Follows => follow(life).await,
            Self::IsScheduled => schedule(life).await,
            Self::IsPaused => {
                for change in ["pause", "resume"] {
                    life.post(&format!("/job-types/default/{change}"), json!({})).await?;
                }
                expect(life, "resumed", json!({"code": WORKS}), "succeeded").await
            }
            Self::Fails => expect(life, "fails", json!({"code": "raise SystemExit(3)"}), "failed").await,
            Self::TimesOut => {
                let body = json!({"code": "import time; time.sleep(60)", "timeout": 1});
                expect(life, "times-out", body, "timeout").await
            }
            Self::Hoards => {
                let body = json!({"code": "x = bytearray(1 << 29)", "job_type": "small"});
                expect(life, "hoards", body, "oom").await
            }
            Self::IsCancelled => cancel(life).await,
            Self::LosesItsNode => expect(life, "lost", json!({"code": SLEEPS_ONCE}), "succeeded").await,
            Self::LosesItsSandbox => lose(life).await,
            Self::IsReplayed => {
                let id = life.job("original", json!({"code": WORKS})).await?;
                life.ended(id).await?;
                life.post(&format!("/executions/{id}/replay"), json!({})).await?;
                life.settled().await
            }
            Self::GetsSecrets => {
                let value = json!({"value": "correct horse battery staple"});
                let (status, answer) = life.ask(Method::PUT, "/secrets/API_KEY", &value).await?;
                assert!(status < 300, "{answer}");
                let body = json!({"code": "print(len(open('/secrets/API_KEY').read()))", "secrets": ["API_KEY"]});
                expect(life, "secretive", body, "succeeded").await?;
                let (status, _) = life.ask(Method::DELETE, "/secrets/API_KEY", &Value::Null).await?;
                assert!(matches!(status, 200 | 404), "{status}");
                Ok(())
            }
            Self::GoesOut => expect(life, "online", json!({"code": WORKS, "job_type": "online"}), "succeeded").await,
            Self::IsDefined => {
                let (status, _) = life.ask(Method::POST, "/job-types", &json!({"name": "other"})).await?;
                assert!(matches!(status, 201 | 409), "{status}");
                assert_eq!(life.get("/job-types/other").await?.0, 200);
                Ok(())
            }
            Self::IsBuilt => {
                life.post("/job-types/lib/build", json!({})).await?;
                let body = json!({"code": "import helpers; print(helpers.NAME)", "job_type": "lib"});
                expect(life, "with-lib", body, "succeeded").await
            }
            Self::IsNotBuilt => {
                let (status, answer) = life.ask(Method::POST, "/job-types/broken/build", &json!({})).await?;
                assert!(status >= 400, "{answer}");
                Ok(())
            }
            Self::MakesRoom => {
                // Each definition is a version, of which only the present one must stay.
                for text in ["A = 1", "A = 2"] {
                    let body = json!({"name": "often", "shared_code": {"a.py": text}});
                    let (status, _) = life.ask(Method::POST, "/job-types", &body).await?;
                    if status == 409 {
                        life.ask(Method::PUT, "/job-types/often", &body).await?;
                    }
                    life.post("/job-types/often/build", json!({})).await?;
                }
                life.post("/images/gc", json!({})).await.map(drop)
            }
            Self::Expires => {
                while life.count("RetentionApplied").await == 0 || life.count("ExecutionExpired").await == 0 {
                    life.get("/livez").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    // A round that died between its work and its word leaves nothing to tell of.
                    if life.count("ExecutionExpired").await > 0 && life.count("NodeStarted").await > 1 {
                        break;
                    }
                }
                Ok(())
            }
            Self::IsShredded => {
                let id = life.job("private", json!({"code": WORKS})).await?;
                life.ended(id).await?;
                life.post(&format!("/executions/{id}/shred"), json!({"reason": "asked for"})).await?;
                life.post("/tenants/default/shred", json!({"reason": "the contract ended"})).await.map(drop)
            }
            Self::Stops => {
                while life.get("/pool/stats").await?.1["warm_pool"]["idle"] == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                life.node.signal(libc::SIGTERM);
                let deadline = Instant::now() + Duration::from_secs(30);
                while life.node.is_running() && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(Dead)
            }
        }
    }
}

/// Prints and leaves more than what travels with an append.
const WORKS: &str = "print('x' * 20000)\nopen('/output/kept.txt', 'w').write('kept')";

const SLEEPS_ONCE: &str = "import time; time.sleep(1)";

async fn expect(life: &mut Life, key: &str, body: Value, status: &str) -> Result<(), Dead> {
    let id = life.job(key, body).await?;
    let record = life.ended(id).await?;
    assert_eq!(record["status"], status, "{record:#}");
    Ok(())
}

/// Two jobs wait for the end of a third, and each runs once.
async fn follow(life: &mut Life) -> Result<(), Dead> {
    let first = life.job("first", json!({"code": SLEEPS_ONCE})).await?;
    let mut followers = Vec::new();
    for number in 0..2 {
        let body = json!({"code": format!("print({number})"), "after": [first]});
        followers.push(life.job(&format!("follower-{number}"), body).await?);
    }
    for id in followers {
        let record = life.ended(id).await?;
        assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{record:#}");
        for event in ["DependenciesMet", "ExecutionStarted", "ExecutionSucceeded"] {
            assert_eq!(life.count_of(id, event).await, 1, "{event}");
        }
    }
    Ok(())
}

/// A schedule whose job takes longer than it lasts to the next; it is paused, changed and removed.
async fn schedule(life: &mut Life) -> Result<(), Dead> {
    let mut body = json!({"name": "tick", "cron": "* * * * * *", "job": {"code": "import time; time.sleep(2.5)"}});
    let (status, answer) = life.ask(Method::POST, "/schedules", &body).await?;
    assert!(matches!(status, 201 | 409), "{answer}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while life.count("ScheduleFired").await == 0 || life.count("ScheduleSkipped").await == 0 {
        life.get("/livez").await?;
        assert!(Instant::now() < deadline, "{}", life.node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for change in ["pause", "resume"] {
        life.post(&format!("/schedules/tick/{change}"), json!({})).await?;
    }
    body["cron"] = json!("0 0 0 1 1 *");
    let (status, answer) = life.ask(Method::PUT, "/schedules/tick", &body).await?;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = life.ask(Method::DELETE, "/schedules/tick", &Value::Null).await?;
    assert!(matches!(status, 200 | 404), "{answer}");
    life.settled().await
}

async fn cancel(life: &mut Life) -> Result<(), Dead> {
    let id = life.job("cancelled", json!({"code": "import time; time.sleep(60)", "timeout": 90})).await?;
    let record = life.becomes(id, &["running", "cancelled"]).await?;
    if record["status"] == "running" {
        let (status, answer) = life.ask(Method::POST, &format!("/jobs/{id}/cancel"), &json!({})).await?;
        assert!(matches!(status, 200 | 400), "{answer}");
    }
    let record = life.ended(id).await?;
    assert_eq!(record["status"], "cancelled", "{record:#}");
    Ok(())
}

/// Both attempts of a job lose their sandbox; its dead letter is requeued, and the new one put away.
async fn lose(life: &mut Life) -> Result<(), Dead> {
    let body = json!({"code": "import time; time.sleep(60)", "timeout": 90, "max_attempts": 2});
    let first = life.job("unlucky", body).await?;
    lose_all(life).await?;
    assert_eq!(life.ended(first).await?["status"], "failed");
    if letters(life).await?.contains(&first.to_string()) {
        life.post(&format!("/dlq/{first}/requeue"), json!({})).await?;
    }
    lose_all(life).await?;
    for letter in letters(life).await? {
        let (status, answer) = life.ask(Method::DELETE, &format!("/dlq/{letter}"), &Value::Null).await?;
        assert!(matches!(status, 200 | 404), "{answer}");
    }
    Ok(())
}

async fn letters(life: &mut Life) -> Result<Vec<String>, Dead> {
    let (_, page) = life.get("/dlq").await?;
    let items = page["items"].as_array().unwrap().iter();
    Ok(items.map(|item| item["id"].as_str().unwrap().to_owned()).collect())
}

/// Until nothing is queued, whatever runs loses its sandbox.
async fn lose_all(life: &mut Life) -> Result<(), Dead> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while life.queued().await > 0 {
        if !life.node.is_running() {
            return Err(Dead);
        }
        assert!(Instant::now() < deadline, "{}", life.node.log());
        let (_, stats) = life.get("/executions?status=running").await?;
        if stats["count"] != 0 {
            kill_sandboxes(life.node.pid());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

//! A database that can be read and not written, as after a failover to a standby.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::life::Life;
use super::postgres::SETTINGS;
use super::server::Postgres;
use super::{demand_invariants, stop};

/// What an orchestrator is told, once it is told that.
pub async fn readiness(url: &str, status: u16) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
        let said = answer.status().as_u16();
        let body = answer.json().await.unwrap();
        if said == status {
            return body;
        }
        assert!(Instant::now() < deadline, "/readyz is not {status}, but {said}: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_database_is_read_only_is_not_ready_until_it_is_written_again() {
    let postgres = Postgres::start(&[]);
    let mut life = Life::new(postgres.db().await, SETTINGS);
    life.node.start();
    let url = life.node.url().await;
    readiness(&url, 200).await;
    let set = async |life: &Life, value: &'static str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(&life.db.admin).await.unwrap();
        sqlx::query("SELECT pg_reload_conf()").execute(&life.db.admin).await.unwrap();
    };

    set(&life, "on").await;
    // Nobody submits anything: the node notices by itself.
    let problem = readiness(&url, 503).await;
    assert_eq!(problem["detail"], "the database takes no writes: it is read-only", "{problem}");
    let (_, health) = life.get("/health").await.unwrap();
    let seen = [&health["status"], &health["database_available"], &health["database_writable"]];
    assert_eq!(seen, [&json!("degraded"), &json!(true), &json!(false)], "{health:#}");
    let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\ntako_vm_database_writable 0\n"), "{metrics}");
    let job = json!({"code": "print(1)", "idempotency_key": "one"});
    let refused = reqwest::Client::new().post(format!("{url}/jobs")).json(&job).send().await.unwrap();
    assert_eq!(refused.status(), 503);

    set(&life, "off").await;
    readiness(&url, 200).await;
    let (_, health) = life.get("/health").await.unwrap();
    assert_eq!((&health["status"], &health["database_writable"]), (&json!("healthy"), &json!(true)), "{health:#}");
    let (status, answer) = life.ask(Method::POST, "/jobs", &job).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    let id = answer["execution_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(life.ended(id).await.unwrap()["status"], "succeeded");
    stop(&mut life.node).await;
    demand_invariants(&life.db.options.url, true);
}

//! Secrets: set over REST, given to code, and found nowhere afterwards.

mod engines;
mod process;
mod rest;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Choice, World};

/// What no dump may hold. In every form that a job may print it.
pub const VALUE: &str = "correct-horse/battery+staple \"42\"";

async fn world(choice: Choice) -> World {
    World::start_with(|config| config.secrets.key = tako_vm::config::Secret::new("5a".repeat(32)), choice).await
}

pub async fn set(world: &World, name: &str, value: &str) -> i64 {
    let (status, answer) = put(world, name, json!({ "value": value })).await;
    assert_eq!(status, 200, "{answer}");
    answer["version"].as_i64().unwrap()
}

pub async fn put(world: &World, name: &str, body: Value) -> (u16, Value) {
    let answer = world.http.put(format!("{}/secrets/{name}", world.url)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn remove(world: &World, name: &str) -> (u16, Value) {
    let answer = world.http.delete(format!("{}/secrets/{name}", world.url)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn submit(world: &World, body: Value) -> Uuid {
    let (status, accepted) = world.post("/jobs", body).await;
    assert_eq!(status, 202, "{accepted}");
    accepted["execution_id"].as_str().unwrap().parse().unwrap()
}

/// Every row of every table as text, bytes as both hexadecimal and characters.
pub async fn dump(admin: &sqlx::PgPool) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            .fetch_all(admin)
            .await
            .unwrap();
    let mut dump = String::new();
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t")))
            .fetch_all(admin)
            .await
            .unwrap();
        dump.extend(rows);
    }
    let blobs: Vec<Vec<u8>> = sqlx::query_scalar("SELECT bytes FROM blobs").fetch_all(admin).await.unwrap();
    blobs.iter().for_each(|bytes| dump.push_str(&String::from_utf8_lossy(bytes)));
    dump
}

pub fn demand_absent(text: &str, value: &str) {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(value);
    let quoted = serde_json::Value::from(value).to_string();
    for form in [value, &quoted[1..quoted.len() - 1], &hex::encode(value), encoded.trim_end_matches('=')] {
        if let Some(at) = text.find(form) {
            let around = &text.as_bytes()[at.saturating_sub(200)..(at + 200).min(text.len())];
            panic!("{form} stands in: {}", String::from_utf8_lossy(around));
        }
    }
}

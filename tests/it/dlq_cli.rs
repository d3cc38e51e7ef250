//! `tako-vm dlq` as an operator uses it.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::world::World;

fn dlq(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command.arg("dlq").args(args).args(["--url", url]).current_dir("/");
    command.output().unwrap()
}

#[track_caller]
fn says(url: &str, code: i32, args: &[&str]) -> String {
    let output = dlq(url, args);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_looked_at_requeued_and_put_away_from_the_shell() {
    let world = World::start().await;
    let mut lost = Vec::new();
    for number in 0..3 {
        let body = json!({"code": "lose", "max_attempts": 1, "input_data": {"number": number}});
        let (status, record) = world.post("/execute", body).await;
        assert_eq!(status, 200, "{record}");
        lost.push(record["execution_id"].as_str().unwrap().to_owned());
    }
    let url = world.url.clone();
    let (one, two, three) = (lost[0].clone(), lost[1].clone(), lost[2].clone());
    let requeued = tokio::task::spawn_blocking(move || {
        let said = says(&url, 0, &["list"]);
        assert!(said.starts_with("3 dead letters\n       3  internal_error\n"), "{said}");
        assert!(said.contains(&one) && said.contains("default"), "{said}");
        let listed: Value = serde_json::from_str(&says(&url, 0, &["list", "--json", "--limit", "1"])).unwrap();
        assert_eq!((&listed[0]["id"], listed.as_array().unwrap().len()), (&json!(three), 1));
        assert!(!says(&url, 0, &["list", "--error-type", "docker_error"]).contains(&one));
        assert!(!dlq(&url, &["list", "--error-type", "bad_luck"]).status.success());

        let said = says(&url, 0, &["show", &two]);
        assert!(said.contains("input:\n{\"number\":1}\n") && said.contains("code:\nlose\n"), "{said}");
        says(&url, 0, &["discard", &one, "--reason", "nobody needs it"]);
        // One that is gone fails alone.
        let said = says(&url, 1, &["requeue", &one, &two]);
        assert!(said.contains("requeued as "), "{said}");
        assert!(!dlq(&url, &["show", &one]).status.success());
        let said = says(&url, 0, &["requeue", "--error-type", "internal_error"]);
        assert!(!dlq(&url, &["requeue"]).status.success());
        said
    });
    let requeued = requeued.await.unwrap();
    let id = requeued.lines().next().unwrap();
    let (_, record) = world.get(&format!("/executions/{id}?view=full")).await;
    assert_eq!(record["relationship"], "requeue");
    let discarded = world.event_names(lost[0].parse().unwrap()).await;
    assert_eq!(discarded.last(), Some(&"DeadLetterDiscarded"));
    let again = world.event_names(lost[2].parse().unwrap()).await;
    assert_eq!(again.last(), Some(&"DeadLetterRequeued"));
}

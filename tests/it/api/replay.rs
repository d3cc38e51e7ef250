//! Replays: what is pinned, what is compared, and when there can be none.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tako_vm::cli::server::Chosen;
use tako_vm::config::{Config, JobType, Normalise, Pattern, Scope};
use tako_vm::engine::scripted::ScriptedEngine;
use uuid::Uuid;

use crate::world::{Choice, World, scripted};

fn engine(make: fn(ScriptedEngine) -> ScriptedEngine) -> Choice {
    Arc::new(move |_| Chosen::Scripted(Arc::new(make(ScriptedEngine::default()))))
}

async fn ended(world: &World, code: &str) -> Uuid {
    let id = world.submit(code).await;
    world.ended(id).await;
    id
}

async fn replayed(world: &World, id: Uuid, body: Value) -> Value {
    let (status, answer) = world.post(&format!("/executions/{id}/replay?wait=30"), body).await;
    assert_eq!(status, 200, "{answer:#}");
    answer
}

fn id_of(answer: &Value) -> Uuid {
    answer["execution_id"].as_str().unwrap().parse().unwrap()
}

/// The same database behind a server whose engine is another one.
async fn moved(mut world: World, choice: Choice) -> World {
    let url = world.join(|_| {}, choice);
    world.stop_first(std::time::Duration::from_secs(5)).await;
    world.url = url;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divergence_names_each_part_with_its_facts_and_a_diff() {
    let world = World::start().await;
    let code = "print same\nprint run %n\nerr warn %n\noutput {\"a\":[1,{\"b/c\":%n}],\"z\":%n}\nartifact plot.txt p%n\nartifact same.txt s";
    let id = ended(&world, code).await;
    let answer = replayed(&world, id, json!({})).await;
    assert_eq!(answer["verdict"], "diverged", "{answer:#}");
    let differences = answer["differences"].as_array().unwrap();
    let parts: Vec<_> = differences.iter().map(|difference| difference["part"].as_str().unwrap()).collect();
    assert_eq!(parts, ["stdout", "stderr", "output", "artifacts"]);
    let [stdout, _, output, artifacts] = &differences[..] else { panic!("{differences:#?}") };
    assert_eq!(stdout["diff"], "--- original\n+++ replay\n@@ -1,2 +1,2 @@\n same\n-run 0\n+run 1\n");
    assert_eq!(output["pointer"], "/a/1/b~1c");
    assert_eq!((&output["original_value"], &output["replay_value"]), (&json!(0), &json!(1)));
    assert_eq!(artifacts["artifact"], "plot.txt");
    assert_eq!(artifacts["artifacts"].as_array().unwrap().len(), 2, "the output is an artifact as well");

    // The log has the facts alone, and the same is told again of the replay at any time.
    let replay = id_of(&answer);
    let record = world.get(&format!("/executions/{replay}?view=full")).await.1;
    let facts = &record["replay"]["differences"][2];
    assert_eq!((&facts["pointer"], &facts["original"]), (&output["pointer"], &output["original"]));
    assert_eq!(facts.get("diff"), None);
    assert_eq!(world.get(&format!("/executions/{replay}/replay")).await, (200, answer));
    assert_eq!(world.get(&format!("/executions/{id}/replay")).await.0, 404);
    world.check(replay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_and_an_exit_code_diverge() {
    let world = World::start().await;
    let id = ended(&world, "exit %n").await;
    let answer = replayed(&world, id, json!({})).await;
    let facts: Vec<_> = answer["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|difference| (&difference["part"], &difference["original"], &difference["replay"]))
        .collect();
    let [status, exit_code] = [json!("status"), json!("exit_code")];
    let values = [json!("succeeded"), json!("failed"), json!("0"), json!("1")];
    assert_eq!(facts, [(&status, &values[0], &values[1]), (&exit_code, &values[2], &values[3])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_type_declares_is_taken_out_of_both_sides_before_they_are_compared() {
    let declare = |config: &mut Config| {
        let normalise = [
            Normalise::Named("durations".to_owned()),
            Normalise::Named("addresses".to_owned()),
            Normalise::Pattern(Pattern { regex: "\"seed\": ?\\d+".to_owned() }),
        ];
        let mut job_type = JobType { name: "noisy".to_owned(), ..JobType::default() };
        job_type.replay.normalise = normalise.to_vec();
        config.job_types.insert(job_type.name.clone(), job_type);
    };
    let world = World::start_with(declare, scripted()).await;
    let run = async |code: &str| {
        let (_, accepted) = world.post("/jobs", json!({"code": code, "job_type": "noisy"})).await;
        let id = id_of(&accepted);
        world.ended(id).await;
        replayed(&world, id, json!({})).await
    };
    let exact = run("print same").await;
    assert_eq!((&exact["verdict"], &exact["normalised"]), (&json!("identical"), &json!(false)));
    let noisy = run("print took %n ms at 0x7f00%n\noutput {\"seed\": %n, \"n\": 1}").await;
    assert_eq!((&noisy["verdict"], &noisy["normalised"]), (&json!("identical"), &json!(true)), "{noisy:#}");
    assert_eq!(noisy["rules"], json!(["durations", "addresses", "regex:\"seed\": ?\\d+"]));
    let other = run("print took %n ms\nprint %n\noutput {\"seed\": %n, \"n\": %n}").await;
    let differences = other["differences"].as_array().unwrap();
    assert_eq!(differences[0]["part"], "stdout");
    let diff = differences[0]["diff"].as_str().unwrap();
    assert!(diff.contains(" took <duration>\n-"), "{diff}");
    assert_eq!((&differences[1]["part"], &differences[1]["pointer"]), (&json!("output"), &json!("/n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_pins_code_input_files_limits_image_runtime_and_hash_seed() {
    let configure = |config: &mut Config| {
        let job_type = config.job_types.get_mut("default").unwrap();
        job_type.environment = [("PYTHONHASHSEED".to_owned(), tako_vm::config::Secret::new("7"))].into();
    };
    let world = World::start_with(configure, scripted()).await;
    let body = json!({"code": "read a.txt", "input_data": {"b": 1}, "files": {"a.txt": "aGk="}, "timeout": 3});
    let (_, accepted) = world.post("/jobs", body).await;
    let id = id_of(&accepted);
    let original = world.ended(id).await;
    assert_eq!((&original["stdout"], &original["hash_seed"]), (&json!("hi"), &json!("7")));
    // The next server's job type has another seed; the replay has the one of then.
    let world = moved(world, scripted()).await;
    assert_eq!(world.ended(ended(&world, "print").await).await["hash_seed"], "0");
    let answer = replayed(&world, id, json!({})).await;
    assert_eq!(answer["verdict"], "identical", "{answer:#}");
    let replay = world.get(&format!("/executions/{}?view=full", id_of(&answer))).await.1;
    for field in ["code_hash", "input_hash", "input_artifacts_hash", "limits", "image_digest", "runtime", "hash_seed"] {
        assert_eq!(replay[field], original[field], "{field}");
    }
    assert_eq!(replay["job_version"], original["job_version"], "its environment is that of then");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_when_its_runtime_or_its_image_is_not_there() {
    for (choice, cause, word) in [
        (engine(|engine| engine.with_runtime("runsc")), "runtime_missing", "runsc"),
        (engine(|engine| engine.with_image_digest("sha256:1")), "image_gone", "sha256:1 now"),
        (engine(|engine| engine.without_image("scripted")), "image_gone", "not available"),
    ] {
        let world = World::start().await;
        let id = ended(&world, "print 1").await;
        let world = moved(world, choice).await;
        let answer = replayed(&world, id, json!({})).await;
        assert_eq!((&answer["verdict"], &answer["cause"]), (&json!("refused"), &json!(cause)), "{answer:#}");
        assert!(answer["reason"].as_str().unwrap().contains(word), "{answer:#}");
        let replay = world.check(id_of(&answer)).await;
        assert!(replay.replay_verdict.is_some());
        assert_eq!(world.event_names(id_of(&answer)).await.last(), Some(&"ReplayVerdictRecorded"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_on_another_engine_is_refused() {
    let mut world = World::start().await;
    // The test alters the log, which the check at its end would find.
    world.is_checked = false;
    let id = ended(&world, "print 1").await;
    // As if it had run in a container: the payload of its start says so, and nothing else changes.
    let statement = "UPDATE events SET payload = replace(payload::text, '\"engine\":\"scripted\"', \
         '\"engine\":\"docker\"')::json WHERE stream_id = $1";
    let mut connection = world.db.admin.acquire().await.unwrap();
    sqlx::query("ALTER TABLE events DISABLE TRIGGER events_are_append_only").execute(&mut *connection).await.unwrap();
    sqlx::query(statement).bind(id).execute(&mut *connection).await.unwrap();
    let answer = replayed(&world, id, json!({})).await;
    assert_eq!((&answer["verdict"], &answer["cause"]), (&json!("refused"), &json!("engine_missing")), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_when_its_bytes_are_gone_or_nothing_ran() {
    let mut world = World::start_with(|config| config.retry.max_attempts = 1, scripted()).await;
    world.keeps_blobs = false;
    let id = ended(&world, "print 1").await;
    sqlx::query("DELETE FROM blobs").execute(&world.db.admin).await.unwrap();
    let later = json!({"code": "print late", "not_before": "2100-01-01T00:00:00Z"});
    let (_, accepted) = world.post("/jobs", later).await;
    let cancelled = id_of(&accepted);
    world.post(&format!("/jobs/{cancelled}/cancel"), json!({})).await;
    for (id, cause) in [(id, "blob_gone"), (cancelled, "nothing_ran")] {
        let answer = replayed(&world, id, json!({})).await;
        assert_eq!((&answer["verdict"], &answer["cause"]), (&json!("refused"), &json!(cause)), "{answer:#}");
        assert_eq!(answer["execution_id"], Value::Null);
        // In the original's stream, because there is no replay to say it of.
        assert_eq!(world.event_names(id).await.last(), Some(&"ReplayVerdictRecorded"));
        let told = world.get(&format!("/executions/{id}/replay")).await.1;
        assert_eq!((&told["verdict"], &told["cause"]), (&json!("refused"), &json!(cause)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_the_service_fails_has_a_verdict_all_the_same() {
    let world = World::start_with(|config| config.retry.max_attempts = 1, scripted()).await;
    // The sandbox's number is part of the word, so the second one is lost.
    let id = ended(&world, "lose%n\nprint 1").await;
    let world = moved(world, engine(|engine| engine.with_word("lose0", "lose"))).await;
    let answer = replayed(&world, id, json!({})).await;
    assert_eq!((&answer["verdict"], &answer["cause"]), (&json!("refused"), &json!("not_finished")), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_is_tried_out_by_administrators_alone() {
    let keys = |config: &mut Config| {
        config.api_keys = [("submitter", Scope::Submit), ("reader", Scope::Read), ("boss", Scope::Admin)]
            .map(|(name, scope)| tako_vm::config::ApiKey {
                name: name.to_owned(),
                sha256: tako_vm::config::Secret::new(tako_vm::domain::Digest::of(name.as_bytes()).to_string()),
                scopes: vec![scope],
                ..Default::default()
            })
            .to_vec();
    };
    let world = World::start_with(keys, engine(|engine| engine.without_image("nowhere:1"))).await;
    let post = async |key: &str, path: String, body: Value| {
        let request = world.http.post(format!("{}{path}", world.url)).bearer_auth(key).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (_, record) = post("submitter", "/execute".to_owned(), json!({"code": "print on %i"})).await;
    let replay = format!("/executions/{}/replay?wait=30", id_of(&record));
    assert_eq!(post("submitter", replay.clone(), json!({"image": "tako-vm/executor:next"})).await.0, 403);
    assert_eq!(post("submitter", replay.clone(), json!({})).await.1["verdict"], "identical");
    let (status, answer) = post("boss", replay.clone(), json!({"image": "tako-vm/executor:next", "priority": 0})).await;
    assert_eq!(
        (status, &answer["verdict"], &answer["image"]),
        (200, &json!("diverged"), &json!("tako-vm/executor:next"))
    );
    let diff = answer["differences"][0]["diff"].as_str().unwrap();
    assert!(diff.contains("-on scripted\n+on tako-vm/executor:next"), "{diff}");
    let (_, gone) = post("boss", replay.clone(), json!({"image": "nowhere:1"})).await;
    assert_eq!((&gone["verdict"], &gone["cause"]), (&json!("refused"), &json!("image_gone")), "{gone:#}");
    for bad in ["", "-x", "a b", "--privileged", &"a".repeat(256)] {
        assert_eq!(post("boss", replay.clone(), json!({"image": bad})).await.0, 422, "{bad}");
    }
    assert_eq!(post("boss", replay.clone(), json!({"priority": 10})).await.0, 422);
    assert_eq!(post("boss", replay, json!({"imgae": "x"})).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_replayed_and_counted() {
    let add = |config: &mut Config| {
        let mut job_type = JobType { name: "set".to_owned(), ..JobType::default() };
        job_type.replay.normalise = vec![Normalise::Named("durations".to_owned())];
        config.job_types.insert(job_type.name.clone(), job_type);
    };
    let world = World::start_with(add, scripted()).await;
    let mut ids = Vec::new();
    for code in ["print 1", "print 2\nexit 3", "print took %n ms", "print %n"] {
        let (_, accepted) = world.post("/jobs", json!({"code": code, "job_type": "set"})).await;
        ids.push(id_of(&accepted));
        world.ended(id_of(&accepted)).await;
    }
    let elsewhere = ended(&world, "print other %n").await;
    let later = json!({"code": "print x", "job_type": "set", "not_before": "2100-01-01T00:00:00Z"});
    let cancelled = id_of(&world.post("/jobs", later).await.1);
    world.post(&format!("/jobs/{cancelled}/cancel"), json!({})).await;
    let url = world.url.clone();
    let run = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        command.args(["replay", "--job-type", "set", "--url", &url]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, progress) = run(&[]).await;
    assert_eq!(code, Some(1), "{out}{progress}");
    assert!(out.contains("identical       3  (1 normalised)\ndiverged        1\n"), "{out}");
    assert!(out.contains(&format!("  {}  replay ", ids[3])) && out.contains("  stdout\nrefused         0\n"), "{out}");
    assert!(progress.contains("4/4 replayed: 3 identical, 1 diverged, 0 refused"), "{progress}");
    // Replays are no history of their own: the second time the set is the same.
    let (code, out, _) = run(&["--json", "--concurrency", "2"]).await;
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &summary["identical"]), (Some(1), &json!(3)), "{summary:#}");
    assert_eq!(summary["diverged"][0]["parts"], json!(["stdout"]));
    let (code, out, _) = run(&["--status", "failed"]).await;
    assert!(code == Some(0) && out.contains("identical       1\ndiverged        0\n"), "{out}");
    let (code, out, _) = run(&["--status", "cancelled"]).await;
    assert!(code == Some(0) && out.contains(&format!("  nothing_ran 1: {cancelled}")), "{out}");
    let (code, out, _) = run(&["--limit", "1"]).await;
    assert!(code == Some(1) && out.contains("diverged        1\n"), "the newest is the first: {out}");
    let (code, out, _) = run(&["--until", "2000-01-01T00:00:00Z"]).await;
    assert!(code == Some(0) && out.contains("identical       0\n"), "{out}");
    let (code, out, _) = run(&["--image", "next"]).await;
    assert!(code == Some(1) && out.contains("identical       3"), "{out}");
    assert!(!out.contains(&elsewhere.to_string()));
}

//! Every path answers what the contract says.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::site::{Site, run, send};

const RECORD: &str = "execution_id status job_type job_version created_at queued_at dequeued_at started_at ended_at \
     duration_ms exit_code stdout stderr output error timing";

const FULL: &str = "job_ref artifacts input_artifacts resource_usage code_hash input_hash params_hash \
     input_artifacts_hash parent_execution_id relationship attempt max_attempts worker_id runtime stdout_truncated \
     stderr_truncated idempotency_key correlation_id client_ip";

#[track_caller]
fn has(value: &Value, keys: &str) {
    for key in keys.split_ascii_whitespace() {
        assert!(value.get(key).is_some(), "{key} is missing: {value}");
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn hash_of(text: &str) -> String {
    tako_vm::domain::Digest::of(text.as_bytes()).to_string()
}

#[test]
fn a_synchronous_run_answers_with_the_whole_result() {
    run(async |site| {
        let body = json!({"code": "print hello\noutput {\"n\": 123456789012345678901234567890}"});
        let answer = site.post("/execute", &body).await;
        assert!(answer.text().contains("123456789012345678901234567890"), "{}", answer.text());
        let result = answer.expect(200);
        has(&result, "success output stdout stderr exit_code execution_time error job_type execution_id");
        assert_eq!(result["success"], true);
        assert_eq!(result["stdout"], "hello\n");
        assert_eq!(result["exit_code"], 0);
        assert_eq!(result["error"], Value::Null);
        assert_eq!(result["job_type"], "default");

        let failed = site.post("/execute", &json!({"code": "print x\nexit 3"})).await.expect(200);
        assert_eq!((&failed["success"], &failed["exit_code"]), (&json!(false), &json!(3)));
        assert_eq!(failed["error_type"], "runtime_error");
        assert!(failed["error"].as_str().unwrap().contains("status 3"));

        let slow = site.post("/execute", &json!({"code": "sleep 9000", "timeout": 0.2})).await.expect(200);
        assert_eq!((&slow["success"], &slow["status"]), (&json!(false), &json!("timeout")));
        assert_eq!(slow["error_type"], "execution_timeout");

        let greedy = site.post("/execute", &json!({"code": "oom"})).await.expect(200);
        assert_eq!((&greedy["status"], &greedy["error_type"]), (&json!("oom"), &json!("oom")));
    });
}

#[test]
fn an_asynchronous_job_is_found_by_its_id() {
    run(async |site| {
        let queued = site.post("/execute/async", &json!({"code": "print 1"})).await.expect(200);
        has(&queued, "job_id status");
        assert_eq!(queued["status"], "queued");
        let id = queued["job_id"].as_str().unwrap();
        let result = site.get(&format!("/jobs/{id}/result?wait=true&timeout=20")).await.expect(200);
        assert_eq!((&result["status"], &result["stdout"]), (&json!("succeeded"), &json!("1\n")));
        let job = site.get(&format!("/jobs/{id}")).await.expect(200);
        has(&job, "job_id status created_at started_at");
        assert_eq!((&job["job_id"], &job["status"]), (&json!(id), &json!("succeeded")));
        assert!(job["started_at"].as_str().unwrap().ends_with('Z'));
    });
}

#[test]
fn a_record_has_the_contracts_names_short_and_full() {
    run(async |site| {
        let id = site
            .ended_with(&json!({"code": "print 1\noutput {}", "input_data": {"b": 1, "a": 2}, "idempotency_key": "k"}))
            .await;
        let short = site.get(&format!("/executions/{id}")).await.expect(200);
        assert_eq!(keys(&short), RECORD.split_ascii_whitespace().collect());
        has(&short["timing"], "startup_ms dep_install_ms execution_ms total_ms phase_at_exit");
        let full = site.get(&format!("/executions/{id}?view=full")).await.expect(200);
        has(&full, RECORD);
        has(&full, FULL);
        has(&full["resource_usage"], "max_rss_mb cpu_time_ms wall_time_ms");
        assert_eq!(full["code_hash"], hash_of("print 1\noutput {}"));
        assert_eq!(full["input_hash"], hash_of(r#"{"a":2,"b":1}"#));
        assert_eq!(full["idempotency_key"], "k");
        assert_eq!(full["client_ip"], "127.0.0.1");
        assert_eq!(full["artifacts"][0]["name"], "result.json");
        let given: Vec<_> = full["input_artifacts"].as_array().unwrap().iter().map(|given| &given["name"]).collect();
        assert_eq!(given, ["_code.py", "_input.json"]);
        assert_eq!(full["input_artifacts"][1]["bytes"], r#"{"b":1,"a":2}"#.len());
        assert_eq!(site.get(&format!("/jobs/{id}/result")).await.expect(200), short);
        assert_eq!(site.get(&format!("/jobs/{id}/result?view=full")).await.expect(200), full);
        assert_eq!(site.get("/executions").await.expect(200)["items"], json!([short]));
        assert_eq!(site.get("/executions?view=full").await.expect(200)["items"][0]["code_hash"], full["code_hash"]);
    });
}

#[test]
fn a_failed_record_says_type_message_and_phase() {
    run(async |site| {
        let id = site.ended("exit 7").await;
        let record = site.get(&format!("/executions/{id}")).await.expect(200);
        assert_eq!(
            record["error"],
            json!({"type": "runtime_error", "message": "the code exited with status 7", "phase": "execution"})
        );
        assert_eq!(record["exit_code"], 7);
    });
}

#[test]
fn submitting_says_where_to_look_and_can_wait() {
    run(async |site| {
        let answer = site.post("/jobs", &json!({"code": "print 1"})).await;
        let job = answer.expect(202);
        assert_eq!(answer.header("location"), format!("/jobs/{}", job["job_id"].as_str().unwrap()));
        let waited = site.post("/jobs?wait=20", &json!({"code": "print 1"})).await;
        assert_eq!(waited.expect(200)["status"], "succeeded");
        assert!(waited.header("location").starts_with("/jobs/"));
        site.post("/jobs?wait=0.1", &json!({"code": "sleep 1500"})).await.expect(202);
    });
}

#[test]
fn a_batch_is_answered_item_by_item() {
    run(async |site| {
        let jobs = json!({"jobs": [
            {"code": "print 1"},
            {"code": ""},
            {"cod": "print 1"},
            5,
            {"code": "print 1", "job_type": "nope"},
            {"code": "print 2", "idempotency_key": "b"},
            {"code": "print 2", "idempotency_key": "b"},
        ]});
        let answer = site.post("/jobs/batch", &jobs).await.expect(200);
        let items = answer["items"].as_array().unwrap();
        assert_eq!((&answer["count"], &answer["accepted"], &answer["refused"]), (&json!(7), &json!(3), &json!(4)));
        for index in [0, 5, 6] {
            assert!(items[index]["job_id"].is_string(), "{answer}");
        }
        assert_eq!(items[5]["job_id"], items[6]["job_id"]);
        for (index, said) in
            [(1, "code must not be empty"), (2, "did you mean"), (3, "must be a JSON object"), (4, "job_type")]
        {
            assert_eq!(items[index]["error"]["status"], 422);
            assert!(items[index]["error"]["detail"].as_str().unwrap().contains(said), "{answer}");
        }
        site.post("/jobs/batch", &json!({"jobs": []})).await.refused(422);
        let many: Vec<_> = (0..1001).map(|_| json!({"code": "x"})).collect();
        assert!(site.post("/jobs/batch", &json!({"jobs": many})).await.refused(422).contains("from 1 to 1000"));
    });
}

#[test]
fn a_job_in_progress_says_how_far_it_is_and_can_be_cancelled_once() {
    run(async |site| {
        let id = site.queued("sleep 20000").await;
        let progress = site.get(&format!("/jobs/{id}/result")).await.expect(200);
        assert_eq!(keys(&progress), ["job_id", "status", "message", "queue_position"].into());
        let over = site.get(&format!("/jobs/{id}/result?wait=true&timeout=0.2")).await;
        assert_eq!(over.expect(408)["execution_id"], json!(id));
        let cancelled = site.post(&format!("/jobs/{id}/cancel"), &json!({"reason": "enough"})).await.expect(200);
        assert_eq!(cancelled["job_id"], json!(id));
        let record = site.get(&format!("/jobs/{id}/result?wait=true&timeout=20")).await.expect(200);
        assert_eq!((&record["status"], &record["error"]["type"]), (&json!("cancelled"), &json!("cancelled")));
        let again = send(site.request(Method::POST, &format!("/jobs/{id}/cancel"))).await;
        assert!(again.refused(400).contains("already ended"));
    });
}

#[test]
fn a_rerun_and_a_fork_are_new_jobs_with_a_parent_and_a_place_in_the_lineage() {
    run(async |site| {
        let id = site.ended_with(&json!({"code": "print 1", "input_data": {"a": 1}})).await;
        let rerun = send(site.request(Method::POST, &format!("/jobs/{id}/rerun"))).await.expect(200);
        assert_eq!((&rerun["relationship"], &rerun["parent_execution_id"]), (&json!("rerun"), &json!(id)));
        let rerun = rerun["job_id"].as_str().unwrap();
        let fork = site.post(&format!("/jobs/{rerun}/fork?wait=20"), &json!({"code": "print 2"})).await.expect(200);
        assert_eq!((&fork["relationship"], &fork["parent_execution_id"]), (&json!("fork"), &json!(rerun)));
        assert_eq!(fork["stdout"], "2\n");
        let original = site.get(&format!("/executions/{id}?view=full")).await.expect(200);
        assert_eq!(fork["input_hash"], original["input_hash"]);
        assert_eq!(fork["code_hash"], hash_of("print 2"));
        let fork = fork["execution_id"].as_str().unwrap();

        let lineage = site.get(&format!("/executions/{rerun}/lineage")).await.expect(200);
        assert_eq!(lineage["root"], json!(id));
        assert_eq!(lineage["ancestors"], json!([id]));
        assert_eq!(lineage["descendants"], json!([fork]));
        assert_eq!(lineage["nodes"].as_array().unwrap().len(), 3);
        let edges = lineage["edges"].as_array().unwrap();
        assert!(
            edges.contains(&json!({"kind": "parent", "from": id, "to": rerun, "relationship": "rerun"})),
            "{lineage}"
        );
        assert!(
            edges.contains(&json!({"kind": "parent", "from": rerun, "to": fork, "relationship": "fork"})),
            "{lineage}"
        );

        assert!(site.post(&format!("/jobs/{id}/fork"), &json!({})).await.refused(422).contains("code must be given"));
        site.post(&format!("/jobs/{id}/fork"), &json!({"code": " "})).await.refused(422);
        site.post(&format!("/jobs/{id}/rerun"), &json!({"code": "x"})).await.refused(422);
    });
}

#[test]
fn a_replay_tells_its_verdict() {
    run(async |site| {
        let id = site.ended("print 1\nexit 2").await;
        let replay = send(site.request(Method::POST, &format!("/executions/{id}/replay?wait=20"))).await.expect(200);
        assert_eq!(replay["verdict"], "identical");
        assert_eq!(replay["original_execution_id"], json!(id));
        let record = replay["execution_id"].as_str().unwrap();
        let record = site.get(&format!("/executions/{record}?view=full")).await.expect(200);
        assert_eq!((&record["relationship"], &record["replay"]["verdict"]), (&json!("replay"), &json!("identical")));

        let queued = send(site.request(Method::POST, &format!("/executions/{id}/replay"))).await;
        assert_eq!(queued.expect(202)["verdict"], Value::Null);

        let running = site.queued("sleep 3000").await;
        let early = send(site.request(Method::POST, &format!("/executions/{running}/replay"))).await;
        assert!(early.refused(409).contains("has not ended"));
        send(site.request(Method::POST, &format!("/jobs/{running}/cancel"))).await.expect(200);
    });
}

#[test]
fn a_record_can_be_seen_as_it_was() {
    run(async |site| {
        let id = site.ended("print 1").await;
        let now = site.get(&format!("/executions/{id}?view=full")).await.expect(200);
        let events = site.get(&format!("/jobs/{id}/events")).await.expect(200);
        let newest = events["count"].as_u64().unwrap();
        let at = async |query: String| site.get(&format!("/executions/{id}?view=full&{query}")).await;
        assert_eq!(at(format!("at_version={newest}")).await.expect(200), now);
        let first = at("at_version=1".to_owned()).await.expect(200);
        assert_eq!(
            (&first["status"], &first["stdout"], &first["attempt"]),
            (&json!("queued"), &Value::Null, &json!(0))
        );
        let running = at(format!("at_version={}", newest - 1)).await.expect(200);
        assert_eq!(running["status"], "running");
        let recorded_at = events["items"][0]["recorded_at"].as_str().unwrap();
        assert_eq!(at(format!("at={recorded_at}")).await.expect(200), first);
        assert_eq!(at("at=2100-01-01T00:00:00Z".to_owned()).await.expect(200), now);
        at("at=2000-01-01T00:00:00Z".to_owned()).await.refused(404);
        at(format!("at_version={}", newest + 1)).await.refused(404);
        at("at_version=0".to_owned()).await.refused(422);
        at("at_version=1&at=2100-01-01T00:00:00Z".to_owned()).await.refused(422);
    });
}

#[test]
fn lists_are_filtered_and_paged() {
    run(async |site| {
        let (one, two) = (site.ended("print 1").await, site.ended("exit 1").await);
        let three = site.ended("print 3").await;
        let ids = async |query: &str| {
            let page = site.get(&format!("/executions{query}")).await.expect(200);
            has(&page, "items limit offset has_more count");
            let ids: Vec<_> = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["execution_id"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(page["count"], ids.len());
            (ids, page["has_more"] == true)
        };
        assert_eq!(ids("").await, (vec![three.clone(), two.clone(), one.clone()], false));
        assert_eq!(ids("?limit=2").await, (vec![three.clone(), two.clone()], true));
        assert_eq!(ids("?limit=2&offset=2").await, (vec![one.clone()], false));
        let first = site.get("/executions?limit=2").await.expect(200);
        assert_eq!(first["next_before"], two);
        let last = site.get(&format!("/executions?limit=2&before={two}")).await.expect(200);
        assert_eq!((&last["items"][0]["execution_id"], &last["next_before"]), (&json!(one), &Value::Null));
        assert_eq!(ids("?status=failed").await, (vec![two], false));
        assert_eq!(ids("?status=succeeded&job_type=default").await, (vec![three, one], false));
        assert_eq!(ids("?job_type=ml-inference").await, (vec![], false));
        assert_eq!(ids("?status=running").await, (vec![], false));
        for (query, said) in [
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("limit=x", "from 1 to 1000"),
            ("offset=-1", "offset must be a number from 0"),
            ("status=pending", "queued, running, succeeded"),
            ("view=everything", "full"),
            ("stauts=failed", "did you mean \"status\""),
        ] {
            let detail = site.get(&format!("/executions?{query}")).await.refused(422);
            assert!(detail.contains(said), "{query}: {detail}");
        }
    });
}

#[test]
fn artifacts_are_downloaded_by_name_and_known_by_their_hash() {
    run(async |site| {
        let body = json!({
            "code": "output {\"a\": 1}",
            "input_data": {"n": 1},
            "files": {"deep/er/n.txt": "aGVsbG8="},
        });
        let id = site.ended_with(&body).await;
        for (name, bytes, file) in [
            ("result.json", r#"{"a": 1}"#, "result.json"),
            ("_code.py", "output {\"a\": 1}", "_code.py"),
            ("_input.json", r#"{"n":1}"#, "_input.json"),
            ("deep/er/n.txt", "hello", "n.txt"),
        ] {
            let path = format!("/jobs/{id}/artifacts/{name}");
            let got = site.get(&path).await;
            assert_eq!((got.status, got.text()), (200, bytes));
            let tag = format!("\"{}\"", hash_of(bytes));
            assert_eq!(got.header("etag"), tag);
            assert_eq!(got.header("content-type"), "application/octet-stream");
            assert!(got.header("content-disposition").starts_with(&format!("attachment; filename=\"{file}\"")));
            let head = send(site.request(Method::HEAD, &path)).await;
            assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, tag.as_str()));
            assert_eq!(head.header("content-length"), bytes.len().to_string());
            for known in [tag.as_str(), "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
                let unchanged = send(site.request(Method::GET, &path).header("if-none-match", known)).await;
                assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{known}");
                assert_eq!(unchanged.header("etag"), tag);
            }
            let changed = send(site.request(Method::GET, &path).header("if-none-match", "\"x\"")).await;
            assert_eq!(changed.status, 200);
        }
        for name in ["nope", "deep", "deep/er", "..%2f..%2fetc/passwd", "%00", "result.json/"] {
            let answer = site.get(&format!("/jobs/{id}/artifacts/{name}")).await;
            assert!(matches!(answer.status, 400 | 404), "{name}: {}", answer.text());
        }
    });
}

#[test]
fn job_types_are_listed_and_built() {
    run(async |site| {
        let types = site.get("/job-types").await.expect(200);
        let types = types.as_array().unwrap();
        assert_eq!(types.len(), 3);
        for job_type in types {
            has(job_type, "name requirements python_version memory_limit cpu_limit timeout image_exists");
        }
        let one = site.get("/job-types/default").await.expect(200);
        assert_eq!(
            (&one["name"], &one["memory_limit"], &one["timeout"]),
            (&json!("default"), &json!("512m"), &json!(30))
        );
        assert!(site.get("/job-types/defalt").await.refused(404).contains("did you mean \"default\""));

        let build = send(site.request(Method::POST, "/job-types/default/build?version_tag=v1")).await.expect(200);
        assert_eq!(keys(&build), ["status", "job_type", "version", "digest", "image_ref"].into());
        assert_eq!(build["status"], "built");
        let version = build["version"].as_str().unwrap();
        assert!(version.starts_with("default@sha256:") && version.len() == "default@sha256:".len() + 12, "{version}");
        assert_eq!(site.get("/job-types/default").await.expect(200)["image_exists"], true);
        let pinned = site.post("/execute", &json!({"code": "print 1", "job_type": version})).await.expect(200);
        assert_eq!(pinned["success"], true);
        let other = json!({"code": "x", "job_type": "default@sha256:000000000000"});
        assert!(site.post("/execute", &other).await.refused(422).contains("has no version"));
        send(site.request(Method::POST, "/job-types/nope/build")).await.refused(404);
        send(site.request(Method::POST, "/job-types/default/build?version_tag=a%20b")).await.refused(422);
        send(site.request(Method::POST, "/job-types/data-processing/build")).await.expect(200);
    });
}

#[test]
fn figures_are_true() {
    run(async |site| {
        let before = site.get("/pool/stats").await.expect(200);
        has(&before, "pending running max_workers max_queue_size warm_pool");
        assert_eq!((&before["running"], &before["max_workers"]), (&json!(0), &json!(4)));
        site.ended("print 1").await;
        site.ended("exit 1").await;
        let health = site.get("/health").await.expect(200);
        has(&health, "status docker_available gvisor_available circuit_breaker version production_mode queue_stats");
        has(&health["circuit_breaker"], "state failure_count success_count last_failure");
        assert_eq!(health["status"], "healthy");
        site.get("/livez").await.expect(200);
        site.get("/readyz").await.expect(200);
        let metrics = site.get("/metrics").await;
        assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
        for line in [
            "tako_vm_jobs{status=\"succeeded\"} 1",
            "tako_vm_jobs{status=\"failed\"} 1",
            "tako_vm_slots 4",
            "tako_vm_queue_jobs 0",
        ] {
            assert!(metrics.text().lines().any(|said| said == line), "{line}: {}", metrics.text());
        }
        for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
        }
    });
}

#[test]
fn dead_letters_are_listed_requeued_and_put_away() {
    run(async |site| {
        let lose = json!({"code": "lose", "max_attempts": 1});
        let (one, two) = (site.ended_with(&lose).await, site.ended_with(&lose).await);
        let three = site.ended_with(&lose).await;
        site.ended("exit 1").await;
        let stats = site.get("/dlq/stats").await.expect(200);
        assert_eq!(stats, json!({"total": 3, "by_error_type": {"internal_error": 3}}));
        let page = site.get("/dlq?limit=2").await.expect(200);
        assert_eq!((&page["count"], &page["has_more"]), (&json!(2), &json!(true)));
        assert_eq!(
            keys(&page["items"][0]),
            "id job_id job_data error_type error_message retry_count created_at client_ip correlation_id"
                .split_ascii_whitespace()
                .collect()
        );
        let shown = site.get(&format!("/dlq/{three}")).await.expect(200);
        assert_eq!((&page["items"][0], &shown["id"]), (&shown, &json!(three)));
        let job = &shown["job_data"];
        assert_eq!((&job["code"], &job["input_data"], &job["max_attempts"]), (&json!("lose"), &json!({}), &json!(1)));
        assert_eq!(site.get("/dlq?error_type=docker_error").await.expect(200)["count"], 0);
        site.get("/dlq?error_type=bad_luck").await.refused(422);

        let removed = site.delete(&format!("/dlq/{one}")).await.expect(200);
        assert_eq!(removed, json!({"status": "removed", "entry_id": one}));
        site.delete(&format!("/dlq/{one}")).await.refused(404);

        let again = send(site.request(Method::POST, &format!("/dlq/{two}/requeue"))).await.expect(200);
        assert_eq!((&again["relationship"], &again["parent_execution_id"]), (&json!("requeue"), &json!(two)));
        send(site.request(Method::POST, &format!("/dlq/{two}/requeue"))).await.refused(404);
        let all = send(site.request(Method::POST, "/dlq/requeue?error_type=internal_error")).await.expect(200);
        // The second one's new execution may have failed again by now and be among them.
        assert!(all["requeued"].as_u64().unwrap() >= 1, "{all}");
        let ended = site.ended("exit 1").await;
        site.delete(&format!("/dlq/{ended}")).await.refused(404);
        send(site.request(Method::POST, &format!("/dlq/{ended}/requeue"))).await.refused(404);
    });
}

#[test]
fn the_served_document_is_the_one_in_the_repository_and_names_every_path() {
    run(async |site| {
        let document = site.get("/openapi.json").await.expect(200);
        assert_eq!(document, serde_json::from_str::<Value>(include_str!("../../../docs/openapi.json")).unwrap());
        site.get("/").await.expect(200);
        for (path, methods) in document["paths"].as_object().unwrap() {
            let path = path.replace("{id}", &uuid::Uuid::nil().to_string()).replace("{name}", "default");
            let answer = send(site.request(Method::PATCH, &path)).await;
            assert!(answer.refused(405).contains("PATCH"), "{path}");
            let allowed: BTreeSet<_> = answer.header("allow").split(", ").map(str::to_ascii_lowercase).collect();
            for method in methods.as_object().unwrap().keys() {
                assert!(allowed.contains(method), "{path}: {method} is not in {allowed:?}");
            }
        }
        assert!(site.get("/nowhere").await.refused(404).contains("/openapi.json"));
    });
}

#[test]
fn a_job_survives_the_client_that_waited_for_it() {
    run(async |site: Site| {
        let body = json!({"code": "sleep 400\nprint done", "idempotency_key": "left"});
        let impatient = tokio::time::timeout(std::time::Duration::from_millis(150), site.post("/execute", &body)).await;
        assert!(impatient.is_err());
        let result = site.post("/execute", &body).await.expect(200);
        assert_eq!((&result["stdout"], &result["status"]), (&json!("done\n"), &json!("succeeded")));
        assert_eq!(site.get("/executions").await.expect(200)["count"], 1);
    });
}

#[test]
fn a_correlation_id_is_the_callers_if_it_can_be_kept() {
    run(async |site| {
        let asked = async |id: &'static str| {
            let answer = send(site.request(Method::GET, "/jobs/x").header("x-correlation-id", id)).await;
            answer.header("x-correlation-id").to_owned()
        };
        assert_eq!(asked("abc-123").await, "abc-123");
        assert_ne!(asked("with space").await, "with space");
        let long: &'static str = "x".repeat(129).leak();
        assert_ne!(asked(long).await, long);
        let created = send(
            site.request(Method::POST, "/jobs?wait=20&view=full")
                .header("x-correlation-id", "trace-1")
                .json(&json!({"code": "print 1"})),
        );
        assert_eq!(created.await.expect(200)["correlation_id"], "trace-1");
    });
}

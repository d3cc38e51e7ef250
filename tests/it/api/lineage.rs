//! Lineage: by parent, by artifact, by code; and what other programs are told of it.

use serde_json::{Value, json};
use tako_vm::domain::Digest;

use super::site::{Site, run, run_with, send};
use crate::world::{World, scripted};

async fn ended(site: &Site, body: Value) -> String {
    site.ended_with(&body).await
}

/// A job that makes two artifacts, and one that was given one of them and bytes of its own.
async fn pair(site: &Site) -> (String, String) {
    let maker = ended(site, json!({"code": "output {\"n\": 1}\nartifact plots/a b.txt dots"})).await;
    let files = json!({"x.json": {"from": format!("{maker}/result.json")}, "own.txt": "aGk="});
    let taker = ended(site, json!({"code": "read x.json\nartifact copy.txt c", "files": files})).await;
    (maker, taker)
}

#[test]
fn a_job_reads_what_another_made_and_the_record_says_whose_it_is() {
    run(async |site| {
        let (maker, taker) = pair(&site).await;
        let record = site.get(&format!("/executions/{taker}?view=full")).await.expect(200);
        assert_eq!(record["stdout"], "{\"n\": 1}");
        let files = record["input_artifacts"].as_array().unwrap();
        let taken = files.iter().find(|file| file["name"] == "x.json").unwrap();
        assert_eq!(taken["from"], json!({"execution_id": maker, "name": "result.json"}));
        assert_eq!(taken["sha256"], Digest::of(b"{\"n\": 1}").to_string());
        assert_eq!(files.iter().find(|file| file["name"] == "own.txt").unwrap().get("from"), None);

        // The same bytes by either way are the same input.
        let files = json!({"x.json": "eyJuIjogMX0=", "own.txt": "aGk="});
        let sent = ended(&site, json!({"code": "print 1", "files": files})).await;
        let sent = site.get(&format!("/executions/{sent}?view=full")).await.expect(200);
        assert_eq!(sent["input_artifacts_hash"], record["input_artifacts_hash"]);

        // A rerun and a replay take the same bytes from the same place.
        for again in ["jobs/{id}/rerun?wait=20", "executions/{id}/replay?wait=20"] {
            let path = format!("/{}", again.replace("{id}", &taker));
            let again = send(site.request(reqwest::Method::POST, &path)).await.expect(200);
            let again = site.get(&format!("/executions/{}?view=full", again["execution_id"].as_str().unwrap())).await;
            assert_eq!(again.expect(200)["input_artifacts"], record["input_artifacts"]);
        }
        let empty = ended(&site, json!({"code": "artifact empty"})).await;
        let files = json!({"e": {"from": format!("{empty}/empty")}});
        let reader = site.post("/execute", &json!({"code": "read e\nprint read", "files": files})).await.expect(200);
        assert_eq!((&reader["success"], &reader["stdout"]), (&json!(true), &json!("read\n")));
    });
}

#[test]
fn an_artifact_that_cannot_be_taken_is_told_by_file() {
    run(async |site| {
        let maker = ended(&site, json!({"code": "output {}"})).await;
        let running = site.queued("sleep 5000\noutput {}").await;
        let nobody = uuid::Uuid::now_v7();
        for (from, said) in [
            (json!({"from": format!("{maker}/other.json")}), "did not make"),
            (json!({"from": format!("{maker}/../result.json")}), "did not make"),
            (json!({"from": format!("{nobody}/result.json")}), "does not exist"),
            (json!({"from": format!("{running}/result.json")}), "has not ended yet"),
            (json!({"from": maker}), "an execution's id, a slash and an artifact's name"),
            (json!({"from": "x/result.json"}), "an execution's id, a slash and an artifact's name"),
            (json!({"form": format!("{maker}/result.json")}), "the one key"),
            (json!({"from": format!("{maker}/result.json"), "more": "1"}), "the one key"),
            (json!({}), "the one key"),
            (json!(5), "expected a string of base64, or an object"),
        ] {
            let answer = site.post("/jobs", &json!({"code": "x", "files": {"x.json": from}})).await;
            let detail = answer.refused(422);
            assert!(detail.contains(said) && detail.contains("files"), "{from}: {detail}");
        }
        send(site.request(reqwest::Method::POST, &format!("/jobs/{running}/cancel"))).await.expect(200);
    });
}

#[test]
fn another_tenants_artifact_does_not_exist() {
    let keys = |config: &mut tako_vm::config::Config| {
        config.api_keys = ["one", "two"]
            .map(|name| tako_vm::config::ApiKey {
                name: name.to_owned(),
                tenant: name.to_owned(),
                sha256: tako_vm::config::Secret::new(Digest::of(name.as_bytes()).to_string()),
                ..Default::default()
            })
            .to_vec();
    };
    run_with(keys, async |site| {
        let (one, two) = (site.with_key("one"), site.with_key("two"));
        let (maker, _) = pair(&one).await;
        let files = json!({"x": {"from": format!("{maker}/result.json")}});
        let body = json!({"code": "x", "files": files});
        assert!(two.post("/jobs", &body).await.refused(422).contains("does not exist"));
        let (code, bytes) = (Digest::of(b"print 1"), Digest::of(b"{\"n\": 1}"));
        ended(&one, json!({"code": "print 1"})).await;
        for path in [format!("/code/{code}/executions"), format!("/artifacts/{bytes}/consumers")] {
            assert_eq!(one.get(&path).await.expect(200)["count"], 1);
            assert_eq!(two.get(&path).await.expect(200)["count"], 0);
        }
        two.get(&format!("/executions/{maker}/lineage")).await.refused(404);
    });
}

#[test]
fn the_graph_has_edges_of_both_kinds_in_both_directions() {
    run(async |site| {
        let (maker, taker) = pair(&site).await;
        let fork = site.post(&format!("/jobs/{taker}/fork?wait=20"), &json!({"code": "print 2"})).await.expect(200);
        let fork = fork["execution_id"].as_str().unwrap();
        let files = json!({"c": {"from": format!("{taker}/copy.txt")}, "x": {"from": format!("{maker}/result.json")}});
        let both = ended(&site, json!({"code": "read c", "files": files})).await;
        ended(&site, json!({"code": "print stranger"})).await;

        let graph = site.get(&format!("/executions/{taker}/lineage")).await.expect(200);
        assert_eq!((&graph["ancestors"], &graph["root"]), (&json!([maker]), &json!(taker)));
        let mut descendants: Vec<_> = graph["descendants"].as_array().unwrap().iter().collect();
        descendants.sort_by_key(|id| id.as_str());
        assert_eq!(descendants, [&json!(fork), &json!(both)]);
        assert_eq!((graph["nodes"].as_array().unwrap().len(), &graph["truncated"]), (4, &json!(false)));
        let edges = graph["edges"].as_array().unwrap();
        let hash = Digest::of(b"{\"n\": 1}").to_string();
        let edge = |from: &str, to: &str, artifact: &str, file: &str, hash: &str| json!({"kind": "artifact", "from": from, "to": to, "artifact": artifact, "file": file, "sha256": hash});
        for expected in [
            json!({"kind": "parent", "from": taker, "to": fork, "relationship": "fork"}),
            edge(&maker, &taker, "result.json", "x.json", &hash),
            edge(&maker, fork, "result.json", "x.json", &hash),
            edge(&taker, &both, "copy.txt", "c", &Digest::of(b"c").to_string()),
        ] {
            assert!(edges.contains(&expected), "{expected} not in {graph:#}");
        }
        let from_the_end = site.get(&format!("/executions/{both}/lineage")).await.expect(200);
        let mut ancestors: Vec<_> = from_the_end["ancestors"].as_array().unwrap().iter().collect();
        ancestors.sort_by_key(|id| id.as_str());
        assert_eq!(ancestors, [&json!(maker), &json!(taker)]);
        let near = site.get(&format!("/executions/{maker}/lineage?depth=0")).await.expect(200);
        assert_eq!((near["nodes"].as_array().unwrap().len(), &near["truncated"]), (1, &json!(true)));
        site.get(&format!("/executions/{maker}/lineage?depth=101")).await.refused(422);
        site.get(&format!("/executions/{maker}/lineage?format=dot")).await.refused(422);
    });
}

#[test]
fn who_consumed_an_artifact_and_who_ran_a_code_is_one_call_each() {
    run(async |site| {
        let (maker, taker) = pair(&site).await;
        let sent = ended(&site, json!({"code": "print 1", "files": {"a": "eyJuIjogMX0="}})).await;
        let ids = async |path: String| {
            let page = site.get(&path).await.expect(200);
            let items = page["items"].as_array().unwrap().clone();
            let ids: Vec<_> = items.iter().map(|item| item["execution_id"].as_str().unwrap().to_owned()).collect();
            (ids, page["has_more"].as_bool().unwrap())
        };
        let hash = Digest::of(b"{\"n\": 1}");
        assert_eq!(ids(format!("/artifacts/{hash}/consumers")).await, (vec![sent.clone(), taker.clone()], false));
        assert_eq!(ids(format!("/artifacts/{hash}/consumers?limit=1")).await, (vec![sent.clone()], true));
        assert_eq!(ids(format!("/artifacts/{hash}/consumers?limit=1&offset=1")).await, (vec![taker], false));
        assert_eq!(ids(format!("/artifacts/{}/consumers", Digest::of(b"c"))).await, (vec![], false));
        let again = ended(&site, json!({"code": "print 1"})).await;
        let code = Digest::of(b"print 1");
        assert_eq!(ids(format!("/code/{code}/executions")).await, (vec![again.clone(), sent], false));
        assert_eq!(ids(format!("/code/{code}/executions?limit=1")).await, (vec![again], true));
        let node = &site.get(&format!("/code/{code}/executions")).await.expect(200)["items"][0];
        assert_eq!(node["code_hash"], code.to_string());
        for bad in ["abc", &code.to_string().to_uppercase(), &maker] {
            site.get(&format!("/code/{bad}/executions")).await.refused(400);
            site.get(&format!("/artifacts/{bad}/consumers")).await.refused(400);
        }
    });
}

#[test]
fn the_prov_document_has_what_prov_demands() {
    run(async |site| {
        let (maker, taker) = pair(&site).await;
        let rerun =
            send(site.request(reqwest::Method::POST, &format!("/jobs/{taker}/rerun?wait=20"))).await.expect(200);
        let document = site.get(&format!("/executions/{maker}/lineage?format=prov")).await.expect(200);
        let section = |name: &str| document[name].as_object().unwrap();
        assert_eq!(document["prefix"]["tako"], "urn:tako-vm:");
        assert_eq!(section("activity").len(), 3);
        // Every statement speaks of what is declared.
        let declared = |id: &Value| {
            ["entity", "activity", "agent"].iter().any(|kind| section(kind).contains_key(id.as_str().unwrap()))
        };
        for (name, fields) in [
            ("used", vec!["prov:activity", "prov:entity"]),
            ("wasGeneratedBy", vec!["prov:activity", "prov:entity"]),
            ("wasInformedBy", vec!["prov:informed", "prov:informant"]),
            ("wasAssociatedWith", vec!["prov:activity", "prov:agent", "prov:plan"]),
        ] {
            assert!(!section(name).is_empty(), "{name}");
            for statement in section(name).values() {
                fields.iter().for_each(|field| assert!(declared(&statement[*field]), "{name}: {statement}"));
            }
        }
        // Nothing is generated twice, and what the taker used is what the maker generated.
        let generated: Vec<_> = section("wasGeneratedBy").values().map(|said| &said["prov:entity"]).collect();
        let distinct: std::collections::BTreeSet<_> = generated.iter().map(|id| id.as_str()).collect();
        assert_eq!(generated.len(), distinct.len());
        let result = format!("tako:artifact.{maker}.0");
        assert!(generated.contains(&&json!(result)), "{document:#}");
        assert_eq!(section("entity")[&result]["prov:label"], "result.json");
        let used = section("used").values().filter(|said| said["prov:entity"] == result).count();
        assert_eq!(used, 2, "by the taker and by its rerun");
        let informed = section("wasInformedBy").values().next().unwrap();
        assert_eq!(informed["prov:informed"], format!("tako:execution.{}", rerun["execution_id"].as_str().unwrap()));
        assert_eq!(informed["tako:relationship"], "rerun");
    });
}

#[test]
fn the_openlineage_events_have_what_openlineage_demands() {
    run(async |site| {
        let (maker, taker) = pair(&site).await;
        let fork = site.post(&format!("/jobs/{taker}/fork?wait=20"), &json!({"code": "exit 3"})).await.expect(200);
        let events = site.get(&format!("/executions/{maker}/lineage?format=openlineage")).await.expect(200);
        let events = events.as_array().unwrap();
        assert_eq!(events.len(), 6);
        for event in events {
            for pointer in ["/eventTime", "/producer", "/schemaURL", "/run/runId", "/job/namespace", "/job/name"] {
                assert!(event.pointer(pointer).is_some_and(Value::is_string), "{pointer}: {event:#}");
            }
            let facets = event["run"]["facets"].as_object().unwrap().values();
            let datasets = ["inputs", "outputs"].map(|side| event[side].as_array().unwrap().clone()).concat();
            let facets: Vec<_> = facets.chain(datasets.iter().map(|set| &set["facets"]["version"])).collect();
            for facet in facets {
                assert!(facet["_producer"].is_string() && facet["_schemaURL"].is_string(), "{facet}");
            }
        }
        let of = |id: &str, kind: &str| {
            let is = |event: &&Value| event["run"]["runId"] == id && event["eventType"] == kind;
            events.iter().find(is).unwrap_or_else(|| panic!("{kind} of {id}"))
        };
        let names = |event: &Value, side: &str| -> Vec<String> {
            event[side].as_array().unwrap().iter().map(|set| set["name"].as_str().unwrap().to_owned()).collect()
        };
        let result = format!("{maker}/result.json");
        assert!(names(of(&maker, "COMPLETE"), "outputs").contains(&result));
        assert!(names(of(&taker, "START"), "inputs").contains(&result));
        let failed = of(fork["execution_id"].as_str().unwrap(), "FAIL");
        assert_eq!(failed["run"]["facets"]["parent"]["run"]["runId"], json!(taker));
        assert!(failed["run"]["facets"]["errorMessage"]["message"].as_str().unwrap().contains("status 3"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_job_shows_its_attempts_and_the_command_prints_the_tree() {
    let quick = |config: &mut tako_vm::config::Config| {
        config.retry.base_delay = std::time::Duration::from_millis(10);
        config.queue.poll_interval = std::time::Duration::from_millis(50);
    };
    let world = World::start_with(quick, scripted()).await;
    let (_, accepted) = world.post("/jobs", json!({"code": "lose", "max_attempts": 2})).await;
    let lost: uuid::Uuid = accepted["execution_id"].as_str().unwrap().parse().unwrap();
    world.ended(lost).await;
    let graph = world.get(&format!("/executions/{lost}/lineage")).await.1;
    let outcomes: Vec<_> =
        graph["nodes"][0]["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, [&json!("retried"), &json!("ended")]);

    let maker = world.submit("output {}").await;
    world.ended(maker).await;
    let body = json!({"code": "print 1", "files": {"x.json": {"from": format!("{maker}/result.json")}}});
    let taker = world.post("/jobs?wait=20", body).await.1["execution_id"].as_str().unwrap().to_owned();
    let replay = world.post(&format!("/executions/{taker}/replay?wait=20"), json!({})).await.1;
    let replay = replay["execution_id"].as_str().unwrap();
    let (url, asked) = (world.url.clone(), taker.clone());
    let tree = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        String::from_utf8(command.args(["lineage", &asked, "--url", &url]).output().unwrap().stdout).unwrap()
    });
    let tree = tree.await.unwrap();
    let lines: Vec<_> = tree.lines().collect();
    let hash = Digest::of(b"{}").short();
    assert!(lines[0].starts_with(&format!("{maker}  succeeded")), "{tree}");
    assert!(lines[1].starts_with(&format!("  result.json ({hash}) as x.json: {taker}")), "{tree}");
    assert!(lines[1].ends_with("  <"), "{tree}");
    assert!(lines[2].starts_with(&format!("    replay: {replay}")) && lines[2].ends_with("identical"), "{tree}");
    assert_eq!(lines[3], format!("  result.json ({hash}) as x.json: {replay}  (above)"));
}

//! One key, one execution.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::json;

use super::site::run;

#[test]
fn fifty_clients_with_one_key_get_one_execution() {
    run(async |site| {
        let body = json!({"code": "sleep 200\nprint 1", "input_data": {"a": 1}, "idempotency_key": "race"});
        let answers = join_all((0..50).map(|number| {
            let path = ["/execute/async", "/jobs", "/execute"][number % 3];
            site.post(path, &body)
        }))
        .await;
        let ids: BTreeSet<_> = answers
            .iter()
            .map(|answer| {
                assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
                answer.json()["job_id"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(site.get("/executions").await.expect(200)["count"], 1);
        for answer in answers.iter().map(|answer| answer.json()).filter(|answer| answer.get("success").is_some()) {
            assert_eq!(answer["stdout"], "1\n");
        }
    });
}

#[test]
fn a_key_with_another_payload_is_a_conflict_that_names_the_first() {
    run(async |site| {
        let first = site.ended_with(&json!({"code": "print 1", "idempotency_key": "k"})).await;
        for other in [
            json!({"code": "print 2", "idempotency_key": "k"}),
            json!({"code": "print 1", "idempotency_key": "k", "timeout": 5}),
            json!({"code": "print 1", "idempotency_key": "k", "input_data": {"a": 1}}),
        ] {
            for path in ["/execute", "/execute/async", "/jobs"] {
                let problem = site.post(path, &other).await.expect(409);
                assert_eq!(problem["existing_job_id"], json!(first));
            }
        }
        let again = site.post("/execute/async", &json!({"idempotency_key": "k", "code": "print 1"})).await.expect(200);
        assert_eq!(
            (&again["job_id"], &again["status"], &again["repeated"]),
            (&json!(first), &json!("succeeded"), &json!(true))
        );
        let result = site.post("/execute", &json!({"code": "print 1", "idempotency_key": "k"})).await.expect(200);
        assert_eq!((&result["execution_id"], &result["stdout"]), (&json!(first), &json!("1\n")));
        assert_eq!(site.get("/executions").await.expect(200)["count"], 1);
    });
}

#[test]
fn fifty_clients_with_two_payloads_agree_on_one() {
    run(async |site| {
        let site = &site;
        let answers = join_all((0..50).map(|number| {
            let body = json!({"code": format!("print {}", number % 2), "idempotency_key": "two"});
            async move { (site.post("/execute/async", &body).await, number % 2) }
        }))
        .await;
        let accepted: BTreeSet<_> =
            answers.iter().filter(|(answer, _)| answer.status == 200).map(|(_, which)| which).collect();
        assert_eq!(accepted.len(), 1);
        let refused = answers.iter().filter(|(answer, _)| answer.status == 409).count();
        assert_eq!(refused, 25);
    });
}

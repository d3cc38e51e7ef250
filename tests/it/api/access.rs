//! Keys, scopes, tenants and the rate limit.

use reqwest::Method;
use serde_json::json;
use tako_vm::config::{ApiKey, Config, Scope, Secret};
use tako_vm::domain::Digest;

use super::site::{Site, run_with, send};

fn key(name: &str, tenant: &str, scopes: &[Scope]) -> ApiKey {
    ApiKey {
        name: name.to_owned(),
        sha256: Secret::new(Digest::of(name.as_bytes()).to_string()),
        tenant: tenant.to_owned(),
        scopes: scopes.to_vec(),
    }
}

/// Each key's text is its name.
fn with_keys(config: &mut Config) {
    config.api_keys = vec![
        key("alice", "red", &[Scope::Submit, Scope::Read]),
        key("anna", "red", &[Scope::Read]),
        key("bob", "blue", &[Scope::Submit, Scope::Read]),
        key("root", "red", &[Scope::Admin]),
    ];
}

async fn operations(site: &Site) -> Vec<(Method, String, bool, String)> {
    let document = site.get("/openapi.json").await.expect(200);
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{id}", &uuid::Uuid::nil().to_string()).replace("{name}", "default");
            let method = method.to_uppercase().parse().unwrap();
            let described = operation["description"].as_str().unwrap_or_default().to_owned();
            operations.push((method, path, operation.get("security").is_some(), described));
        }
    }
    operations
}

#[test]
fn without_a_key_only_what_is_open_answers() {
    run_with(with_keys, async |site| {
        let operations = operations(&site).await;
        assert!(operations.len() > 30);
        for (method, path, is_guarded, _) in operations {
            let answer = send(site.request(method.clone(), &path)).await;
            assert_eq!(answer.status == 401, is_guarded, "{method} {path}: {}", answer.status);
            if is_guarded {
                assert_eq!(answer.header("www-authenticate"), "Bearer");
            }
        }
        for wrong in ["", "alic", "alicealice", &Digest::of(b"alice").to_string()] {
            site.with_key(wrong).get("/executions").await.expect(401);
        }
        let basic = site.request(Method::GET, "/executions").header("authorization", "Basic YWxpY2U6");
        send(basic).await.expect(401);
        send(site.request(Method::GET, "/executions").header("x-api-key", "alice")).await.expect(200);
        site.with_key("alice").get("/executions").await.expect(200);
    });
}

#[test]
fn a_strangers_body_is_not_read() {
    run_with(with_keys, async |site| {
        site.post_text("/jobs", "not json").await.expect(401);
        site.with_key("anna").post_text("/jobs", "not json").await.expect(403);
        site.with_key("alice").post_text("/jobs", "not json").await.expect(400);
    });
}

#[test]
fn a_key_does_what_its_scopes_say_and_no_more() {
    run_with(with_keys, async |site| {
        for (method, path, is_guarded, described) in operations(&site).await {
            for (name, scopes) in
                [("alice", vec!["submit", "read"]), ("anna", vec!["read"]), ("root", vec!["submit", "read", "admin"])]
            {
                let may = !is_guarded || scopes.iter().any(|scope| described.contains(&format!("`{scope}`")));
                let answer = send(site.with_key(name).request(method.clone(), &path)).await;
                assert_eq!(answer.status != 403, may, "{name} {method} {path}: {}", answer.status);
            }
        }
    });
}

#[test]
fn one_tenant_never_sees_anothers_jobs() {
    run_with(with_keys, async |site| {
        let (alice, bob, root) = (site.with_key("alice"), site.with_key("bob"), site.with_key("root"));
        let id = alice.ended_with(&json!({"code": "lose", "max_attempts": 1, "idempotency_key": "k"})).await;
        for (method, path) in [
            (Method::GET, format!("/jobs/{id}")),
            (Method::GET, format!("/jobs/{id}/result")),
            (Method::GET, format!("/jobs/{id}/events")),
            (Method::GET, format!("/jobs/{id}/output")),
            (Method::GET, format!("/jobs/{id}/artifacts/_code.py")),
            (Method::HEAD, format!("/jobs/{id}/artifacts/_code.py")),
            (Method::POST, format!("/jobs/{id}/cancel")),
            (Method::POST, format!("/jobs/{id}/rerun")),
            (Method::GET, format!("/executions/{id}")),
            (Method::GET, format!("/executions/{id}?at_version=1")),
            (Method::GET, format!("/executions/{id}/lineage")),
            (Method::POST, format!("/executions/{id}/replay")),
            (Method::DELETE, format!("/dlq/{id}")),
            (Method::POST, format!("/dlq/{id}/requeue")),
        ] {
            let answer = send(bob.request(method.clone(), &path)).await;
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
        }
        bob.post(&format!("/jobs/{id}/fork"), &json!({"code": "print 1"})).await.expect(404);
        for path in ["/executions", "/dlq"] {
            assert_eq!(bob.get(path).await.expect(200)["count"], 0, "{path}");
            assert_eq!(alice.get(path).await.expect(200)["count"], 1, "{path}");
        }
        assert_eq!(bob.get("/dlq/stats").await.expect(200)["total"], 0);
        let requeued = send(bob.request(Method::POST, "/dlq/requeue")).await.expect(200);
        assert_eq!(requeued["requeued"], 0);
        bob.get("/events").await.expect(403);
        assert!(root.get("/events").await.expect(200)["count"].as_u64().unwrap() > 0);

        let own = bob.ended_with(&json!({"code": "print bob", "idempotency_key": "k"})).await;
        assert_ne!(own, id);
        let record = bob.get(&format!("/executions/{own}?view=full")).await.expect(200);
        assert_eq!(record["idempotency_key"], "k");
    });
}

#[test]
fn a_client_beyond_its_rate_waits_whether_it_has_a_key_or_not() {
    let limited = |config: &mut Config| {
        with_keys(config);
        config.rate_limit.requests_per_minute = 6;
        config.rate_limit.burst = 5;
        config.rate_limit.exempt_loopback = false;
    };
    run_with(limited, async |site| {
        for _ in 0..5 {
            site.get("/executions").await.expect(401);
        }
        let problem = site.with_key("alice").get("/executions").await.expect(429);
        assert!((1..=10).contains(&problem["retry_after"].as_u64().unwrap()), "{problem}");
        site.get("/livez").await.expect(429);
    });
}

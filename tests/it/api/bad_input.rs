//! Whatever is sent, the answer is a 4xx with a sentence that helps, and nothing runs.

use reqwest::Method;
use serde_json::{Value, json};

use super::site::{run, send};

#[test]
fn a_bad_submission_is_refused_with_what_to_do() {
    run(async |site| {
        let nested = format!(r#"{{"code": "x", "input_data": {{"a": {}{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
        let deep = format!(r#"{{"code": {}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        let cases: &[(&str, u16, &str)] = &[
            ("", 400, "the body is empty: send a JSON object"),
            ("  \n ", 400, "the body is empty"),
            ("{", 400, "line 1 column 1"),
            ("{\"code\": \"x\",}", 400, "line 1 column 14"),
            ("{\"code\": 'x'}", 400, "not valid JSON"),
            ("[]", 422, "must be a JSON object"),
            ("\"code\"", 422, "must be a JSON object"),
            ("{}", 422, "code must be given"),
            (r#"{"code": ""}"#, 422, "code must not be empty: send the Python source"),
            (r#"{"code": " \n\t"}"#, 422, "code must not be empty"),
            (r#"{"code": null}"#, 422, "code must be given"),
            (r#"{"code": 5}"#, 422, "code has the wrong type: integer `5`, expected a string"),
            (r#"{"code": ["x"]}"#, 422, "code has the wrong type"),
            (r#"{"code": "x", "code": "y"}"#, 422, "code is given twice"),
            (r#"{"code": "x", "timeot": 1}"#, 422, "timeot is not a known field; did you mean \"timeout\"?"),
            (r#"{"code": "x", "__proto__": {}}"#, 422, "__proto__ is not a known field"),
            (r#"{"code": "a\u0000b"}"#, 422, "code contains a NUL character"),
            (r#"{"code": "\ud800"}"#, 422, "code contains a lone surrogate"),
            (r#"{"code": "x", "input_data": {"k": "\udead"}}"#, 422, "input_data contains a lone surrogate"),
            (r#"{"code": "x", "input_data": [1]}"#, 422, "input_data must be a JSON object"),
            (r#"{"code": "x", "input_data": "{}"}"#, 422, "input_data must be a JSON object"),
            (&nested, 422, "input_data is nested more than 100 levels deep"),
            (&deep, 422, "code has the wrong type"),
            (r#"{"code": "x", "timeout": "5"}"#, 422, "timeout has the wrong type"),
            (r#"{"code": "x", "timeout": true}"#, 422, "timeout has the wrong type"),
            (r#"{"code": "x", "timeout": 0}"#, 422, "timeout must be from 0.1 to 300 seconds"),
            (r#"{"code": "x", "timeout": -1}"#, 422, "timeout must be a positive number of seconds"),
            (r#"{"code": "x", "timeout": 1e300}"#, 422, "timeout must be a positive number of seconds"),
            (r#"{"code": "x", "timeout": 1e999}"#, 422, "timeout is a number out of range"),
            (r#"{"code": "x", "timeout": 301}"#, 422, "timeout must be from"),
            (r#"{"code": "x", "startup_timeout": 9}"#, 422, "startup_timeout must be from 10 to 600 seconds"),
            (r#"{"code": "x", "job_type": "defalt"}"#, 422, "did you mean \"default\"?"),
            (r#"{"code": "x", "job_type": ""}"#, 422, "job_type"),
            (r#"{"code": "x", "job_type": "a\u0000"}"#, 422, "job_type"),
            (r#"{"code": "x", "job_type": "default@latest"}"#, 422, "job_type"),
            (r#"{"code": "x", "requirements": ["numpy"]}"#, 422, "requirements are not allowed here"),
            (r#"{"code": "x", "requirements": "numpy"}"#, 422, "requirements has the wrong type"),
            (r#"{"code": "x", "requirements": [1]}"#, 422, "requirements[0] has the wrong type"),
            (r#"{"code": "x", "idempotency_key": ""}"#, 422, "idempotency_key must have from 1 to 128"),
            (r#"{"code": "x", "idempotency_key": "a\u0000"}"#, 422, "idempotency_key must not contain control"),
            (r#"{"code": "x", "priority": 10}"#, 422, "priority must be from 0 to 9"),
            (r#"{"code": "x", "priority": 99999}"#, 422, "priority"),
            (r#"{"code": "x", "max_attempts": 0}"#, 422, "max_attempts must be from 1 to 20"),
            (r#"{"code": "x", "max_attempts": -1}"#, 422, "max_attempts"),
            (r#"{"code": "x", "not_before": "tomorrow"}"#, 422, "not_before must be a time like"),
            (r#"{"code": "x", "files": {"a": "%%"}}"#, 422, "is not base64"),
            (r#"{"code": "x", "files": {"../a": ""}}"#, 422, "must be a relative path"),
            (r#"{"code": "x", "files": {"/etc/passwd": ""}}"#, 422, "must be a relative path"),
            (r#"{"code": "x", "files": {"a\u0000": ""}}"#, 422, "must not contain control characters"),
            (r#"{"code": "x", "files": {"data.json": ""}}"#, 422, "is taken by the input"),
            (r#"{"code": "x", "files": {"a": "", "a": ""}}"#, 422, "given twice"),
            (r#"{"code": "x", "tags": {"": "v"}}"#, 422, "tags must have names of 1 to 64"),
            (r#"{"code": "x", "tags": {"a": "\u0000"}}"#, 422, "tags must not contain control characters"),
            (r#"{"code": "x", "secrets": {"K": "hunter2"}}"#, 422, "secrets must be a list of names"),
            (r#"{"code": "x", "callback_url": "http://10.0.0.1/"}"#, 422, "callback_url is not available"),
        ];
        for path in ["/execute", "/execute/async", "/jobs"] {
            for (body, status, said) in cases {
                let answer = site.post_text(path, (*body).to_owned()).await;
                let detail = answer.refused(*status);
                assert!(detail.contains(said), "{path} {body}: {detail}");
                assert!(detail.len() < 1000 && !detail.contains("hunter2"), "{detail}");
            }
        }
        assert_eq!(site.get("/executions").await.expect(200)["count"], 0);
    });
}

#[test]
fn all_faults_are_told_at_once_by_field() {
    run(async |site| {
        let problem = site.post("/jobs", &json!({"code": "", "timeout": 999, "priority": -1})).await.expect(422);
        let fields: Vec<_> =
            problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(fields, ["code", "timeout", "priority"]);
    });
}

#[test]
fn what_is_too_large_is_413_however_it_is_sent() {
    run(async |site| {
        let code = "#".repeat(100 * 1024 + 1);
        assert!(
            site.post("/jobs", &json!({"code": code})).await.refused(413).contains("more than the limit of 102400")
        );
        site.post("/jobs?wait=20", &json!({"code": "#".repeat(100 * 1024)})).await.expect(200);
        let input = json!({"code": "x", "input_data": {"a": "i".repeat(1 << 20)}});
        assert!(site.post("/jobs", &input).await.refused(413).contains("input_data"));
        for size in [(2 << 20) + 1, 10 << 20, 40 << 20] {
            let body = json!({"code": "x", "input_data": {"a": "i".repeat(size)}}).to_string();
            let sized = site.post_text("/jobs", body.clone()).await;
            assert!(sized.refused(413).contains("larger than the limit of 2097152 bytes"));
            if size < 16 << 20 {
                let chunks: Vec<_> =
                    body.as_bytes().chunks(64 << 10).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
                let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
                assert!(site.post_text("/jobs", stream).await.refused(413).contains("larger than the limit"));
            }
        }
        let files: Value = (0..65).map(|n| (format!("f{n}"), json!(""))).collect::<serde_json::Map<_, _>>().into();
        assert!(
            site.post("/jobs", &json!({"code": "x", "files": files})).await.refused(422).contains("at most 64 files")
        );
    });
}

#[test]
fn bodies_that_are_no_text_or_no_json_are_refused_and_a_wrong_label_on_json_is_forgiven() {
    run(async |site| {
        let labelled = async |label: &str, body: &'static [u8]| {
            send(site.request(Method::POST, "/jobs").header("content-type", label).body(body)).await
        };
        let good = br#"{"code": "print 1"}"#;
        for label in [
            "application/json",
            "application/json; charset=utf-8",
            "text/plain",
            "application/x-www-form-urlencoded",
            "nonsense",
        ] {
            labelled(label, good).await.expect(202);
        }
        send(site.request(Method::POST, "/jobs").body(&good[..])).await.expect(202);
        assert!(labelled("text/plain", b"code=print").await.refused(415).contains("send application/json"));
        assert!(
            labelled("application/json", b"{\"code\": \"\xff\"}").await.refused(400).contains("not UTF-8 from byte 10")
        );
        let zipped = site.request(Method::POST, "/jobs").header("content-encoding", "gzip").body(&good[..]);
        send(zipped).await.refused(415);
    });
}

#[test]
fn an_id_that_is_none_is_400_and_one_that_is_unknown_404() {
    run(async |site| {
        let unknown = uuid::Uuid::now_v7();
        let paths = |id: &str| {
            [
                (Method::GET, format!("/jobs/{id}")),
                (Method::GET, format!("/jobs/{id}/result")),
                (Method::GET, format!("/jobs/{id}/events")),
                (Method::GET, format!("/jobs/{id}/output")),
                (Method::GET, format!("/jobs/{id}/artifacts/a")),
                (Method::POST, format!("/jobs/{id}/cancel")),
                (Method::POST, format!("/jobs/{id}/rerun")),
                (Method::GET, format!("/executions/{id}")),
                (Method::GET, format!("/executions/{id}/lineage")),
                (Method::POST, format!("/executions/{id}/replay")),
                (Method::DELETE, format!("/dlq/{id}")),
                (Method::POST, format!("/dlq/{id}/requeue")),
            ]
        };
        for (method, path) in paths(&unknown.to_string()) {
            let detail = send(site.request(method, &path)).await.refused(404);
            assert!(detail.contains(&unknown.to_string()), "{path}: {detail}");
        }
        let long = "a".repeat(3000);
        for id in [
            "x",
            "1",
            "%00",
            "%ff",
            "..%2f..%2fetc%2fpasswd",
            "a%20b",
            "%F0%9F%98%80",
            &unknown.simple().to_string(),
            &long,
        ] {
            for (method, path) in paths(id) {
                let detail = send(site.request(method, &path)).await.refused(400);
                assert!(detail.contains("is not an id") && detail.len() < 400, "{path}: {detail}");
            }
        }
    });
}

#[test]
fn paths_that_no_client_library_sends_are_refused_too() {
    run(async |site| {
        for target in ["/jobs/../../etc/passwd", "//", "/jobs//result", "/jobs/%", "/executions/%c0%ae", "/%2e%2e/x"] {
            let answer =
                site.raw(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 40"), "{target}: {answer}");
            assert!(answer.to_ascii_lowercase().contains("x-correlation-id:"), "{target}: {answer}");
        }
        let garbage = site.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await;
        assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
        let cut = site
            .raw(b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nZZ\r\n")
            .await;
        assert!(cut.starts_with("HTTP/1.1 400"), "{cut}");
        site.get("/livez").await.expect(200);
    });
}

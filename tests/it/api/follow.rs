//! Streams: events and output as they happen, from where the client left.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tako_vm::clock::{Clock as _, SystemClock};

use super::site::{Site, run, run_to_the_stop, send};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub id: String,
    pub event: String,
    pub data: Value,
}

/// A stream that is being read.
pub(super) struct Reader {
    response: futures::stream::BoxStream<'static, Vec<u8>>,
    text: String,
}

impl Reader {
    pub(super) fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let response = response.bytes_stream().map(|chunk| chunk.unwrap().to_vec()).boxed();
        Self { response, text: String::new() }
    }

    /// The next event; `None` when the server has ended the stream.
    pub(super) async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(Duration::from_secs(20), self.read()).await.expect("the stream goes on")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                if !event.starts_with(':') {
                    return Some(parsed(&event));
                }
                continue;
            }
            self.text.push_str(std::str::from_utf8(&self.response.next().await?).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parsed(text: &str) -> Event {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default().to_owned()
    };
    Event { id: field("id"), event: field("event"), data: serde_json::from_str(&field("data")).unwrap() }
}

async fn follow(site: &Site, path: &str, last: Option<&str>) -> Reader {
    let mut request = site.request(Method::GET, path).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    Reader::of(request.send().await.unwrap())
}

fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

#[test]
fn events_come_as_they_happen_and_end_with_the_job() {
    run(async |site| {
        let id = site.queued("sleep 300\nprint 1").await;
        let path = format!("/jobs/{id}/events");
        let mut reader = follow(&site, &path, None).await;
        let first = reader.next().await.unwrap();
        assert_eq!((first.id.as_str(), first.event.as_str()), ("1", "JobSubmitted"));
        assert_eq!(first.data["stream_id"], json!(id));
        let rest = reader.rest().await;
        assert_eq!(types(&rest), ["JobDequeued", "ExecutionStarted", "ExecutionSucceeded"]);

        let listed = site.get(&path).await.expect(200);
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), 4);
        for (version, item) in items.iter().enumerate() {
            assert_eq!(item["version"], version + 1);
            let before = version.checked_sub(1).map_or(&Value::Null, |before| &items[before]["hash"]);
            assert_eq!(&item["prev_hash"], before);
        }
        assert_eq!(rest[2].data, items[3]);
        assert_eq!(follow(&site, &path, Some("2")).await.rest().await, rest[1..]);
        assert_eq!(follow(&site, &path, Some("4")).await.rest().await, []);
        assert_eq!(site.get(&format!("{path}?after=3")).await.expect(200)["count"], 1);
        let nonsense =
            site.request(Method::GET, &path).header("accept", "text/event-stream").header("last-event-id", "x");
        send(nonsense).await.expect(400);
    });
}

#[test]
fn output_comes_while_it_is_written_and_resumes_where_the_client_left() {
    run(async |site| {
        let id = site.queued("print one\nsleep 1000\nprint two\nexit 3").await;
        let path = format!("/jobs/{id}/output");
        let mut reader = follow(&site, &path, None).await;
        let one = reader.next().await.unwrap();
        assert_eq!((one.event.as_str(), &one.data), ("stdout", &json!({"offset": 0, "text": "one\n"})));
        // Not ended: what was read above was live.
        assert_eq!(site.get(&format!("/jobs/{id}")).await.expect(200)["status"], "running");
        let rest = reader.rest().await;
        assert_eq!(types(&rest), ["stdout", "end"]);
        assert_eq!(rest[0].data, json!({"offset": 4, "text": "two\n"}));
        assert_eq!((&rest[1].data["status"], &rest[1].data["exit_code"]), (&json!("failed"), &json!(3)));

        assert_eq!(follow(&site, &path, Some(&one.id)).await.rest().await, rest);
        let again = follow(&site, &path, None).await.rest().await;
        assert_eq!(again[0].data, json!({"offset": 0, "text": "one\ntwo\n"}));
        assert_eq!(types(&follow(&site, &path, Some(&rest[0].id)).await.rest().await), ["end"]);
    });
}

#[test]
fn the_output_of_a_job_that_waits_comes_when_it_runs() {
    run(async |site| {
        let soon = SystemClock.now() + chrono::TimeDelta::milliseconds(600);
        let body = json!({"code": "print late", "not_before": soon.to_rfc3339()});
        let id = site.post("/jobs", &body).await.expect(202)["job_id"].as_str().unwrap().to_owned();
        let progress = site.get(&format!("/jobs/{id}/result")).await.expect(200);
        assert_eq!(progress["status"], "queued");
        let events = follow(&site, &format!("/jobs/{id}/output"), None).await.rest().await;
        assert_eq!(types(&events), ["stdout", "end"]);
        assert_eq!(events[0].data["text"], "late\n");
    });
}

#[test]
fn the_log_is_read_in_order_and_by_type() {
    run(async |site| {
        let ids = [site.ended("print 1").await, site.ended("exit 1").await];
        let page = site.get("/events?limit=1000").await.expect(200);
        let positions: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|item| item["position"].as_i64().unwrap()).collect();
        assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>());
        assert_eq!(page["next_after"], json!(positions.len()));
        let of_type = site.get("/events?type=JobSubmitted,ExecutionFailed").await.expect(200);
        let of_type: Vec<_> =
            of_type["items"].as_array().unwrap().iter().map(|item| (&item["type"], &item["stream_id"])).collect();
        let [one, two] = ids.map(|id| json!(id));
        let (submitted, failed) = (json!("JobSubmitted"), json!("ExecutionFailed"));
        assert_eq!(of_type, [(&submitted, &one), (&submitted, &two), (&failed, &two)]);
        let next = site.get("/events?after=2&limit=1").await.expect(200);
        assert_eq!((&next["items"][0]["position"], &next["next_after"]), (&json!(3), &json!(3)));
        assert!(site.get("/events?type=JobSubmited").await.refused(422).contains("there are JobSubmitted"));
        site.get("/events?limit=1001").await.refused(422);
        site.get("/events?after=-1").await.refused(422);

        let mut reader = follow(&site, "/events?type=JobSubmitted", Some(&positions.len().to_string())).await;
        let third = site.ended("print 3").await;
        let event = reader.next().await.unwrap();
        assert_eq!((event.event.as_str(), &event.data["stream_id"]), ("JobSubmitted", &json!(third)));
    });
}

#[test]
fn a_stopping_server_lets_go_of_those_who_wait() {
    let started = async |site: Site| {
        let later = SystemClock.now() + chrono::TimeDelta::hours(1);
        let body = json!({"code": "print late", "not_before": later.to_rfc3339()});
        let id = site.post("/jobs", &body).await.expect(202)["job_id"].as_str().unwrap().to_owned();
        let mut reader = follow(&site, &format!("/jobs/{id}/events"), None).await;
        assert_eq!(reader.next().await.unwrap().event, "JobSubmitted");
        let clients = ["/jobs?wait=300", "/execute"].map(|path| {
            let request = site.request(Method::POST, path).json(&body);
            actix::spawn(async move { send(request).await })
        });
        // Each client's job is there, so the client waits or is about to.
        while site.get("/executions").await.expect(200)["count"] != 3 {}
        (reader, clients)
    };
    run_to_the_stop(
        |_| {},
        started,
        async |(reader, clients)| {
            let limit = Duration::from_secs(10);
            assert_eq!(tokio::time::timeout(limit, reader.rest()).await.unwrap(), []);
            let [submit, execute] = clients.map(|client| tokio::time::timeout(limit, client));
            submit.await.unwrap().unwrap().expect(202);
            assert!(execute.await.unwrap().unwrap().refused(503).contains("not lost"));
        },
    );
}

//! Server-sent events (WHATWG HTML, section 9.2).

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;

use super::app::App;
use super::problem::{Kind, Problem};

/// A comment is sent when nothing else was for so long, so that proxies keep the connection and
/// a client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where a stream's source writes to. Waits while the client is slow.
pub struct Sink(mpsc::Sender<Bytes>);

/// The client is gone, or the stream cannot go on; the source stops.
pub struct Ended;

impl Sink {
    pub async fn send(&self, id: &str, event: &str, data: &str) -> Result<(), Ended> {
        self.0.send(written(id, event, data)).await.map_err(|_| Ended)
    }
}

impl From<Problem> for Ended {
    /// The client comes again with its last id, and is told then if it still does not work.
    fn from(problem: Problem) -> Self {
        tracing::warn!(problem = %problem, "an event stream ended early");
        Self
    }
}

fn written(id: &str, event: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + 64);
    // Writing to a string does not fail.
    let _ = writeln!(text, "id: {id}\nevent: {event}");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
    text.into()
}

pub fn is_wanted(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// What the client saw last, if it comes again.
///
/// # Errors
/// Malformed, for an id that is none of ours.
pub fn last_event_id<T>(request: &HttpRequest, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let Some(value) = request.headers().get("last-event-id") else { return Ok(None) };
    match value.to_str().ok().and_then(read) {
        Some(id) => Ok(Some(id)),
        None => Err(Problem::new(Kind::Malformed, "Last-Event-ID is not an id that this stream sent")),
    }
}

/// Answers with what the source sends, until it ends, the client goes or the server stops.
pub fn answer<F>(app: &web::Data<App>, source: impl FnOnce(web::Data<App>, Sink) -> F) -> HttpResponse
where
    F: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    let (gone, stopping) = (sender.clone(), app.stopping.clone());
    let source = source(app.clone(), Sink(sender));
    app.io.spawn(async move {
        tokio::select! {
            _ = source => {}
            () = gone.closed() => {}
            () = stopping.cancelled() => {}
        }
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        let chunk = match tokio::time::timeout(HEARTBEAT, receiver.recv()).await {
            Ok(chunk) => chunk?,
            Err(_elapsed) => Bytes::from_static(b": alive\n\n"),
        };
        Some((Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(body)
}

/// Pauses between looks at the database: short while things happen, longer while they do not.
pub struct Pace(Duration);

impl Pace {
    const SHORTEST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    pub fn new() -> Self {
        Self(Self::SHORTEST)
    }

    pub fn quicken(&mut self) {
        self.0 = Self::SHORTEST;
    }

    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        self.0 = (self.0 * 3 / 2).min(Self::LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_many_lines_stays_one_event() {
        assert_eq!(written("3", "Say", "a\nid: 9\r\n"), "id: 3\nevent: Say\ndata: a\ndata: id: 9\ndata: \ndata: \n\n");
    }
}

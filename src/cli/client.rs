//! Speaks to a running server, for the commands that need one.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{Context, dev};

/// Which server a command speaks to.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The server; without it the one of `dev up`, else the configured address
    #[arg(long, env = "TAKO_VM_URL")]
    url: Option<String>,
    /// An API key, where the server wants one
    #[arg(long, env = "TAKO_VM_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

/// A connection to one server.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: String,
    api_key: Option<String>,
}

impl Server {
    pub(super) fn connect(self, context: &Context) -> Result<Client> {
        let url = match self.url {
            Some(url) => url,
            None => dev::server_url(&context.load()?.config),
        };
        Ok(Client {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            // The server is this machine or is named; a proxy of the environment is not meant.
            http: reqwest::Client::builder().no_proxy().build()?,
            url: url.trim_end_matches('/').to_owned(),
            api_key: self.api_key,
        })
    }
}

impl Client {
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None, Duration::from_secs(30))
    }

    /// Posts JSON text, or nothing, and waits up to `patience` for the answer.
    pub(super) fn post(&self, path: &str, body: Option<String>, patience: Duration) -> Result<Value> {
        self.call(Method::POST, path, body, patience)
    }

    /// Deletes, which may need a word of why.
    pub(super) fn delete(&self, path: &str, body: Option<String>) -> Result<Value> {
        self.call(Method::DELETE, path, body, Duration::from_secs(30))
    }

    pub(super) fn put(&self, path: &str, body: String, patience: Duration) -> Result<Value> {
        self.call(Method::PUT, path, Some(body), patience)
    }

    /// Posts among others; inside [`Client::block_on`].
    pub(super) async fn post_async(&self, path: &str, body: Option<String>, patience: Duration) -> Result<Value> {
        let (status, body) = self.ask(Method::POST, path, body, patience).await?;
        accept(status, body)
    }

    /// Works on the client's own runtime.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The record of an execution once it has ended.
    pub(super) fn wait(&self, execution_id: &str) -> Result<Value> {
        loop {
            let path = format!("/jobs/{execution_id}/result?wait=true&timeout=20&view=full");
            match self.try_call(Method::GET, &path, None, Duration::from_secs(40))? {
                (StatusCode::REQUEST_TIMEOUT, _) => {}
                (status, body) => return accept(status, body),
            }
        }
    }

    /// Posts and hands over each server-sent event of the answer, name and data, until its end.
    pub(super) fn follow(&self, path: &str, mut take: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let mut request = self.http.post(format!("{}{path}", self.url));
            request = request.header(reqwest::header::ACCEPT, "text/event-stream");
            if let Some(key) = &self.api_key {
                request = request.bearer_auth(key);
            }
            let no_answer = || format!("no answer from {}; is the server running?", self.url);
            let mut answer = request.send().await.with_context(no_answer)?;
            let status = answer.status();
            if !status.is_success() {
                let body = answer.bytes().await.with_context(no_answer)?;
                return accept(status, serde_json::from_slice(&body).unwrap_or(Value::Null)).map(drop);
            }
            let mut bytes = Vec::new();
            let mut event = Sent::default();
            while let Some(piece) = answer.chunk().await.with_context(no_answer)? {
                bytes.extend_from_slice(&piece);
                while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
                    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
                    bytes.drain(..=end);
                    if let Some((name, data)) = event.read(&line) {
                        take(&name, &data)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn call(&self, method: Method, path: &str, body: Option<String>, patience: Duration) -> Result<Value> {
        let (status, body) = self.try_call(method, path, body, patience)?;
        accept(status, body)
    }

    fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<(StatusCode, Value)> {
        self.runtime.block_on(self.ask(method, path, body, patience))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).timeout(patience);
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        }
        let answer = async {
            let answer = request.send().await?;
            let status = answer.status();
            let body = answer.bytes().await?;
            Ok::<_, reqwest::Error>((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        answer.await.with_context(|| format!("no answer from {}; is the server running?", self.url))
    }
}

/// A server-sent event, line by line.
#[derive(Default)]
struct Sent {
    name: String,
    data: Vec<String>,
}

impl Sent {
    /// The event, once its last line is read.
    fn read(&mut self, line: &str) -> Option<(String, String)> {
        if line.is_empty() {
            let Self { name, data } = std::mem::take(self);
            return (!name.is_empty()).then(|| (name, data.join("\n")));
        }
        if let Some(name) = line.strip_prefix("event: ") {
            self.name = name.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            self.data.push(data.to_owned());
        }
        None
    }
}

/// The body of a good answer; a problem's own words otherwise.
fn accept(status: StatusCode, body: Value) -> Result<Value> {
    if status.is_success() {
        return Ok(body);
    }
    let detail = body.get("detail").or(body.get("title")).and_then(Value::as_str);
    match detail {
        Some(detail) => bail!("{detail} ({status})"),
        None => bail!("the server answered {status}"),
    }
}

/// A text field of an answer, for people; a dash for what is not there.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("-")
}

/// For a query.
pub(super) fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

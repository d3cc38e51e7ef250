//! One connection of the code, from its request to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::address::is_public;
use super::client_hello::{self, Hello};
use super::gate::Gate;
use super::observed::Counters;
use super::request::{self, Kind, MAX_HEAD_BYTES, NotARequest, Request};
use super::tls;
use crate::domain::{EgressRefusal, host_name};

/// For a head, a name, a connection or a first message of TLS, each.
const PATIENCE: Duration = Duration::from_secs(10);

const PIECE_BYTES: usize = 16 << 10;

/// Why a connection goes no further, and what the code is told.
struct Refused {
    reason: EgressRefusal,
    status: &'static str,
    detail: String,
}

impl Refused {
    fn new(reason: EgressRefusal, status: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, status, detail: detail.into() }
    }
}

/// See [`Gate::serve`].
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(gate: &Gate, mut client: S) {
    let mut target = None;
    if let Err(refused) = handle(gate, &mut client, &mut target).await {
        gate.observed.refused(target, refused.reason);
        let body = format!("tako-vm egress proxy: {}\n", refused.detail);
        let challenge = match refused.reason {
            EgressRefusal::WrongCredentials => "Proxy-Authenticate: Basic realm=\"job\"\r\n",
            _ => "",
        };
        let answer = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain\r\n{challenge}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            refused.status,
            body.len()
        );
        // An empty status says that a tunnel stood already: there is nothing to say in it.
        if !refused.status.is_empty() {
            let _ = client.write_all(answer.as_bytes()).await;
        }
    }
    let _ = client.shutdown().await;
}

async fn handle<S: AsyncRead + AsyncWrite + Unpin + Send>(
    gate: &Gate,
    client: &mut S,
    target: &mut Option<(String, u16)>,
) -> Result<(), Refused> {
    let malformed = |detail: String| Refused::new(EgressRefusal::Malformed, "400 Bad Request", detail);
    let (head, rest) = in_time(read_head(client)).await.map_err(|error| malformed(error.to_string()))?;
    let Request { credentials, host, mut port, kind } = request::read(&head).map_err(|error| match error {
        NotARequest::Malformed => malformed(error.to_string()),
        NotARequest::NotAName => Refused::new(EgressRefusal::NotAName, "403 Forbidden", error.to_string()),
        NotARequest::LengthRequired => Refused::new(EgressRefusal::Malformed, "411 Length Required", error.to_string()),
    })?;
    if !matches!(&credentials[..], [one] if gate.knows(one)) {
        let detail = "these are not this job's credentials: use those of HTTP_PROXY";
        return Err(Refused::new(EgressRefusal::WrongCredentials, "407 Proxy Authentication Required", detail));
    }
    let mut is_tls = false;
    if let Kind::Forward(forward) = &kind {
        let secured = if forward.is_https { Some(port) } else { gate.secured(&host, port) };
        is_tls = secured.is_some();
        port = secured.unwrap_or(port);
    }
    *target = Some((host.clone(), port));
    if !gate.allows(&host, port) {
        let detail = format!("{host}:{port} is not in the job type's network.allow");
        return Err(Refused::new(EgressRefusal::NotAllowed, "403 Forbidden", detail));
    }
    let mut server = connect(gate, &host, port).await?;
    match kind {
        Kind::Tunnel => {
            let established = b"HTTP/1.1 200 Connection established\r\n\r\n";
            let lost = |_| Refused::new(EgressRefusal::Malformed, "", "the code went away");
            client.write_all(established).await.map_err(lost)?;
            let hello = in_time(read_hello(client, rest, &host))
                .await
                .map_err(|error| Refused::new(EgressRefusal::WrongServerName, "", error.to_string()))?;
            let counters = gate.observed.connected(&host, port);
            tunnel(client, &mut server, &hello, u64::MAX, &counters).await;
        }
        Kind::Forward(forward) => {
            let mut head = forward.head(&host, port, is_tls, &gate.injections(&host, port, is_tls));
            let begun = rest.len().min(usize::try_from(forward.body_bytes).unwrap_or(usize::MAX));
            head.extend_from_slice(&rest[..begun]);
            // Nothing after this one request: another could name another host.
            let left = forward.body_bytes - begun as u64;
            if is_tls {
                let mut server = secure(gate, &host, port, server).await?;
                let counters = gate.observed.connected(&host, port);
                tunnel(client, &mut server, &head, left, &counters).await;
            } else {
                let counters = gate.observed.connected(&host, port);
                tunnel(client, &mut server, &head, left, &counters).await;
            }
        }
    }
    Ok(())
}

async fn secure(gate: &Gate, host: &str, port: u16, server: TcpStream) -> Result<TlsStream<TcpStream>, Refused> {
    let begun = match gate.network.tls() {
        Ok(trust) => in_time(tls::begin(trust, host, server)).await,
        Err(error) => Err(error),
    };
    begun.map_err(|error| {
        let detail = format!("{host}:{port} speaks no TLS that can be trusted: {error}");
        Refused::new(EgressRefusal::Unreachable, "502 Bad Gateway", detail)
    })
}

/// Resolves once, and connects to an address that was looked at. All must be public: a name that
/// has others too is somebody's attempt, or somebody's inside.
async fn connect(gate: &Gate, host: &str, port: u16) -> Result<TcpStream, Refused> {
    let addresses = in_time(gate.network.resolve(host)).await.unwrap_or_default();
    if addresses.is_empty() {
        let detail = format!("{host} has no address");
        return Err(Refused::new(EgressRefusal::Unresolvable, "502 Bad Gateway", detail));
    }
    if !addresses.iter().all(|address| is_public(*address)) {
        let detail = format!("{host} has an address that is not public");
        return Err(Refused::new(EgressRefusal::NotPublic, "403 Forbidden", detail));
    }
    for address in addresses {
        if let Ok(server) = in_time(gate.network.connect(SocketAddr::new(address, port))).await {
            let _ = server.set_nodelay(true);
            return Ok(server);
        }
    }
    Err(Refused::new(EgressRefusal::Unreachable, "502 Bad Gateway", format!("{host}:{port} does not answer")))
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The head with its empty line, and what came behind it.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((bytes, rest));
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head is too long"));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What the code says first in a tunnel, once it is known to be TLS for that host.
async fn read_hello(client: &mut (impl AsyncRead + Unpin), mut bytes: Vec<u8>, host: &str) -> io::Result<Vec<u8>> {
    loop {
        match client_hello::read(&bytes) {
            Hello::Names(name) if host_name(&name).as_deref() == Some(host) => return Ok(bytes),
            Hello::Names(_) | Hello::Refused => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS for the host of the tunnel"));
            }
            Hello::Incomplete => {}
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Carries bytes both ways, at most so many from the code after the first ones, until the
/// server has said all.
async fn tunnel(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    first: &[u8],
    most: u64,
    counters: &Counters,
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let outward = async {
        to_server.write_all(first).await?;
        to_server.flush().await?;
        counters.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
        carry(&mut (&mut from_client).take(most), &mut to_server, &counters.sent).await?;
        // A request is over when its body is; its server must not think that it is cancelled.
        if most == u64::MAX { to_server.shutdown().await } else { Ok(()) }
    };
    let inward = carry(&mut from_server, &mut to_client, &counters.received);
    tokio::pin!(outward, inward);
    let mut sent_all = false;
    loop {
        tokio::select! {
            sent = &mut outward, if !sent_all => {
                if sent.is_err() {
                    return;
                }
                sent_all = true;
            }
            // With the server gone there is nobody left to send to.
            _ = &mut inward => return,
        }
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counter: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        // What encrypts keeps some back otherwise.
        to.flush().await?;
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

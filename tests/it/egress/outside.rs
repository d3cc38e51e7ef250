//! A world outside for tests: names that resolve as a test says, and one server behind all of them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tako_vm::egress::{Network, tls_client};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Every check of the gate holds here too: only where a checked address leads is the test's.
pub struct Outside {
    names: HashMap<String, Vec<Vec<IpAddr>>>,
    server: SocketAddr,
    asked: Mutex<Vec<String>>,
    connected: Mutex<Vec<SocketAddr>>,
    heads: Arc<Mutex<Vec<String>>>,
    trust: Option<Arc<ClientConfig>>,
}

impl Outside {
    /// Each name with its answers, one after the other; the last one stays.
    pub async fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        Self::start(names, None, None).await
    }

    /// Its server speaks TLS for these hosts, under a CA that nobody else knows.
    pub async fn with_tls(names: &[(&str, &[&[&str]])], hosts: &[&str]) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let certificate = CertificateParams::new(hosts).unwrap().signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let trust = tls_client(roots).unwrap();
        Self::start(names, Some(TlsAcceptor::from(Arc::new(config))), Some(trust)).await
    }

    async fn start(
        names: &[(&str, &[&[&str]])],
        acceptor: Option<TlsAcceptor>,
        trust: Option<Arc<ClientConfig>>,
    ) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(welcome(stream, acceptor.clone(), Arc::clone(&seen)));
            }
        });
        let answers = |answers: &[&[&str]]| {
            answers.iter().map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect()).collect()
        };
        Arc::new(Self {
            names: names.iter().map(|(name, given)| ((*name).to_owned(), answers(given))).collect(),
            server,
            asked: Mutex::default(),
            connected: Mutex::default(),
            heads,
            trust,
        })
    }

    /// Of every request that came, over TLS or not.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub fn connected(&self) -> Vec<SocketAddr> {
        self.connected.lock().unwrap().clone()
    }
}

#[async_trait]
impl Network for Outside {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let before = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(host.to_owned());
            asked.iter().filter(|name| *name == host).count() - 1
        };
        let answers = self.names.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(answers.get(before).or(answers.last()).unwrap().clone())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connected.lock().unwrap().push(address);
        TcpStream::connect(self.server).await
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        self.trust.clone().ok_or_else(|| io::Error::other("nobody is trusted"))
    }
}

const BIG: usize = 5 << 20;

/// Says back what TLS says to it; to HTTP says what it was asked, or much for `/big`.
async fn welcome(stream: TcpStream, acceptor: Option<TlsAcceptor>, heads: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    match acceptor.filter(|_| first == [22]) {
        Some(acceptor) => serve(acceptor.accept(stream).await?, &heads).await,
        None => serve(stream, &heads).await,
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_buf(&mut bytes).await?;
    if bytes.first() == Some(&22) {
        while !bytes.is_empty() {
            stream.write_all(&bytes).await?;
            bytes.clear();
            stream.read_buf(&mut bytes).await?;
        }
        return Ok(());
    }
    let end = loop {
        match bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None if stream.read_buf(&mut bytes).await? == 0 => return Ok(()),
            None => {}
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    heads.lock().unwrap().push(head.clone());
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let body = match head.starts_with("GET /big ") {
        true => vec![b'x'; BIG],
        false => format!("{head}and {} bytes", bytes.len() - end).into_bytes(),
    };
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

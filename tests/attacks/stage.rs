//! What stands on the host for attacks to reach for: listeners, a secret, names.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use serde::Serialize;
use tempfile::NamedTempFile;
use uuid::Uuid;

/// Listeners that nobody may reach and a file that nobody may read.
pub struct Stage {
    told: Told,
    tcp: Vec<TcpListener>,
    udp: UdpSocket,
    local: UnixListener,
    _secret: NamedTempFile,
}

/// What an attack is told of the host, as its input.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// In no file name and no output of anybody else.
    pub token: String,
    /// Of listeners on the host's loopback interface, and of the neighbour's own.
    pub tcp_port: u16,
    pub udp_port: u16,
    pub neighbour_port: u16,
    /// An abstract socket of the host.
    pub socket: String,
    /// A file that everybody on the host may read.
    pub secret_path: String,
    #[serde(skip)]
    pub secret: String,
    /// Of the host's interfaces but the loopback one, its gateways and its name servers.
    pub addresses: Vec<String>,
}

impl Stage {
    pub fn set() -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let token = format!("tako-attack-{}", Uuid::new_v4().simple());
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        // The same port over IPv6, where the host has it.
        let tcp: Vec<_> = std::iter::once(first).chain(TcpListener::bind(("::1", port))).collect();
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let local = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&token)?)?;
        for listener in &tcp {
            listener.set_nonblocking(true)?;
        }
        udp.set_nonblocking(true)?;
        local.set_nonblocking(true)?;
        let mut file = NamedTempFile::new()?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        let secret = Uuid::new_v4().simple().to_string();
        file.write_all(secret.as_bytes())?;
        let told = Told {
            tcp_port: port,
            udp_port: udp.local_addr()?.port(),
            neighbour_port: super::neighbour::PORT,
            socket: token.clone(),
            secret_path: file.path().display().to_string(),
            secret,
            addresses: addresses(),
            token,
        };
        Ok(Self { told, tcp, udp, local, _secret: file })
    }

    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Who got through to the host; nobody may.
    pub fn visitors(&self) -> Vec<&'static str> {
        let mut visitors = Vec::new();
        if self.tcp.iter().any(|listener| listener.accept().is_ok()) {
            visitors.push("tcp");
        }
        if self.udp.recv(&mut [0; 16]).is_ok() {
            visitors.push("udp");
        }
        if self.local.accept().is_ok() {
            visitors.push("abstract socket");
        }
        visitors
    }

    /// Files of an attack that are on the host: each names its files by the token.
    pub fn strays(&self) -> Vec<String> {
        let places = ["/", "/tmp", "/var/tmp", "/dev/shm", "/output", "/code", "/input", "/run", "/etc", "/root"];
        let files = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let named = files.filter(|file| file.file_name().to_string_lossy().contains(&self.told.token));
        named.map(|file| file.path().display().to_string()).collect()
    }
}

/// Addresses that a sandbox with the host's network could reach.
fn addresses() -> Vec<String> {
    let mut found = vec!["169.254.169.254".to_owned(), "10.0.0.1".to_owned(), "172.17.0.1".to_owned()];
    // Gateways, as little-endian hexadecimal; see proc_net(5).
    for line in fs::read_to_string("/proc/net/route").unwrap_or_default().lines().skip(1) {
        if let Some(Ok(gateway)) = line.split_whitespace().nth(2).map(|hex| u32::from_str_radix(hex, 16)) {
            found.push(std::net::Ipv4Addr::from(gateway.swap_bytes()).to_string());
        }
    }
    let trie = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = trie.lines().collect();
    for pair in lines.windows(2) {
        if pair[1].contains("host LOCAL") {
            found.extend(pair[0].split_whitespace().last().map(str::to_owned));
        }
    }
    for line in fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
        found.extend(line.strip_prefix("nameserver ").map(|address| address.trim().to_owned()));
    }
    found.retain(|address| !address.starts_with("127.") && address != "0.0.0.0" && address != "::1");
    found.sort();
    found.dedup();
    found
}

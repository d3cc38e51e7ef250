//! Names and connections of the world outside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;

use super::tls;

/// Resolves and connects.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Every address of a name, now.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;

    /// Connects to that address and no other.
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream>;

    /// Whose word it takes for certificates; see [`super::tls_client`].
    ///
    /// # Errors
    /// When it takes nobody's.
    fn tls(&self) -> io::Result<Arc<ClientConfig>>;
}

/// This host's resolver and network.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNetwork;

#[async_trait]
impl Network for SystemNetwork {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // With the dot no search domain of the host is tried.
        let found = tokio::net::lookup_host((format!("{host}."), 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        // An address of this host's own is public too, and what listens there need not be.
        if stream.local_addr()?.ip() == address.ip() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is this host"));
        }
        Ok(stream)
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        tls::client_of_host()
    }
}

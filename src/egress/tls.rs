//! TLS that the proxy speaks itself, for requests into which it writes.

use std::io;
use std::sync::{Arc, LazyLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A client that believes those who vouch for certificates, and speaks HTTP/1.1.
///
/// # Errors
/// When there is nobody to be believed.
pub fn client(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    if roots.is_empty() {
        return Err(io::Error::other("the server's host has no CA certificates: install ca-certificates"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same with the CA certificates of this host, which are read once.
pub(super) fn client_of_host() -> io::Result<Arc<ClientConfig>> {
    static CLIENT: LazyLock<Result<Arc<ClientConfig>, String>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        // One that cannot be read vouches for nobody.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        client(roots).map_err(|error| error.to_string())
    });
    CLIENT.clone().map_err(io::Error::other)
}

/// Begins TLS with a host, whose certificate must be for this very name.
pub(super) async fn begin(
    client: Arc<ClientConfig>,
    host: &str,
    server: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(client).connect(name, server).await
}

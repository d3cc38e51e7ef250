//! One job's way out: what it may reach, how it proves who it is, what it did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite};

use super::injection::Injection;
use super::network::Network;
use super::observed::Observed;
use super::proxy;
use crate::domain::{Digest, EgressObserved, HostRule};

/// Where the guest listens for the code, on the sandbox's own loopback.
pub const PORT: u16 = 3128;

const USER: &str = "job";

/// See the module.
pub struct Gate {
    pub(super) rules: Vec<HostRule>,
    pub(super) network: Arc<dyn Network>,
    pub(super) observed: Observed,
    injections: Vec<Injection>,
    token: String,
}

impl Gate {
    /// A gate with credentials of its own, which nobody else has ever had.
    pub fn new(rules: Vec<HostRule>, network: Arc<dyn Network>) -> Self {
        let token = hex::encode(rand::random::<[u8; 16]>());
        Self { rules, network, observed: Observed::default(), injections: Vec::new(), token }
    }

    /// Writes these into requests to their hosts.
    pub fn with_injections(self, injections: Vec<Injection>) -> Self {
        Self { injections, ..self }
    }

    /// Speaks proxy with one connection of the code, to its end.
    pub async fn serve(&self, client: impl AsyncRead + AsyncWrite + Unpin + Send) {
        proxy::serve(self, client).await;
    }

    /// What tells the code's libraries of the proxy.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let url = format!("http://{USER}:{}@127.0.0.1:{PORT}", self.token);
        let names = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
        names.into_iter().map(|name| (name.to_owned(), url.clone())).collect()
    }

    /// What went through so far, and what did not.
    pub fn observed(&self) -> EgressObserved {
        self.observed.so_far()
    }

    pub(super) fn allows(&self, host: &str, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.allows(host, port))
    }

    /// Where a request goes that asks for no TLS: over TLS all the same where a secret goes to its host
    /// that may not go without. Answers with the port then.
    pub(super) fn secured(&self, host: &str, port: u16) -> Option<u16> {
        let secured = if port == 80 { 443 } else { port };
        let is_secret =
            |injection: &Injection| injection.goes_to(host, secured, true) && !injection.goes_to(host, port, false);
        self.injections.iter().any(is_secret).then_some(secured)
    }

    /// What is written into a request to there.
    pub(super) fn injections(&self, host: &str, port: u16, is_tls: bool) -> Vec<&Injection> {
        self.injections.iter().filter(|injection| injection.goes_to(host, port, is_tls)).collect()
    }

    /// Whether the value of a `Proxy-Authorization` header is this job's.
    pub(super) fn knows(&self, authorization: &[u8]) -> bool {
        let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{}", self.token)));
        // Equal digests take the same time to compare wherever two texts differ.
        Digest::of(authorization) == Digest::of(expected.as_bytes())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("rules", &self.rules).finish_non_exhaustive()
    }
}

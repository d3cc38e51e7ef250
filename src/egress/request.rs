//! The head of a proxy request: read strictly, and written anew for whom it is for.

use super::injection::Injection;
use crate::domain::{host_name, port_of};

/// The longest head.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 100;

/// What a client asks of the proxy.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Every `Proxy-Authorization`.
    pub credentials: Vec<Vec<u8>>,
    pub host: String,
    pub port: u16,
    pub kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// `CONNECT host:port`.
    Tunnel,
    /// A request that the proxy itself makes.
    Forward(Forward),
}

/// What a server is to be asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward {
    /// The code asked for `https://`, or else for `http://`.
    pub is_https: bool,
    pub body_bytes: u64,
    method: String,
    path: String,
    /// Those that are meant for the server.
    headers: Vec<(String, Vec<u8>)>,
}

impl Forward {
    /// The head as the server gets it, with the header of each secret in the place of the code's own.
    pub fn head(&self, host: &str, port: u16, is_tls: bool, injections: &[&Injection]) -> Vec<u8> {
        let own_port = if is_tls { 443 } else { 80 };
        let authority = if port == own_port { host.to_owned() } else { format!("{host}:{port}") };
        // Whatever Host the client sent: it is the one that was allowed.
        let mut written = format!("{} {} HTTP/1.1\r\nHost: {authority}\r\n", self.method, self.path).into_bytes();
        let mut write = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                written.extend_from_slice(part);
            }
        };
        for (name, value) in &self.headers {
            if !injections.iter().any(|injection| injection.replaces(name)) {
                write(name, value);
            }
        }
        for injection in injections {
            write(injection.name(), injection.value());
        }
        write("Connection", b"close");
        written.extend_from_slice(b"\r\n");
        written
    }
}

/// Why a head is no request to this proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARequest {
    #[error("it is not HTTP/1.1 as a proxy understands it")]
    Malformed,
    #[error("it names no host, or an address: only hosts that have a name are reached")]
    NotAName,
    #[error("its body must have a Content-Length")]
    LengthRequired,
}

/// Headers between two neighbours; they are not passed on.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Reads a head that ends in an empty line.
pub fn read(head: &[u8]) -> Result<Request, NotARequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    if parsed.parse(head) != Ok(httparse::Status::Complete(head.len())) || parsed.version != Some(1) {
        return Err(NotARequest::Malformed);
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(NotARequest::Malformed) };
    let named = |name: &'static str| {
        let headers = parsed.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        headers.map(|header| header.value.to_vec())
    };
    let credentials = named("proxy-authorization").collect();
    if method == "CONNECT" {
        let (host, port) = target.rsplit_once(':').ok_or(NotARequest::Malformed)?;
        let port = port_of(port).ok_or(NotARequest::Malformed)?;
        let host = host_name(host).ok_or(NotARequest::NotAName)?;
        return Ok(Request { credentials, host, port, kind: Kind::Tunnel });
    }
    let (is_https, rest) = match target.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, target.strip_prefix("http://").ok_or(NotARequest::Malformed)?),
    };
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port_of(port).ok_or(NotARequest::Malformed)?),
        None => (authority, if is_https { 443 } else { 80 }),
    };
    let host = host_name(host).ok_or(NotARequest::NotAName)?;
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };

    if named("transfer-encoding").next().is_some() {
        return Err(NotARequest::LengthRequired);
    }
    let body_bytes = match &named("content-length").collect::<Vec<_>>()[..] {
        [] => 0,
        [length] => length_of(length).ok_or(NotARequest::Malformed)?,
        _ => return Err(NotARequest::Malformed),
    };
    let connection: Vec<u8> = named("connection").collect::<Vec<_>>().join(&b',');
    let connection = String::from_utf8_lossy(&connection).to_ascii_lowercase();
    let dropped: Vec<&str> = connection.split(',').map(str::trim).collect();
    let mut headers = Vec::new();
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        // The length says where the body ends: whoever drops it makes a second request of the body.
        let is_dropped = name != "content-length" && dropped.contains(&name.as_str());
        if name != "host" && !HOP_BY_HOP.contains(&name.as_str()) && !is_dropped {
            headers.push((header.name.to_owned(), header.value.to_vec()));
        }
    }
    let (method, path) = (method.to_owned(), format!("{slash}{path}"));
    let forward = Forward { is_https, body_bytes, method, path, headers };
    Ok(Request { credentials, host, port, kind: Kind::Forward(forward) })
}

fn length_of(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SecretValue;

    fn forward(head: &str) -> (String, u16, String, u64) {
        let request = read(head.as_bytes()).unwrap();
        let Kind::Forward(forward) = request.kind else { panic!("a tunnel") };
        let head = forward.head(&request.host, request.port, forward.is_https, &[]);
        (request.host, request.port, String::from_utf8(head).unwrap(), forward.body_bytes)
    }

    #[test]
    fn a_tunnel_names_its_host_and_port() {
        let request = read(b"CONNECT API.Example.com:443 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n").unwrap();
        assert_eq!((request.host.as_str(), request.port, request.kind), ("api.example.com", 443, Kind::Tunnel));
        assert_eq!(request.credentials, [b"x"]);
    }

    #[test]
    fn a_plain_request_goes_on_with_the_host_that_was_asked_for_and_no_other() {
        let (host, port, head, body_bytes) = forward(
            "POST http://api.example.com:8080?q=1#x HTTP/1.1\r\nHost: other.example.com\r\nX-A: 1\r\nConnection: x-b, Content-Length\r\n\
             X-B: 2\r\nContent-Length: 3\r\nProxy-Authorization: Basic x\r\nUpgrade: h2c\r\n\r\n",
        );
        assert_eq!((host.as_str(), port, body_bytes), ("api.example.com", 8080, 3));
        assert_eq!(
            head,
            "POST /?q=1 HTTP/1.1\r\nHost: api.example.com:8080\r\nX-A: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            forward("GET http://a.b HTTP/1.1\r\n\r\n").2,
            "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_request_over_tls_goes_to_its_own_port() {
        let (host, port, head, _) = forward("GET https://a.b/x HTTP/1.1\r\n\r\n");
        assert_eq!((host.as_str(), port), ("a.b", 443));
        assert_eq!(head, "GET /x HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n");
        assert_eq!(forward("GET https://a.b:80/ HTTP/1.1\r\n\r\n").1, 80);
    }

    #[test]
    fn a_secrets_header_stands_in_the_place_of_the_codes_own() {
        let text =
            b"GET http://a.b/ HTTP/1.1\r\nauthorization: mine\r\nX-1: 1\r\nAuthorization: also\r\nX_Key: k\r\n\r\n";
        let Kind::Forward(forward) = read(text).unwrap().kind else { panic!("a tunnel") };
        let injection = |name, value: &[u8]| Injection::new(name, SecretValue::new(value), Vec::new(), false);
        let (one, two) = (injection("Authorization", b"Bearer s"), injection("x-key", b"t"));
        assert_eq!(
            String::from_utf8(forward.head("a.b", 8443, true, &[&one, &two])).unwrap(),
            "GET / HTTP/1.1\r\nHost: a.b:8443\r\nX-1: 1\r\nAuthorization: Bearer s\r\nx-key: t\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn what_two_readers_might_read_differently_is_refused() {
        for (head, error) in [
            ("GET / HTTP/1.1\r\n\r\n", NotARequest::Malformed),
            ("GET ftp://a.b/ HTTP/1.1\r\n\r\n", NotARequest::Malformed),
            ("GET https://127.0.0.1/ HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("GET http://a.b/ HTTP/1.0\r\n\r\n", NotARequest::Malformed),
            ("CONNECT a.b HTTP/1.1\r\n\r\n", NotARequest::Malformed),
            ("CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("CONNECT [::1]:80 HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("CONNECT localhost:80 HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("GET http://169.254.169.254/ HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("GET http://a.b@c.d/ HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("GET http://0x7f000001/ HTTP/1.1\r\n\r\n", NotARequest::NotAName),
            ("POST http://a.b/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", NotARequest::LengthRequired),
            ("POST http://a.b/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", NotARequest::Malformed),
            ("POST http://a.b/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n", NotARequest::Malformed),
            ("POST http://a.b/ HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", NotARequest::Malformed),
            ("GET http://a.b/ HTTP/1.1\r\nA : 1\r\n\r\n", NotARequest::Malformed),
        ] {
            assert_eq!(read(head.as_bytes()), Err(error), "{head:?}");
        }
    }
}

//! Whether a Docker Engine answers. A question over its socket, not the engine's own client:
//! this runs where nothing is set up yet and must say why.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

const LOCAL: &str = "unix:///var/run/docker.sock";
const TIMEOUT: Duration = Duration::from_secs(2);
/// `/info` has a few KiB; more is not Docker.
const LONGEST_ANSWER_BYTES: u64 = 1 << 20;

/// What engine answers, or what to do.
pub(super) fn look(host: &str) -> Result<String, String> {
    let (address, info) = ask(host)?;
    let version = info["ServerVersion"].as_str().unwrap_or("of unknown version");
    let root = info["DockerRootDir"].as_str().unwrap_or("?");
    Ok(format!("Engine {version} at {address}, {} CPUs, data in {root}", info["NCPU"]))
}

/// Whether that engine has gVisor's runtime.
pub(super) fn look_for_gvisor(host: &str) -> Result<String, String> {
    const ADVICE: &str = "install runsc and register it: runsc install && systemctl restart docker";
    let (_, info) = ask(host).map_err(|_| "needs a Docker Engine".to_owned())?;
    match info["Runtimes"].get("runsc") {
        Some(_) => Ok("runtime runsc is registered".to_owned()),
        None => Err(format!("the engine has no runtime runsc; {ADVICE}")),
    }
}

fn ask(host: &str) -> Result<(String, Value), String> {
    let address = match host {
        "" => std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()),
        host => Some(host.to_owned()),
    };
    let address = address.unwrap_or_else(|| LOCAL.to_owned());
    match info(&address) {
        Ok(info) => Ok((address, info)),
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound => "install Docker (Debian: apt-get install docker.io)",
                io::ErrorKind::PermissionDenied => "join the group docker, or be root",
                _ => "is the engine started? (systemctl start docker)",
            };
            Err(format!("{address}: {error}; {advice}"))
        }
    }
}

fn info(address: &str) -> io::Result<Value> {
    let answer = if let Some(path) = address.strip_prefix("unix://") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        exchange(stream)?
    } else if let Some(address) = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) {
        let address = address.trim_end_matches('/').to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        exchange(stream)?
    } else {
        return Err(io::Error::other("only unix:// and tcp:// can be asked"));
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|_| io::Error::other("the answer is not Docker's"))
}

/// HTTP/1.0, so that the answer comes whole and ends with the stream.
fn exchange(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;

    use super::*;

    fn answering(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            io::BufReader::new(&stream).read_line(&mut line).unwrap();
            assert_eq!(line, "GET /info HTTP/1.0\r\n");
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
        });
        address
    }

    #[test]
    fn an_engine_and_its_runtimes_are_found() {
        let body = r#"{"ServerVersion":"28.1","NCPU":2,"Runtimes":{"runc":{},"runsc":{}}}"#;
        assert!(look(&answering(body)).unwrap().contains("Engine 28.1"));
        assert!(look_for_gvisor(&answering(body)).is_ok());
        assert!(look_for_gvisor(&answering(r#"{"Runtimes":{"runc":{}}}"#)).is_err());
    }

    #[test]
    fn what_is_not_an_engine_is_not_taken_for_one() {
        assert!(look(&answering("hello")).unwrap_err().contains("not Docker's"));
        assert!(look("unix:///nonexistent.sock").unwrap_err().contains("install Docker"));
        assert!(look("ssh://somewhere").is_err());
    }
}

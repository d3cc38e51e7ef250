//! With real code, on both engines.

use serde_json::json;

use super::*;
use crate::world::Choice;
use crate::{docker, native};

/// Reads both, and gives them away in every way that is looked for.
const CODE: &str = r#"
import base64, json, os, stat, sys, time
from_file = open('/secrets/FILE_KEY').read()
from_env = os.environ['ENV_KEY']
assert os.listdir('/secrets') == ['FILE_KEY'], os.listdir('/secrets')
for path in ['/secrets/x', '/secrets/FILE_KEY']:
    try:
        open(path, 'w')
        sys.exit('it can be written')
    except OSError:
        pass
print('file', len(from_file), 'env', len(from_env), 'FILE_KEY' in os.environ)
print(from_file)
sys.stdout.flush()
for character in from_env:
    sys.stdout.write(character)
    sys.stdout.flush()
    time.sleep(0.002)
print()
print('x' + base64.b64encode(b'user:' + from_file.encode()).decode())
print(from_env, file=sys.stderr)
json.dump({'key': from_file}, open('/output/result.json', 'w'))
open('/output/note.txt', 'w').write('the key is ' + from_env + '\n')
open('/output/packed.bin', 'wb').write(b'\xff\xfe' + from_file.encode())
open('/output/' + from_env.replace('/', '_')[:8] + '.bin', 'wb').write(b'\xff\xfe')
raise ValueError('bad key ' + from_file)
"#;

const OTHER: &str = "tr0ub4dor&3-of-the-environment";

async fn secrets_reach_the_code_and_nothing_else(choice: Choice) {
    let world = world(choice).await;
    set(&world, "FILE_KEY", VALUE).await;
    set(&world, "ENV_KEY", OTHER).await;
    let secrets = json!(["FILE_KEY", {"name": "ENV_KEY", "as": "env"}]);
    let id = submit(&world, json!({"code": CODE, "secrets": secrets})).await;
    let record = world.ended(id).await;
    let stdout = record["stdout"].as_str().unwrap();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], format!("file {} env {} False", VALUE.len(), OTHER.len()), "{record:#}");
    assert_eq!(lines[1..3], ["[secret:FILE_KEY]", "[secret:ENV_KEY]"], "{record:#}");
    assert!(lines[3].contains("[secret:FILE_KEY]"), "{record:#}");
    assert!(record["stderr"].as_str().unwrap().starts_with("[secret:ENV_KEY]\n"), "{record:#}");
    assert_eq!(record["output"], json!({"key": "[secret:FILE_KEY]"}));
    assert_eq!(record["error"]["type"], "value_error", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("bad key [secret:FILE_KEY]"), "{record:#}");
    assert_eq!(record["refused_artifacts"][0]["name"], "packed.bin", "{record:#}");
    let note = world.http.get(format!("{}/jobs/{id}/artifacts/note.txt", world.url)).send().await.unwrap();
    assert_eq!(note.text().await.unwrap(), "the key is [secret:ENV_KEY]\n");
    let dump = dump(&world.db.admin).await;
    demand_absent(&dump, VALUE);
    demand_absent(&dump, OTHER);
    // The dump sees what is there.
    assert!(dump.contains("the key is [secret:ENV_KEY]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_code_and_nothing_else_on_the_native_engine() {
    secrets_reach_the_code_and_nothing_else(native::choice()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_code_and_nothing_else_on_docker() {
    secrets_reach_the_code_and_nothing_else(docker::choice().await).await;
}

//! The files that bring a cluster up are what they say: YAML of the right shape, with settings that there are.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// Runs `tako-vm config` with the settings as they are in the files.
fn demand_known(settings: &BTreeMap<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command.arg("config").current_dir(folder.path()).env("TAKO_VM_DATA_DIR", folder.path()).envs(settings);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(settings.len() > 8, "{settings:?}");
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

const KEY: &str = "[{name: cluster, sha256: \"0000000000000000000000000000000000000000000000000000000000000000\"}]";

#[test]
fn kubernetes_gets_what_it_expects_and_the_server_settings_it_knows() {
    let documents = documents(include_str!("../../../docker/k8s/cluster.yaml"));
    let mut settings = BTreeMap::from([
        ("TAKO_VM_DATABASE_URL".to_owned(), "postgres://db/tako_vm".to_owned()),
        ("TAKO_VM_API_KEYS".to_owned(), KEY.to_owned()),
    ]);
    let mut roles = Vec::new();
    for document in &documents {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            assert!(document.pointer(field).is_some_and(Value::is_string), "{field} of {document:#}");
        }
        if document["kind"] == "ConfigMap" {
            let data = document["data"].as_object().unwrap();
            settings.extend(data.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        }
        if document["kind"] == "Deployment" {
            let (spec, labels) =
                (&document["spec"]["template"]["spec"], &document["spec"]["template"]["metadata"]["labels"]);
            assert_eq!(&document["spec"]["selector"]["matchLabels"], labels);
            let server = &spec["containers"][0];
            assert_eq!(server["args"][2], labels["role"]);
            roles.push(text(&labels["role"]));
            assert_eq!(server["readinessProbe"]["httpGet"]["path"], "/readyz");
            assert_eq!(server["livenessProbe"]["httpGet"]["path"], "/livez");
            for variable in server["env"].as_array().into_iter().flatten() {
                settings.insert(text(&variable["name"]), text(&variable["value"]));
            }
            let volumes: Vec<_> =
                spec["volumes"].as_array().unwrap().iter().map(|volume| text(&volume["name"])).collect();
            for mount in server["volumeMounts"].as_array().unwrap() {
                assert!(volumes.contains(&text(&mount["name"])), "{mount}");
            }
            // Kubernetes kills what does not end in time.
            let grace: u64 = settings["TAKO_VM_SERVER__SHUTDOWN_GRACE"].parse().unwrap();
            assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() >= grace + 20);
        }
    }
    assert_eq!(roles, ["api", "worker"]);
    demand_known(&settings);
}

#[test]
fn compose_starts_an_api_node_and_two_workers_with_settings_that_there_are() {
    let [file] = &documents(include_str!("../../../docker/compose.cluster.yaml"))[..] else { panic!("one document") };
    let mut settings: BTreeMap<_, _> =
        file["x-environment"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect();
    for value in settings.values_mut() {
        if let Some((_, default)) = value.split_once(":-") {
            *value = default.trim_end_matches('}').to_owned();
        }
    }
    settings.insert("TAKO_VM_API_KEYS".to_owned(), KEY.to_owned());
    demand_known(&settings);
    let services = file["services"].as_object().unwrap();
    let roles: Vec<_> =
        ["api", "worker-1", "worker-2"].map(|name| text(&services[name]["environment"]["TAKO_VM_ROLE"])).into();
    assert_eq!(roles, ["api", "worker", "worker"]);
}

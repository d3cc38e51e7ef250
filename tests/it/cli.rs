//! The program as a user meets it: arguments, output, exit codes.

use std::path::Path;
use std::process::{Command, Output};

/// The program in a folder, with nothing of ours in its environment.
fn tako_vm(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command.args(args).current_dir(folder).env("HOME", folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TAKO_VM_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn version_names_the_program_and_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let output = tako_vm(folder.path(), &["version"]);
    assert_eq!(stdout(&output), format!("tako-vm {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_use_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["nonsense"][..], &["dev"], &["config", "--jsn"], &[]] {
        let output = tako_vm(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn validate_lists_everything_that_is_wrong_and_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let text = "max_workers: 0\nserver:\n  prot: 1\njob_types:\n  mine: {timeout: soon}\n";
    std::fs::write(folder.path().join("mine.yaml"), text).unwrap();
    let output = tako_vm(folder.path(), &["validate", "mine.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    for part in [
        "mine.yaml:1: max_workers: 0 is out of bounds (1 to 1024)",
        "mine.yaml:3: server.prot: unknown key; did you mean `port`?",
        "mine.yaml:5: job_types.mine.timeout: ",
    ] {
        assert!(said.contains(part), "{part} not in {said}");
    }
}

#[test]
fn validate_accepts_a_good_file_and_names_an_absent_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.yaml"), "max_workers: 2\n").unwrap();
    let output = tako_vm(folder.path(), &["validate", "good.yaml"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("good.yaml: valid"));
    let output = tako_vm(folder.path(), &["validate", "absent.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("absent.yaml"));
}

#[test]
fn config_shows_what_is_in_force_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let text = format!(
        "max_workers: 7\ndatabase_url: postgres://u:hunter2@db/t\n\
         api_keys: [{{name: alice, sha256: {hash}}}]\n\
         job_types: {{mine: {{environment: {{TOKEN: hunter2}}}}}}\n"
    );
    std::fs::write(folder.path().join("tako_vm.yaml"), text).unwrap();
    let output = tako_vm(folder.path(), &["config", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["max_workers"], 7);
    assert_eq!(shown["database_url"], "postgres://u:***@db/t");
    assert_eq!(shown["api_keys"][0]["sha256"], "***");
    assert_eq!(shown["job_types"]["mine"]["environment"]["TOKEN"], "***");
    let yaml = stdout(&tako_vm(folder.path(), &["config"]));
    assert!(yaml.contains("max_workers: 7"), "{yaml}");
    for shown in [stdout(&output), yaml] {
        assert!(!shown.contains("hunter2") && !shown.contains(hash), "{shown}");
    }
}

#[test]
fn shown_defaults_are_a_valid_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let shown = tako_vm(folder.path(), &["config", "--show-defaults"]);
    std::fs::write(folder.path().join("tako_vm.yaml"), &shown.stdout).unwrap();
    assert_eq!(tako_vm(folder.path(), &["validate"]).status.code(), Some(0));
    let effective = tako_vm(folder.path(), &["config", "--json"]);
    let defaults = tako_vm(folder.path(), &["config", "--json", "--show-defaults"]);
    let parse = |output: &Output| -> serde_json::Value {
        let mut value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value["data_dir"] = "".into();
        value
    };
    assert_eq!(parse(&effective), parse(&defaults));
}

#[test]
fn status_of_a_server_that_is_not_there_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = tako_vm(folder.path(), &["status", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&url));
}

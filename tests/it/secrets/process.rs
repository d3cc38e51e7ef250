//! A server as it is run, speaking of everything it does, and the command line.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::db;

/// Ends with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: the process is this test's own child, which nobody has waited for.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command.args(args).current_dir(folder).env("HOME", folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TAKO_VM_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command
}

fn says(mut command: Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_server_that_says_everything_says_no_secret() {
    let db = db::fresh().await;
    let folder = tempfile::tempdir().unwrap();
    let (key, address) = (folder.path().join("secrets.key"), folder.path().join("address"));
    fs::write(&key, "c4".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let said = folder.path().join("said");
    let mut server = command(folder.path(), &["server", "--port", "0", "--address-file", address.to_str().unwrap()]);
    server
        .env("TAKO_VM_DATABASE_URL", &db.options.url)
        .env("TAKO_VM_DATA_DIR", folder.path().join("data"))
        .env("TAKO_VM_SECRETS__KEY_FILE", &key)
        .env("TAKO_VM_ENGINE", "native")
        .env("TAKO_VM_LOG__LEVEL", "trace")
        .stdout(Stdio::null())
        .stderr(File::create(&said).unwrap());
    let mut server = Server(server.spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    let url = loop {
        match fs::read_to_string(&address) {
            Ok(address) if !address.is_empty() => break format!("http://{address}"),
            _ => assert!(
                server.0.try_wait().unwrap().is_none() && Instant::now() < end,
                "{}",
                fs::read_to_string(&said).unwrap()
            ),
        }
        tokio::task::yield_now().await;
    };
    let folder_path = folder.path().to_owned();
    let answers = tokio::task::spawn_blocking(move || {
        let tako_vm = |args: &[&str], input: &str| {
            let mut command = command(&folder_path, args);
            command.env("TAKO_VM_URL", &url);
            says(command, input)
        };
        fs::write(
            folder_path.join("job.py"),
            "import os\nkey = open('/secrets/API_KEY').read()\nprint(key, os.environ['OTHER_KEY'])\nraise OSError(key)\n",
        )
        .unwrap();
        [
            tako_vm(&["secrets", "set", "API_KEY"], &format!("{VALUE}\n")),
            tako_vm(&["secrets", "set", "OTHER_KEY"], VALUE),
            tako_vm(&["secrets", "list"], ""),
            tako_vm(&["submit", "job.py", "--wait", "--secret", "API_KEY", "--secret", "OTHER_KEY=env"], ""),
            tako_vm(&["submit", "job.py", "--secret", &format!("API_KEY={VALUE}")], ""),
            tako_vm(&["secrets", "remove", "API_KEY"], ""),
            tako_vm(&["secrets", "remove", "API_KEY"], ""),
            tako_vm(&["secrets", "set", "short"], "short"),
        ]
    })
    .await
    .unwrap();
    let [set, _, listed, record, refused, removed, gone, short] = &answers;
    assert!(set.starts_with("API_KEY is set, version "), "{set}");
    assert!(listed.contains("API_KEY") && listed.contains("OTHER_KEY"), "{listed}");
    assert!(record.contains("[secret:API_KEY] [secret:"), "{record}");
    assert!(refused.contains("file or env"), "{refused}");
    assert!(
        removed.contains("is removed") && gone.contains("is not set") && short.contains("8 to 65536"),
        "{answers:?}"
    );
    drop(server);
    answers.iter().for_each(|answer| demand_absent(answer, VALUE));
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.contains(" TRACE ") && said.contains("answering requests"), "the server said too little: {said}");
    demand_absent(&said, VALUE);
    demand_absent(&dump(&db.admin).await, VALUE);
}

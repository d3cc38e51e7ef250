//! How a cluster's data folder is made.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::binaries::Binaries;
use super::cluster::{DATABASE, ROLE};
use super::place::{Place, finish, remove_if_there, write_private};
use super::start::Durability;

impl Place {
    /// Makes the data folder with its database. It gets its name only when it is whole.
    pub(super) fn initialize(&self, binaries: &Binaries, durability: Durability) -> Result<()> {
        let unfinished = self.cluster().join("data.new");
        let password_file = self.cluster().join("password.new");
        remove_if_there(&password_file)?;
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let password = hex::encode(rand::random::<[u8; 16]>());
        write_private(&password_file, &password)?;
        self.give(&password_file)?;

        let mut initdb = self.command(&binaries.folder.join("initdb"));
        initdb.arg("-D").arg(&unfinished).arg("--pwfile").arg(&password_file);
        initdb.args(["-U", ROLE, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
        initdb.args(["--data-checksums", "--no-instructions"]);
        if durability == Durability::Cache {
            initdb.arg("--no-sync");
        }
        let made = finish(&mut initdb, "initdb");
        remove_if_there(&password_file)?;
        made?;

        let mut conf = OpenOptions::new().append(true).open(unfinished.join("postgresql.conf"))?;
        conf.write_all(b"\ninclude_if_exists = 'tako_vm.conf'\n")?;
        conf.sync_all()?;
        self.create_first_database(binaries, &unfinished, durability)?;
        write_private(&self.folder.join("password"), &password)?;
        fs::rename(&unfinished, self.data())?;
        Ok(())
    }

    /// In the server's single-user mode, so that a folder that got its name has its database.
    fn create_first_database(&self, binaries: &Binaries, data: &Path, durability: Durability) -> Result<()> {
        let mut command = self.command(&binaries.folder.join("postgres"));
        command.args(["--single", "-D"]).arg(data);
        command.args(["-c", "exit_on_error=true", "-c", durability.setting(), "template1"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run postgres")?;
        if let Some(mut stdin) = child.stdin.take() {
            writeln!(stdin, "CREATE DATABASE {DATABASE}")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("cannot create the database: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

//! Builds the guest as a static program, to be embedded by `engine::guest_binary`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    for path in ["build.rs", "Cargo.lock", "Cargo.toml", "guest/Cargo.toml", "guest/src", "migrations"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let target = variable("TARGET")?;
    let target_directory = Path::new(&variable("OUT_DIR")?).join("guest");
    build_guest(&root, &target, &target_directory)?;
    let guest = target_directory.join(&target).join("guest").join("tako-guest");
    println!("cargo::rustc-env=TAKO_GUEST_BINARY={}", guest.display());
    Ok(())
}

/// Runs cargo once more. The dependencies are a part of this package's own, so that they are
/// on the machine already and the network is never asked.
fn build_guest(root: &Path, target: &str, target_directory: &Path) -> Result<(), Failure> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--offline", "--package", "tako-guest"])
        .args(["--bin", "tako-guest", "--profile", "guest", "--target", target])
        .arg("--target-dir")
        .arg(target_directory)
        // The guest runs beside images of any distribution, so it brings its own C library.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    // What the outer build was told about itself (flags, lints, coverage) is not for the guest.
    for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        let hint = "it links the C library statically: libc6-dev on Debian, glibc-static on Fedora";
        return Err(format!("the guest does not build ({status}); {hint}").into());
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, Failure> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

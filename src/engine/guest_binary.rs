//! The guest as a program: static, for the server's own architecture, built with the server.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The ELF file that is PID 1 of a sandbox (`tako-guest init`).
pub const GUEST: &[u8] = include_bytes!(env!("TAKO_GUEST_BINARY"));

/// SHA-256 of [`GUEST`], 64 lowercase hex digits. An image that carries another guest than
/// this server's is not used.
pub fn sha256() -> &'static str {
    static HEX: LazyLock<String> = LazyLock::new(|| hex::encode(Sha256::digest(GUEST)));
    &HEX
}

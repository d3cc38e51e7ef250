//! The only way out of a sandbox: a proxy in the server that a job reaches over its frame stream.
//!
//! A sandbox has no network but its own loopback. There the guest listens, and carries each
//! connection over the job's frames to the job's [`Gate`], which speaks HTTP proxy with it. The
//! gate knows the job by the stream it comes over. It resolves names itself, refuses every
//! address that is not public, and connects to the very address it has looked at.

mod address;
mod client_hello;
mod gate;
mod network;
mod observed;
mod proxy;
mod request;

pub use gate::{Gate, PORT};
pub use network::{Network, SystemNetwork};

//! The only way out of a sandbox: a proxy in the server that a job reaches over its frame stream.
//!
//! A sandbox has no network but its own loopback. There the guest listens, and carries each
//! connection over the job's frames to the job's [`Gate`], which speaks HTTP proxy with it. The
//! gate knows the job by the stream it comes over. It resolves names itself, refuses every
//! address that is not public, and connects to the very address it has looked at. Secrets that
//! are meant for a header it writes into the code's requests.

mod address;
mod client_hello;
mod gate;
mod injection;
mod network;
mod observed;
mod proxy;
mod request;
mod tls;

pub use gate::{Gate, PORT};
pub use injection::Injection;
pub use network::{Network, SystemNetwork};
pub use tls::client as tls_client;

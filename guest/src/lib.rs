//! The small program inside every Tako VM sandbox, and the protocol it speaks with the host.
//!
//! [`frame`] and [`protocol`] serve both ends; [`init`] runs inside the sandbox.

pub mod frame;
pub mod init;
pub mod protocol;

//! The small program inside every Tako VM sandbox, and the protocol it speaks with the host.
//!
//! [`frame`] and [`protocol`] serve both ends; [`init`] runs inside the sandbox, [`site`] inside its
//! interpreter; [`launch`] makes the sandboxes of the native engine.

pub mod frame;
pub mod init;
pub mod launch;
pub mod protocol;
pub mod site;

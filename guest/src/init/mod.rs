//! The first process of a sandbox: starts the interpreter, runs one job, reports.
//!
//! It is one thread around one `poll(2)`. User code shares the sandbox with it but not its
//! descriptors: frames travel over two close-on-exec descriptors of an undumpable process,
//! and the code's own standard streams are pipes that end here.

mod capture;
mod cgroup;
mod channel;
mod collect;
mod egress;
mod facts;
mod faults;
mod files;
mod interpreter;
mod privileges;
mod processes;
mod signals;
mod stream;
mod supervisor;
mod sys;

use std::os::fd::OwnedFd;

/// Serves one session over the two descriptors and ends the process.
///
/// The process must have a single thread. It need be neither PID 1 nor root: as PID 1 it ends
/// every process of its namespace, else every descendant; without root the user's code keeps
/// the guest's own uid.
///
/// Exit status: 0 after a report or a fault was sent, 1 when the session could not begin.
pub fn run(input: OwnedFd, output: OwnedFd) -> ! {
    let status = supervisor::serve(input, output);
    // SAFETY: ends the process without the handlers of a program that may have called this
    // in a cloned child.
    unsafe { libc::_exit(status) }
}

//! What a supervisor says when it cannot go on, and the small conversions around it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::frame::Kind;
use crate::protocol::{Fault, FaultKind, MAX_MESSAGE_BYTES, Phase, prefix};

pub fn pollfd(fd: Option<BorrowedFd<'_>>, events: libc::c_short) -> libc::pollfd {
    // A negative descriptor is skipped by poll.
    libc::pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events, revents: 0 }
}

pub fn parse<T: DeserializeOwned>(phase: Phase, payload: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(payload).map_err(|error| protocol_fault(phase, &error.to_string()))
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn fault(phase: Phase, kind: FaultKind, message: impl ToString) -> Fault {
    let message = prefix(&message.to_string(), MAX_MESSAGE_BYTES).to_owned();
    Fault { phase, kind, message }
}

pub fn protocol_fault(phase: Phase, message: &str) -> Fault {
    fault(phase, FaultKind::Protocol, message)
}

pub fn unexpected(phase: Phase, kind: Kind) -> Fault {
    protocol_fault(phase, &format!("frame {kind:?} is not expected here"))
}

pub fn file_fault(error: io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::AlreadyExists => FaultKind::Protocol,
        _ => FaultKind::System,
    };
    fault(Phase::Startup, kind, format!("cannot write a file of the job: {error}"))
}

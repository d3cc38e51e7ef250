//! The network namespace of a cell's next sandbox: a loopback interface and nothing else.
//!
//! Making one costs the kernel half a millisecond, and taking it down later as much again. Most
//! jobs never use it, and what nobody used is as new: no packet was sent, no counter counted, no
//! socket, port or flow label is left. So it is looked at after each sandbox, and made
//! anew unless everything the kernel tells about it reads as it did before the first.

use std::fs;
use std::io;

use super::sys::{self, StepError};

/// All that a sandbox can leave behind in a network namespace it may use and not configure:
/// packets of the interface, counters of the protocols (failed attempts among them), sockets
/// alive or lingering, leases of flow labels.
const TELLING: [&str; 7] = ["dev", "snmp", "snmp6", "netstat", "sockstat", "sockstat6", "ip6_flowlabel"];

/// The namespace the launcher is in, which its next sandbox shares.
pub struct Network {
    /// What the kernel told when it was new; `None` where it does not tell.
    pristine: Option<Vec<u8>>,
}

impl Network {
    /// Moves this process into a new one.
    pub fn new() -> Result<Self, StepError> {
        sys::unshare(libc::CLONE_NEWNET, "network")?;
        sys::raise_loopback()?;
        Ok(Self { pristine: told().ok() })
    }

    /// Answers with this one if nothing was done in it, else with a new one.
    pub fn renewed(self) -> Result<Self, StepError> {
        match &self.pristine {
            Some(before) if told().is_ok_and(|now| now == *before) => Ok(self),
            _ => Self::new(),
        }
    }
}

fn told() -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for name in TELLING {
        match fs::read(format!("/proc/self/net/{name}")) {
            Ok(text) => all.extend(text),
            // A kernel without IPv6 lacks some of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.contains('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

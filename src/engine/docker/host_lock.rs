//! A lock among the servers of one host, which usually share a daemon.

use std::fs::{self, File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

use crate::engine::runtime_dir::runtime_dir;

const PAUSE: Duration = Duration::from_millis(100);

/// Held until it is dropped, or its process ends.
pub(super) struct HostLock(#[expect(dead_code, reason = "closing the file gives the lock back")] File);

impl HostLock {
    /// Waits for the lock of that name. `None` after `limit`, and where no file can be locked: then what
    /// it guards may be done twice.
    pub async fn take(name: &str, limit: Duration) -> Option<Self> {
        let began = Instant::now();
        let lost = |error: io::Error| tracing::debug!(%error, name, "no lock among the servers of this host");
        let file = open(name).map_err(lost).ok()?;
        loop {
            match file.try_lock() {
                Ok(()) => return Some(Self(file)),
                Err(TryLockError::WouldBlock) if began.elapsed() < limit => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::WouldBlock) => return None,
                Err(TryLockError::Error(error)) => {
                    lost(error);
                    return None;
                }
            }
        }
    }
}

fn open(name: &str) -> io::Result<File> {
    let folder = runtime_dir();
    fs::create_dir_all(&folder)?;
    File::options().create(true).truncate(false).write(true).open(folder.join(name))
}

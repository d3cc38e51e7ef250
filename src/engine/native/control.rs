//! The host's end of a launcher's socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tako_guest::launch::packet;
use tako_guest::launch::wire::{Answer, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Speaks with one launcher. Closing it ends the launcher and its sandbox.
#[derive(Debug)]
pub struct Control {
    socket: AsyncFd<OwnedFd>,
}

impl Control {
    /// Takes the host's end; must be called within a Tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        set_nonblocking(socket.as_fd())?;
        // SAFETY: the descriptor is owned by what is registered, which never changes it.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// `BrokenPipe` when the launcher is gone.
    pub async fn say(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(request)?;
        self.socket.async_io(Interest::WRITABLE, |socket| packet::send(socket.as_fd(), &bytes, fds)).await
    }

    /// Waits for one answer. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `UnexpectedEof` when the launcher is gone.
    pub async fn hear(&self) -> io::Result<Answer> {
        let packet = self.socket.async_io(Interest::READABLE, |socket| packet::receive(socket.as_fd())).await?;
        let (bytes, _) = packet.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: plain fcntl on a descriptor that lives as long as the borrow.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

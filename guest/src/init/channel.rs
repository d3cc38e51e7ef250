//! The guest's end of the frame stream, neither direction of which may ever block it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::sys;
use crate::frame::{self, FrameError, HEADER_BYTES, Kind};

const READ_BYTES: usize = 64 * 1024;

/// Frames from the host.
pub struct FrameReader {
    fd: OwnedFd,
    buffer: Vec<u8>,
    parsed: usize,
    ended: bool,
}

impl FrameReader {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::set_nonblocking(fd.as_fd())?;
        Ok(Self { fd, buffer: Vec::new(), parsed: 0, ended: false })
    }

    /// The descriptor to poll; `None` after the end of the stream.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended).then(|| self.fd.as_fd())
    }

    /// Whether the host has closed its end, or it broke, and every whole frame was taken.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads once from the host. A broken stream counts as an ended one.
    pub fn fill(&mut self) {
        self.buffer.drain(..self.parsed);
        self.parsed = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let count = match sys::read(self.fd.as_fd(), &mut self.buffer[old..]) {
            Ok(0) => {
                self.ended = true;
                0
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.ended = true;
                0
            }
        };
        self.buffer.truncate(old + count);
    }

    /// The next whole frame, if it has arrived.
    pub fn next(&mut self) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
        let rest = &self.buffer[self.parsed..];
        let Some((head, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (kind, length) = frame::parse_header(*head)?;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.parsed += HEADER_BYTES + length;
        Ok(Some((kind, payload)))
    }
}

/// Frames to the host, queued until it takes them.
pub struct FrameWriter {
    fd: OwnedFd,
    queue: Vec<u8>,
    written: usize,
    broken: bool,
}

impl FrameWriter {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::set_nonblocking(fd.as_fd())?;
        Ok(Self { fd, queue: Vec::new(), written: 0, broken: false })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes that the host has not taken yet.
    pub fn pending(&self) -> usize {
        self.queue.len() - self.written
    }

    /// Whether the host can no longer be reached; frames for it are dropped.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Queues one frame and writes what the host takes at once.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
        let header = frame::header(kind, payload.len())?;
        if !self.broken {
            self.queue.extend_from_slice(&header);
            self.queue.extend_from_slice(payload);
            self.flush();
        }
        Ok(())
    }

    /// Writes what the host takes without waiting.
    pub fn flush(&mut self) {
        while self.written < self.queue.len() {
            match sys::write(self.fd.as_fd(), &self.queue[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.broken = true;
                    self.written = self.queue.len();
                }
            }
        }
        if self.written == self.queue.len() {
            self.queue.clear();
            self.written = 0;
        } else if self.written > READ_BYTES {
            self.queue.drain(..self.written);
            self.written = 0;
        }
    }

    /// Waits until at most `remaining` bytes are pending. Gives the host up for lost when it
    /// takes nothing for `patience`.
    pub fn drain_to(&mut self, remaining: usize, patience: Duration) {
        let mut last = (self.pending(), Instant::now());
        while self.pending() > remaining {
            let mut fds = [libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
            if sys::poll(&mut fds, Some(Duration::from_millis(500))).is_err() {
                self.broken = true;
            }
            self.flush();
            if self.pending() < last.0 {
                last = (self.pending(), Instant::now());
            } else if last.1.elapsed() >= patience {
                self.broken = true;
            }
            if self.broken {
                self.queue.clear();
                self.written = 0;
            }
        }
    }
}

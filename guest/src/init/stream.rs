//! A pipe from the interpreter and what becomes of its bytes.

use std::io;
use std::os::fd::BorrowedFd;

use super::capture::Capture;
use super::channel::FrameWriter;
use super::sys;
use crate::frame::Kind;

/// Read or sent at once.
pub const PIECE_BYTES: usize = 64 * 1024;
/// What a dead job can have left in one pipe is a pipe's size, of which an ordinary user may
/// make 1 MiB.
const LEFT_IN_PIPE_BYTES: usize = 4 << 20;

/// A pipe's collected bytes, or where they go.
pub struct Stream {
    /// Whether more may come.
    pub open: bool,
    pub sink: Sink,
}

pub enum Sink {
    /// Keeps the first so many bytes.
    First(usize, Vec<u8>),
    /// Keeps the last so many bytes.
    Last(usize, Vec<u8>),
    /// Forwards in frames, up to a limit.
    Forward(Kind, Capture),
}

impl Stream {
    pub fn new(sink: Sink) -> Self {
        Self { open: true, sink }
    }

    pub fn kept(&self) -> &[u8] {
        match &self.sink {
            Sink::First(_, bytes) | Sink::Last(_, bytes) => bytes,
            Sink::Forward(..) => &[],
        }
    }

    /// Reads one piece; how many bytes came.
    pub fn pump(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8], output: &mut FrameWriter) -> usize {
        let bytes = match sys::read(fd, buffer) {
            Ok(0) => {
                self.open = false;
                return 0;
            }
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Err(_) => {
                self.open = false;
                return 0;
            }
        };
        match &mut self.sink {
            Sink::First(limit, kept) => {
                let room = *limit - kept.len();
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Sink::Last(limit, kept) => {
                kept.extend_from_slice(bytes);
                kept.drain(..kept.len().saturating_sub(*limit));
            }
            Sink::Forward(kind, capture) => forward(output, *kind, &capture.take(bytes)),
        }
        bytes.len()
    }

    /// Reads what is in the pipe now, at most what a pipe can hold.
    pub fn drain(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8], output: &mut FrameWriter) {
        let mut left = LEFT_IN_PIPE_BYTES;
        while self.open && left > 0 {
            match self.pump(fd, buffer, output) {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
    }

    /// No more will come: what was held back goes too.
    pub fn finish(&mut self, output: &mut FrameWriter) {
        if let Sink::Forward(kind, capture) = &mut self.sink {
            forward(output, *kind, &capture.finish());
        }
    }
}

fn forward(output: &mut FrameWriter, kind: Kind, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE_BYTES) {
        // A piece is far below the longest frame.
        let _ = output.push(kind, piece);
    }
}

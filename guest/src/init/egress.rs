//! The code's way out: connections to a port of the sandbox's own loopback, carried over the frame
//! stream. What may come of them is the host's to say; nothing here knows of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::channel::FrameWriter;
use super::faults::pollfd;
use super::sys;
use crate::frame::Kind;
use crate::protocol::{CHANNEL_WINDOW_BYTES, MAX_CHANNELS};

const PIECE_BYTES: usize = 16 * 1024;

/// The listener and the connections there are.
pub struct Egress {
    listener: OwnedFd,
    channels: BTreeMap<u32, Channel>,
    next: u32,
    /// Whose descriptors were given to the latest poll.
    polled: Vec<u32>,
}

struct Channel {
    socket: OwnedFd,
    /// For the code, which has not taken it yet.
    inward: VecDeque<u8>,
    /// The host sends no more.
    host_ended: bool,
    /// The code was told so.
    is_shut: bool,
    /// The code sends no more.
    code_ended: bool,
    /// Bytes the host takes now.
    credit: usize,
}

/// The host broke a promise.
#[derive(Debug)]
pub struct BadFrame;

impl Egress {
    /// Listens on a port of 127.0.0.1.
    pub fn listen(port: u16) -> io::Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: system calls on a descriptor made here, with a structure that outlives them.
        let listener = unsafe {
            let listener = OwnedFd::from_raw_fd(sys::check(libc::socket(libc::AF_INET, kind, 0))?);
            let mut address: libc::sockaddr_in = std::mem::zeroed();
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_port = port.to_be();
            address.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            sys::check(libc::bind(listener.as_raw_fd(), (&raw const address).cast(), length))?;
            sys::check(libc::listen(listener.as_raw_fd(), 128))?;
            listener
        };
        Ok(Self { listener, channels: BTreeMap::new(), next: 0, polled: Vec::new() })
    }

    /// Adds what to wait for. While the host has enough to take nothing is read from the code.
    pub fn add_to(&mut self, fds: &mut Vec<libc::pollfd>, wait_for_host: bool) {
        let accepts = self.channels.len() < MAX_CHANNELS && !wait_for_host;
        fds.push(pollfd(accepts.then(|| self.listener.as_fd()), libc::POLLIN));
        self.polled = self.channels.keys().copied().collect();
        for channel in self.channels.values() {
            let mut events = 0;
            if !channel.code_ended && channel.credit > 0 && !wait_for_host {
                events |= libc::POLLIN;
            }
            if !channel.inward.is_empty() {
                events |= libc::POLLOUT;
            }
            // A connection with nothing to do is not asked: a broken one would answer for ever.
            fds.push(pollfd((events != 0).then(|| channel.socket.as_fd()), events));
        }
    }

    /// Does what can be done after a poll of exactly what was added.
    pub fn serve(&mut self, fds: &[libc::pollfd], output: &mut FrameWriter) {
        for (fd, id) in fds.iter().skip(1).zip(std::mem::take(&mut self.polled)) {
            let Some(channel) = self.channels.get_mut(&id).filter(|_| fd.revents != 0) else { continue };
            let is_alive = channel.write(id, output) && channel.read(id, output);
            self.settle(id, is_alive, output);
        }
        if fds.first().is_some_and(|fd| fd.revents != 0) {
            self.accept(output);
        }
    }

    /// Takes a frame of the host's.
    ///
    /// # Errors
    /// [`BadFrame`] for one that is none, or more than the window.
    pub fn take(&mut self, kind: Kind, payload: &[u8], output: &mut FrameWriter) -> Result<(), BadFrame> {
        let (id, rest) = payload.split_first_chunk::<4>().ok_or(BadFrame)?;
        let id = u32::from_le_bytes(*id);
        // The host may not have heard of its end yet.
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        match kind {
            Kind::ToCode if !channel.host_ended => {
                channel.inward.extend(rest);
                if channel.inward.len() > CHANNEL_WINDOW_BYTES {
                    return Err(BadFrame);
                }
            }
            Kind::ToCodeEnd => channel.host_ended = true,
            Kind::HostTook => {
                let bytes = rest.first_chunk::<4>().ok_or(BadFrame)?;
                channel.credit += u32::from_le_bytes(*bytes) as usize;
                if channel.credit > CHANNEL_WINDOW_BYTES {
                    return Err(BadFrame);
                }
            }
            _ => return Err(BadFrame),
        }
        let is_alive = channel.write(id, output);
        self.settle(id, is_alive, output);
        Ok(())
    }

    fn accept(&mut self, output: &mut FrameWriter) {
        while self.channels.len() < MAX_CHANNELS {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: no address is asked for.
            let accepted =
                unsafe { libc::accept4(self.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
            // None is there, or it went away, or there are too many descriptors: later.
            let Ok(accepted) = sys::check(accepted) else { return };
            // SAFETY: the kernel just gave this descriptor to us.
            let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            let channel = Channel {
                socket,
                inward: VecDeque::new(),
                host_ended: false,
                is_shut: false,
                code_ended: false,
                credit: CHANNEL_WINDOW_BYTES,
            };
            self.channels.insert(id, channel);
            send(output, Kind::ChannelOpen, id, &[]);
        }
    }

    /// Forgets a connection that is over.
    fn settle(&mut self, id: u32, is_alive: bool, output: &mut FrameWriter) {
        let is_over = self.channels.get(&id).is_some_and(|channel| channel.is_shut && channel.code_ended);
        if !is_alive || is_over {
            self.channels.remove(&id);
            send(output, Kind::ChannelClosed, id, &[]);
        }
    }
}

impl Channel {
    /// Gives the code what it takes; `false` when it is gone.
    fn write(&mut self, id: u32, output: &mut FrameWriter) -> bool {
        let mut taken = 0_usize;
        while !self.inward.is_empty() {
            let (front, _) = self.inward.as_slices();
            match sys::write(self.socket.as_fd(), front) {
                Ok(count) => {
                    self.inward.drain(..count);
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if taken > 0 {
            send(output, Kind::CodeTook, id, &(taken as u32).to_le_bytes());
        }
        if self.host_ended && self.inward.is_empty() && !self.is_shut {
            // SAFETY: plain shutdown of our own socket.
            unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_WR) };
            self.is_shut = true;
        }
        true
    }

    /// Takes one piece from the code; `false` when it is gone.
    fn read(&mut self, id: u32, output: &mut FrameWriter) -> bool {
        let most = self.credit.min(PIECE_BYTES);
        if self.code_ended || most == 0 {
            return true;
        }
        let mut buffer = [0; PIECE_BYTES];
        match sys::read(self.socket.as_fd(), &mut buffer[..most]) {
            Ok(0) => {
                self.code_ended = true;
                send(output, Kind::FromCodeEnd, id, &[]);
                true
            }
            Ok(count) => {
                self.credit -= count;
                send(output, Kind::FromCode, id, &buffer[..count]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

fn send(output: &mut FrameWriter, kind: Kind, id: u32, rest: &[u8]) {
    let payload = [&id.to_le_bytes()[..], rest].concat();
    // A piece is far below the longest frame.
    let _ = output.push(kind, &payload);
}

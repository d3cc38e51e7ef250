//! The launcher of the native engine: a small process that makes sandboxes from namespaces.
//!
//! One launcher serves one cell: a cgroup, a pair of host users and a read-only root, built
//! once, in which one sandbox at a time runs. It is a process of its own because a clone costs
//! as much as its caller has memory, because a user namespace can only be made by a process with
//! one thread, and because what dies with a launcher dies surely: PID 1 of a sandbox is killed by
//! the kernel when its launcher goes, and the launcher goes when the host's end of its socket
//! closes, however the host ended.
//!
//! [`wire`] tells the conversation, [`root`] builds the root, [`sandbox`] starts PID 1 in
//! it. The host's side is the native engine.

pub mod packet;
pub mod seccomp;
pub mod sys;
pub mod wire;

mod root;
mod sandbox;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use sandbox::{Mould, Prepared};
use sys::{Child, Context, StepError};
use wire::{Answer, Identity, Request, Setup, Spawn};

/// Serves the host on descriptor 0 until it goes away. Answers the process's exit code.
pub fn main() -> u8 {
    match sys::close_from(3).map_err(io::Error::other).and_then(|()| Launcher::new()?.serve()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("launcher: {error}");
            1
        }
    }
}

struct Launcher {
    host: OwnedFd,
    mould: Option<Mould>,
    child: Option<Child>,
    /// The next sandbox, made while nobody waited for it.
    spare: Option<Prepared>,
    /// What the spare is made like.
    again: Option<Spawn>,
}

impl Launcher {
    fn new() -> io::Result<Self> {
        // A copy that closes on exec; 0 itself then leads nowhere.
        let host = io::stdin().as_fd().try_clone_to_owned()?;
        let null = File::open("/dev/null")?;
        // SAFETY: two open descriptors; standard input is not used any more.
        if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: neither call takes a pointer. Signals of the server's terminal (Ctrl-C) are for the
        // server, which ends its sandboxes when their jobs are done.
        unsafe {
            libc::setsid();
            libc::umask(0o022);
        }
        sys::name_process(c"tako-launcher");
        Ok(Self { host, mould: None, child: None, spare: None, again: None })
    }

    /// Answers requests until the host's end closes, then ends what still runs.
    fn serve(mut self) -> io::Result<()> {
        loop {
            let [host_speaks, child_ended] = self.wait()?;
            if child_ended {
                self.reap()?;
            }
            if !host_speaks {
                continue;
            }
            let Some((bytes, fds)) = packet::receive(self.host.as_fd())? else {
                if let Some(child) = &self.child {
                    sys::kill(child.pidfd.as_fd());
                    sys::wait_for_end(child.pid)?;
                }
                return Ok(());
            };
            self.answer(serde_json::from_slice(&bytes)?, fds)?;
        }
    }

    /// Blocks until the host speaks or the sandbox ends: which of the two.
    fn wait(&self) -> io::Result<[bool; 2]> {
        let events = libc::POLLIN;
        let child = self.child.as_ref().map_or(-1, |child| child.pidfd.as_raw_fd());
        let mut polls = [
            libc::pollfd { fd: self.host.as_raw_fd(), events, revents: 0 },
            libc::pollfd { fd: child, events, revents: 0 },
        ];
        // SAFETY: two structures, which outlive the call.
        if unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) } < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok([false; 2]),
                _ => Err(error),
            };
        }
        Ok(polls.map(|poll| poll.revents != 0))
    }

    fn answer(&mut self, request: Request, mut fds: Vec<OwnedFd>) -> io::Result<()> {
        let outcome = match (request, &self.mould, &self.child) {
            (Request::Kill, _, child) => {
                if let Some(child) = child {
                    sys::kill(child.pidfd.as_fd());
                }
                return Ok(());
            }
            (Request::Setup(setup), None, _) => set_up(setup).map(|mould| {
                self.mould = Some(mould);
                None
            }),
            (Request::Spawn(spawn), Some(mould), None) if !fds.is_empty() => {
                let frames = fds.remove(0);
                let spare = self.spare.take();
                start(mould, spare, spawn, &frames, fds.pop()).map(|(child, again)| {
                    self.again = again.then_some(spawn);
                    Some(child)
                })
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "request out of order")),
        };
        match outcome {
            Ok(None) => self.say(&Answer::Ready),
            Ok(Some(child)) => {
                self.say(&Answer::Spawned { pid: child.pid })?;
                self.child = Some(child);
                Ok(())
            }
            Err(error) => {
                let errno = error.errno();
                self.say(&Answer::Failed { step: error.step, errno })
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let status = sys::wait_for_end(child.pid)?;
        self.say(&Answer::Exited { status })?;
        // While nobody waits: the next sandbox's network and, as most are like the one before,
        // the sandbox itself. Why it fails is told when it is asked for.
        renew_network().map_err(io::Error::other)?;
        if let (Some(mould), Some(spawn)) = (&self.mould, self.again) {
            self.spare = Prepared::new(mould, spawn, None).ok();
        }
        Ok(())
    }

    fn say(&self, answer: &Answer) -> io::Result<()> {
        packet::send(self.host.as_fd(), &serde_json::to_vec(answer)?, &[])
    }
}

/// Starts a sandbox, the spare one if it is as asked for; whether a spare can be made like it.
fn start(
    mould: &Mould,
    spare: Option<Prepared>,
    spawn: Spawn,
    frames: &OwnedFd,
    cgroup: Option<OwnedFd>,
) -> Result<(Child, bool), StepError> {
    // On cgroup v2 the host may bring another group each time, so there is no spare.
    let inherits_cgroup = cgroup.is_none();
    let prepared = match spare {
        Some(spare) if spare.spawn == spawn && spare.is_alive() => spare,
        other => {
            if let Some(unlike) = other {
                unlike.discard();
            }
            Prepared::new(mould, spawn, cgroup)?
        }
    };
    Ok((prepared.start(frames)?, inherits_cgroup))
}

fn set_up(setup: Setup) -> Result<Mould, StepError> {
    let proc = OwnedFd::from(File::open("/proc").step(|| "open /proc".to_owned())?);
    if let Identity::Single { uid, gid } = setup.identity {
        enter_user_namespace(uid, gid)?;
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no_new_privs")?;
    root::build(&setup.root)?;
    renew_network()?;
    Ok(Mould { identity: setup.identity, proc, filter: seccomp::program() })
}

/// Makes an ordinary user root of a namespace of its own, in which it may mount and clone.
fn enter_user_namespace(uid: u32, gid: u32) -> Result<(), StepError> {
    sys::unshare(libc::CLONE_NEWUSER, "user")?;
    for (name, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1\n")), ("gid_map", format!("0 {gid} 1\n"))]
    {
        File::options()
            .write(true)
            .open(format!("/proc/self/{name}"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .step(|| format!("write {name}"))?;
    }
    Ok(())
}

/// A network namespace that no sandbox has used: a loopback interface and nothing else.
fn renew_network() -> Result<(), StepError> {
    sys::unshare(libc::CLONE_NEWNET, "network")?;
    sys::raise_loopback()
}

/// What runs as PID 1 of a sandbox.
fn guest(input: OwnedFd, output: OwnedFd) -> ! {
    crate::init::run(input, output)
}

//! Signals as something to poll.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use super::sys;

/// The signals the guest listens to, blocked and read from a descriptor.
pub struct Signals {
    fd: OwnedFd,
    is_init: bool,
}

/// What arrived since the last look.
#[derive(Default)]
pub struct Arrived {
    /// A child changed its state.
    pub child: bool,
    /// Somebody outside the sandbox asks the guest to end.
    pub terminate: bool,
}

const LISTENED: [libc::c_int; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

impl Signals {
    pub fn listen(is_init: bool) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initializes the set before anything reads it; a null old set is
        // allowed.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::sigemptyset(set.as_mut_ptr());
            for signal in LISTENED {
                // An ignored SIGCHLD, inherited, would make ended children vanish unseen.
                libc::signal(signal, libc::SIG_DFL);
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            sys::check(libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()))?;
            let fd = sys::check(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Self { fd: OwnedFd::from_raw_fd(fd), is_init })
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes what arrived, without waiting.
    ///
    /// As PID 1 a sender inside the sandbox has a process id and one outside reads as 0, so
    /// that user code of the same uid cannot make its own end look like a cancellation.
    pub fn take(&self) -> Arrived {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut arrived = Arrived::default();
        let mut bytes = [0; SIZE];
        while let Ok(SIZE) = sys::read(self.fd.as_fd(), &mut bytes) {
            // SAFETY: the kernel filled the whole structure, which is plain data.
            let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
            if info.ssi_signo == libc::SIGCHLD as u32 {
                arrived.child = true;
            } else if !self.is_init || info.ssi_pid == 0 {
                arrived.terminate = true;
            }
        }
        arrived
    }
}

/// Gives a forked child the signal state of a fresh program.
pub fn reset_in_child() {
    // SAFETY: only resets dispositions and the mask of this process; signals whose disposition
    // cannot change answer an error that does not matter.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

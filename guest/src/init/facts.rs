//! What the report states beside the wait status.

use crate::protocol::{Exception, MAX_BASES, MAX_MESSAGE_BYTES, MAX_NAME_BYTES, prefix};

/// What the ended children used, and theirs.
pub struct Usage {
    pub cpu_ms: u64,
    /// Of the largest single process.
    pub peak_memory_bytes: u64,
}

pub fn children_usage() -> Usage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is plain data, zeroed, and filled by the kernel.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let millis = |time: libc::timeval| time.tv_sec as u64 * 1000 + time.tv_usec as u64 / 1000;
    Usage { cpu_ms: millis(usage.ru_utime) + millis(usage.ru_stime), peak_memory_bytes: usage.ru_maxrss as u64 * 1024 }
}

/// Reads the bootstrap's three fields. They come from the user's process: anything may be in
/// them, so that they are only cut and made text.
pub fn parse_exception(bytes: &[u8]) -> Option<Exception> {
    let text = String::from_utf8_lossy(bytes);
    let mut fields = text.splitn(3, '\0');
    let class = fields.next().filter(|class| !class.is_empty())?;
    let bases = fields.next()?;
    let message = fields.next()?;
    Some(Exception {
        class: prefix(class, MAX_NAME_BYTES).to_owned(),
        bases: bases
            .split('\n')
            .filter(|base| !base.is_empty())
            .take(MAX_BASES)
            .map(|base| prefix(base, MAX_NAME_BYTES).to_owned())
            .collect(),
        message: prefix(message, MAX_MESSAGE_BYTES).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_user_code_writes_in_the_bootstraps_place_is_cut_and_made_text() {
        assert_eq!(parse_exception(b""), None);
        assert_eq!(parse_exception(b"no fields"), None);
        assert_eq!(parse_exception(b"\0\0"), None);
        let bases = "b".repeat(2000) + &"\nx".repeat(100);
        let exception =
            parse_exception(format!("{}\0{bases}\0{}", "é".repeat(1000), "m".repeat(9000)).as_bytes()).unwrap();
        assert_eq!(exception.class.len(), MAX_NAME_BYTES);
        assert_eq!((exception.bases.len(), exception.bases[0].len()), (MAX_BASES, MAX_NAME_BYTES));
        assert_eq!(exception.message.len(), MAX_MESSAGE_BYTES);
        assert_eq!(parse_exception(b"A\0\0\xff\0").unwrap().message, "\u{fffd}\0");
    }
}

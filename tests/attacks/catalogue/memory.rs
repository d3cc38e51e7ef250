use tako_guest::protocol::End;
use tako_vm::domain::ErrorType;

use super::{MIB, case};
use crate::attacks::arena::Place;
use crate::attacks::case::{Case, Seen, Verdict, verdict_only};

const GVISOR_DIES: &str =
    "gVisor's kernel is one process of the host's, so the host's OOM killer ends the whole sandbox.";

/// Killed at its limit, which was not passed.
fn within_the_limit(seen: &Seen) {
    // Where the whole sandbox died there is no report to look at.
    if let Some(run) = &seen.run {
        let peak = run.report.peak_memory_bytes;
        assert!(peak <= seen.limits.memory_bytes, "{peak} bytes");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("memory/list_bomb").must(Verdict::OutOfMemory, within_the_limit),
        // Each file system alone is within the limit, all together are not.
        case!("memory/tmpfs_bomb")
            .tune(|limits, _| {
                limits.tmp_bytes = 96 * MIB;
                limits.output_bytes = 96 * MIB;
            })
            .must(Verdict::OutOfMemory, within_the_limit),
        case!("memory/memfd_bomb").must(Verdict::OutOfMemory, within_the_limit),
        case!("memory/shared_memory_bomb").must(Verdict::OutOfMemory, within_the_limit),
        // Enough sockets that their buffers alone are beyond the limit.
        case!("memory/kernel_buffers")
            .tune(|limits, _| limits.open_files = 1024)
            .must(Verdict::OutOfMemory, within_the_limit),
        case!("memory/oom_in_a_child")
            .must(Verdict::Succeeded, |seen| {
                assert_eq!(seen.stdout(), "child: signal 9\n");
                assert_eq!(seen.report().oom_killed, Some(true));
            })
            .but_at(Place::Runsc, Verdict::OutOfMemory, verdict_only, GVISOR_DIES),
        case!("memory/protected_from_the_killer").must(Verdict::OutOfMemory, |seen| {
            within_the_limit(seen);
            if seen.run.is_some() {
                assert_eq!(seen.stdout(), "asked: refused\nscore: 1000\n");
            }
        }),
        case!("memory/exit_137").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().end, End::Exited { code: 137 });
        }),
        case!("memory/memory_error").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().exception.as_ref().unwrap().class, "MemoryError");
            assert_eq!(seen.report().oom_killed, Some(false));
        }),
        case!("memory/pretended_oom").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().exception, None);
        }),
        case!("memory/kills_itself").must(Verdict::Failed(ErrorType::Killed), |seen| {
            assert_eq!(seen.report().oom_killed, Some(false));
        }),
    ]
}

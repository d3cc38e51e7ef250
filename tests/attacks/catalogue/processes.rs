use std::time::Duration;

use tako_guest::protocol::End;
use tako_vm::domain::ErrorType;

use super::{MIB, case};
use crate::attacks::arena::Place;
use crate::attacks::case::{Case, Seen, Verdict, verdict_only};

fn refused_in_time(seen: &Seen) {
    assert_eq!(seen.value("refused"), "BlockingIOError");
    let count = seen.number("zombies");
    assert!((8..=u64::from(seen.limits.pids)).contains(&count), "{count} zombies");
}

pub fn cases() -> Vec<Case> {
    vec![
        // Memory for as many interpreters as there may be, so that their number is what ends it.
        case!("processes/fork_bomb")
            .tune(|limits, job| {
                limits.memory_bytes = 512 * MIB;
                job.execution_timeout = Duration::from_secs(1);
            })
            .must(Verdict::TimedOut, verdict_only),
        case!("processes/zombie_flood").must(Verdict::Succeeded, refused_in_time),
        case!("processes/orphan_storm").for_a_second().must(Verdict::TimedOut, verdict_only),
        case!("processes/orphan").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), ["early.txt"], "the orphan lived on");
        }),
        case!("processes/kill_all").must(Verdict::Succeeded, |seen| assert_eq!(seen.stdout(), "child: 9\n")),
        case!("processes/signals_to_pid_1").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "sent: 0\nparent: 1\n");
        }),
        case!("processes/children_of_pid_1")
            .must(Verdict::Succeeded, |seen| assert_eq!(seen.stdout(), "made: 4\n"))
            .but_at(
                Place::Runsc,
                Verdict::Failed(ErrorType::Killed),
                |seen| assert!(matches!(seen.report().end, End::Signaled { signal: libc::SIGKILL | 64 })),
                "gVisor makes the children the job's own instead of PID 1's, so the signal that one's end sends strikes \
                 the job: SIGKILL or another, whichever child ends first.",
            ),
        case!("processes/another_program").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().end, End::Exited { code: 3 });
            assert_eq!(seen.stdout(), "not python\n");
        }),
        case!("processes/crash").must(Verdict::Failed(ErrorType::Segfault), |seen| {
            assert_eq!(seen.report().end, End::Signaled { signal: libc::SIGSEGV });
        }),
    ]
}

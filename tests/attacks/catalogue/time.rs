use super::case;
use crate::attacks::case::{Case, Seen, Verdict};

/// Killed at its limit of a second, not long after.
fn in_time(seen: &Seen) {
    let wall = seen.report().wall_ms;
    assert!((1000..4000).contains(&wall), "ended after {wall} ms");
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("time/busy_loop").for_a_second().must(Verdict::TimedOut, in_time),
        case!("time/sleep_past_the_limit").for_a_second().must(Verdict::TimedOut, |seen| {
            in_time(seen);
            assert!(seen.report().cpu_ms < 500, "slept for {} ms of processor time", seen.report().cpu_ms);
        }),
        case!("time/signals_ignored").for_a_second().must(Verdict::TimedOut, |seen| {
            in_time(seen);
            assert_eq!(seen.stdout(), "deaf\n");
        }),
        case!("time/never_finishes_exiting").for_a_second().must(Verdict::TimedOut, |seen| {
            in_time(seen);
            assert_eq!(seen.stdout(), "exiting\n");
        }),
        // The daemon neither holds the job up nor writes once it is over.
        case!("time/setsid_double_fork").must(Verdict::Succeeded, |seen| {
            assert!(seen.report().wall_ms < 8000, "held up for {} ms", seen.report().wall_ms);
            assert!(seen.stdout().contains("parent done\n"));
        }),
        case!("time/stopped_child").for_a_second().must(Verdict::TimedOut, |seen| {
            in_time(seen);
            assert_eq!(seen.stdout(), "stopped\n");
        }),
        case!("time/stops_itself").for_a_second().must(Verdict::TimedOut, |seen| {
            in_time(seen);
            assert_eq!(seen.stdout(), "stopping\n");
        }),
        case!("time/thread_flood").tune(|_, job| job.execution_timeout = std::time::Duration::from_secs(3)).must(
            Verdict::TimedOut,
            |seen| {
                let count = seen.number("threads");
                assert!((8..=u64::from(seen.limits.pids)).contains(&count), "{count} threads");
            },
        ),
    ]
}

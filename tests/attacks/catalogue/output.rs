use tako_guest::protocol::End;
use tako_vm::domain::ErrorType;

use super::case;
use crate::attacks::case::{Case, Verdict};

const KEPT: usize = 64 << 10;

pub fn cases() -> Vec<Case> {
    vec![
        case!("output/endless").for_a_second().must(Verdict::TimedOut, |seen| {
            assert_eq!(seen.run().stdout.len(), KEPT);
            assert!(seen.report().stdout_truncated);
            assert!(seen.report().stdout_total_bytes > KEPT as u64);
        }),
        case!("output/gigabyte_without_newline").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "x".repeat(KEPT));
            assert!(seen.report().stdout_truncated);
            assert_eq!(seen.report().stdout_total_bytes, 1 << 30);
        }),
        case!("output/not_text").must(Verdict::Succeeded, |seen| {
            let expected: &[u8] = b"a\0b\xff\xfe\xc3\xed\xa0\x80\x1b[2J\x1b]0;title\x07\xf0\x9f";
            assert_eq!(seen.run().stdout, expected);
            assert_eq!(seen.run().stderr, (0..=255).collect::<Vec<u8>>());
        }),
        case!("output/held_by_a_grandchild").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "done\n");
            assert!(seen.report().wall_ms < 8000, "held up for {} ms", seen.report().wall_ms);
        }),
        // The frame is output like any other; 4 would say that it reached somebody else's descriptor.
        case!("output/forged_frames").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().end, End::Exited { code: 3 });
            assert_eq!(seen.run().stdout.first(), Some(&70));
            assert_eq!(seen.run().stdout, seen.run().stderr);
        }),
        case!("output/forged_exception").must(Verdict::Succeeded, |seen| {
            assert_eq!((seen.report().end, &seen.report().exception), (End::Exited { code: 0 }, &None));
        }),
        case!("output/forged_results").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().end, End::Exited { code: 5 });
            assert_eq!(seen.run().stdout.len(), 0);
            assert_eq!(seen.run().artifacts.len(), 6);
        }),
        case!("output/everything_closed").must(Verdict::Failed(ErrorType::RuntimeError), |seen| {
            assert_eq!(seen.report().end, End::Exited { code: 6 });
            assert_eq!(seen.run().stdout.len(), 0);
        }),
        // Whatever it read itself is missing, the rest is counted, and nothing waits.
        case!("output/pipe_tricks").must(Verdict::Succeeded, |seen| {
            assert!(seen.run().stdout.len() <= KEPT);
            assert!(seen.report().stdout_total_bytes >= 6000 - 100);
        }),
    ]
}

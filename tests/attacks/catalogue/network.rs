use super::case;
use crate::attacks::arena::Place;
use crate::attacks::case::{Case, Verdict};

pub fn cases() -> Vec<Case> {
    vec![
        case!("network/reach_out").must(Verdict::Succeeded, |seen| {
            seen.all_refused(3 * seen.stage.addresses.len());
            // A refused connection would have reached somebody.
            assert!(!seen.stdout().contains("ECONNREFUSED"), "{}", seen.stdout());
        }),
        // Whether the datagram came, and anybody else, the stage says.
        case!("network/loopback_of_the_host").must(Verdict::Succeeded, |seen| seen.all_refused(4)),
        case!("network/other_sandboxes").must(Verdict::Succeeded, |seen| seen.all_refused(6)),
        case!("network/ipv6").must(Verdict::Succeeded, |seen| seen.all_refused(9)),
        case!("network/names").must(Verdict::Succeeded, |seen| seen.all_refused(7)),
        case!("network/odd_sockets").must(Verdict::Succeeded, |seen| seen.all_refused(11)),
        case!("network/configuration").must(Verdict::Succeeded, |seen| seen.all_refused(4)).but_at(
            Place::Runsc,
            Verdict::Succeeded,
            |seen| seen.all_refused_but(&["mark"], 4),
            "gVisor takes a mark for packets that have nowhere to go.",
        ),
    ]
}

use super::case;
use crate::attacks::arena::Place;
use crate::attacks::case::{Case, Seen, Verdict};

fn holds(attempts: &'static [&'static str], seen: &Seen) {
    for what in attempts {
        assert!(seen.stdout().contains(&format!("{what}: ")), "{what} was not tried: {}", seen.stdout());
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("host/identity").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.value("users"), "(1000, 1000, 1000) (1000, 1000, 1000) []");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(seen.value(set), "0", "{set}");
            }
            assert_eq!(seen.value("Seccomp"), "2");
        }),
        case!("host/privileges").must(Verdict::Succeeded, |seen| seen.all_refused(14)).but_at(
            Place::Runsc,
            Verdict::Succeeded,
            |seen| {
                let empty = ["ambient capability", "priority", "priority of PID 1", "realtime"];
                seen.all_refused_but(&empty, 14);
            },
            "gVisor knows no ambient capabilities and no real-time scheduling, and keeps priorities as numbers without \
             effect.",
        ),
        case!("host/setuid_programs").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.value("gained"), "[]");
            assert_eq!(seen.value("own"), "refused");
        }),
        case!("host/programs_of_its_own").must(Verdict::Succeeded, |seen| seen.all_refused(3)),
        case!("host/secrets_of_pid_1").must(Verdict::Succeeded, |seen| seen.all_refused(15)).but_at(
            Place::Runsc,
            Verdict::Succeeded,
            |seen| {
                seen.all_refused_but(&["environ", "maps", "auxv", "fd", "fdinfo"], 15);
                for name in seen.stderr().lines() {
                    assert!(["PATH", "HOSTNAME", "HOME"].contains(&name), "PID 1 has {name} in its environment");
                }
            },
            "gVisor shows these files of any process (not its memory, and its descriptors cannot be opened); the guest's \
             environment holds nothing but PATH, HOSTNAME and HOME.",
        ),
        case!("host/other_processes").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "others: []\nanswered: []\n");
        }),
        case!("host/other_memory").must(Verdict::Succeeded, |seen| seen.all_refused(11)),
        case!("host/inherited_descriptors").must(Verdict::Succeeded, |seen| {
            assert_eq!(
                seen.stdout(),
                "0: /dev/null\n1: pipe\n2: pipe\n5: pipe\nchild\n0: /dev/null\n1: pipe\n2: pipe\n"
            );
        }),
        case!("host/files_of_the_host").must(Verdict::Succeeded, |seen| {
            seen.all_refused(16);
            assert!(!seen.stdout().contains(&seen.stage.secret));
        }),
        case!("host/read_only_root").must(Verdict::Succeeded, |seen| seen.all_refused(22)),
        case!("host/sockets_of_the_host").must(Verdict::Succeeded, |seen| seen.all_refused(7)),
        case!("host/devices").must(Verdict::Succeeded, |seen| seen.all_refused(19)).but_at(
            Place::Runsc,
            Verdict::Succeeded,
            |seen| seen.all_refused_but(&["fuse", "net/tun"], 19),
            "These are devices of gVisor's own kernel. Mounting and configuring interfaces are refused, without which they \
             do nothing.",
        ),
        case!("host/proc_sys").must(Verdict::Succeeded, |seen| seen.all_refused(22)),
        case!("host/proc_secrets").must(Verdict::Succeeded, |seen| seen.all_refused(12)),
        case!("host/sys_writes").must(Verdict::Succeeded, |seen| assert_eq!(seen.value("opened"), "[]")),
        case!("host/cgroup_writes").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.value("opened"), "[]");
            assert_eq!(seen.value("outside"), "[]");
        }),
        case!("host/mount").must(Verdict::Succeeded, |seen| seen.all_refused(14)),
        case!("host/namespaces").must(Verdict::Succeeded, |seen| {
            seen.all_refused(18);
            holds(&["unshare user", "clone user", "clone3", "setns user"], seen);
        }),
        case!("host/kernel_facilities").must(Verdict::Succeeded, |seen| seen.all_refused(13)),
        case!("host/machine").must(Verdict::Succeeded, |seen| seen.all_refused(18)),
        case!("host/foreign_system_calls").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "32-bit: refused\nx32: refused\n");
        }),
        case!("host/core_dump").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.stdout(), "core: False\nleft: []\n");
        }),
    ]
}

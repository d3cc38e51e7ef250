//! The system call filter that everything in a native sandbox runs under.
//!
//! A deny list, compiled to classic BPF by hand: what Docker's default profile refuses to a
//! container without capabilities, and beyond it ptrace, io_uring, handles to files by number,
//! unusual socket families and any system call younger than this list. A refused call answers
//! an error instead of killing, so that libraries that merely probe go on; a foreign system
//! call table (32-bit calls from a 64-bit process) kills.

use std::io;

use libc::sock_filter;

/// System calls no job needs, refused with `EPERM`.
const REFUSED: &[libc::c_long] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    // Kernel facilities with a history of local escalations.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    // Keys are not namespaced by anything a sandbox gets of its own.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    457, // statmount
    458, // listmount
    459, // lsm_get_self_attr
    460, // lsm_set_self_attr
    461, // lsm_list_modules
    // Files by number instead of by name.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The machine as a whole.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    // Where memory lies; Docker asks for CAP_SYS_NICE too.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_get_mempolicy,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    450, // set_mempolicy_home_node
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// `mseal`: the youngest call this list was written for. Younger ones answer `ENOSYS`, to
/// which every caller has an alternative.
const YOUNGEST_KNOWN: u32 = 462;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// The bit of the x32 call table on x86-64; no number of ours has it.
const X32_BIT: u32 = 0x4000_0000;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

// Places in `struct seccomp_data`; the low half of an argument on a little-endian machine.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const fn at_argument(index: u32) -> u32 {
    16 + 8 * index
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const fn error(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// Compiles the filter for this machine.
pub fn program() -> Vec<sock_filter> {
    let mut program = vec![
        op(LOAD, AT_ARCHITECTURE),
        branch(IF_EQUAL, ARCHITECTURE, 1, 0),
        op(RETURN, KILL),
        op(LOAD, AT_NUMBER),
        branch(IF_ANY_BIT, X32_BIT, 0, 1),
        op(RETURN, KILL),
        branch(IF_GREATER, YOUNGEST_KNOWN, 0, 1),
        op(RETURN, error(libc::ENOSYS)),
    ];
    on_arguments(&mut program);
    // A search tree rather than a row of comparisons: the kernel runs the filter over every
    // call number when it is installed, and that is paid per sandbox.
    let mut refused: Vec<u32> = REFUSED.iter().chain(REFUSED_HERE).map(|&number| number as u32).collect();
    refused.sort_unstable();
    search(&mut program, &refused);
    program
}

/// Rules that look at arguments. Each ends in a verdict for its call.
fn on_arguments(program: &mut Vec<sock_filter>) {
    // Without clone3 the C library falls back to clone, whose flags a filter can see.
    rule(program, libc::SYS_clone3, &[op(RETURN, error(libc::ENOSYS))]);
    rule(
        program,
        libc::SYS_clone,
        &[
            op(LOAD, at_argument(0)),
            branch(IF_ANY_BIT, NEW_NAMESPACES, 0, 1),
            op(RETURN, error(libc::EPERM)),
            op(RETURN, ALLOW),
        ],
    );
    rule(
        program,
        libc::SYS_socket,
        &[
            op(LOAD, at_argument(0)),
            branch(IF_EQUAL, libc::AF_UNIX as u32, 5, 0),
            branch(IF_EQUAL, libc::AF_INET as u32, 4, 0),
            branch(IF_EQUAL, libc::AF_INET6 as u32, 3, 0),
            branch(IF_EQUAL, libc::AF_NETLINK as u32, 0, 3),
            op(LOAD, at_argument(2)),
            branch(IF_EQUAL, libc::NETLINK_ROUTE as u32, 0, 1),
            op(RETURN, ALLOW),
            op(RETURN, error(libc::EAFNOSUPPORT)),
        ],
    );
    rule(
        program,
        libc::SYS_ioctl,
        &[
            op(LOAD, at_argument(1)),
            branch(IF_EQUAL, libc::TIOCSTI as u32, 2, 0),
            branch(IF_EQUAL, libc::TIOCLINUX as u32, 1, 0),
            op(RETURN, ALLOW),
            op(RETURN, error(libc::EPERM)),
        ],
    );
    rule(
        program,
        libc::SYS_personality,
        &[
            op(LOAD, at_argument(0)),
            branch(IF_EQUAL, 0, 1, 0),
            branch(IF_EQUAL, u32::MAX, 0, 1),
            op(RETURN, ALLOW),
            op(RETURN, error(libc::EPERM)),
        ],
    );
}

/// Runs `verdict` if the loaded number is `call`, else jumps over it.
fn rule(program: &mut Vec<sock_filter>, call: libc::c_long, verdict: &[sock_filter]) {
    program.push(branch(IF_EQUAL, call as u32, 0, verdict.len() as u8));
    program.extend_from_slice(verdict);
}

/// Ends in `EPERM` for the sorted `numbers`, in `ALLOW` for every other.
fn search(program: &mut Vec<sock_filter>, numbers: &[u32]) {
    if numbers.len() <= 4 {
        for (index, &number) in numbers.iter().enumerate() {
            let to_refusal = (numbers.len() - index) as u8;
            program.push(branch(IF_EQUAL, number, to_refusal, 0));
        }
        program.push(op(RETURN, ALLOW));
        program.push(op(RETURN, error(libc::EPERM)));
        return;
    }
    let (low, high) = numbers.split_at(numbers.len() / 2);
    let mut below = Vec::new();
    search(&mut below, low);
    // The lower half of a hundred numbers has fewer than 255 instructions, so the jump fits.
    program.push(branch(IF_GREATER, low[low.len() - 1], below.len() as u8, 0));
    program.extend_from_slice(&below);
    search(program, high);
}

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Puts this process and all that it will start under the filter, for good.
///
/// `no_new_privs` must be set.
///
/// # Errors
/// What `seccomp(2)` answers.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call; the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(architecture: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let program = program();
        let mut data = [0u32; 16];
        data[0] = number;
        data[1] = architecture;
        for (index, argument) in arguments.iter().enumerate() {
            data[4 + 2 * index] = *argument as u32;
            data[5 + 2 * index] = (*argument >> 32) as u32;
        }
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let holds = match step.code {
                LOAD => {
                    loaded = data[step.k as usize / 4];
                    continue;
                }
                RETURN => return step.k,
                IF_EQUAL => loaded == step.k,
                IF_GREATER => loaded > step.k,
                IF_ANY_BIT => loaded & step.k != 0,
                other => panic!("unknown instruction {other}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    fn here(number: libc::c_long, arguments: [u64; 3]) -> u32 {
        verdict(ARCHITECTURE, number as u32, arguments)
    }

    #[test]
    fn exactly_the_listed_calls_are_refused_whatever_their_arguments() {
        let listed: Vec<u32> = REFUSED.iter().chain(REFUSED_HERE).map(|&number| number as u32).collect();
        let by_arguments =
            [libc::SYS_clone3, libc::SYS_clone, libc::SYS_socket, libc::SYS_ioctl, libc::SYS_personality];
        for number in 0..=YOUNGEST_KNOWN {
            if by_arguments.contains(&libc::c_long::from(number as i32)) {
                continue;
            }
            let expected = if listed.contains(&number) { error(libc::EPERM) } else { ALLOW };
            assert_eq!(verdict(ARCHITECTURE, number, [0; 3]), expected, "call {number}");
        }
    }

    #[test]
    fn a_call_younger_than_the_list_does_not_exist() {
        assert_eq!(verdict(ARCHITECTURE, YOUNGEST_KNOWN + 1, [0; 3]), error(libc::ENOSYS));
        assert_eq!(verdict(ARCHITECTURE, 9999, [0; 3]), error(libc::ENOSYS));
    }

    #[test]
    fn a_foreign_call_table_kills() {
        assert_eq!(verdict(0x4000_0003, libc::SYS_read as u32, [0; 3]), KILL);
        assert_eq!(verdict(ARCHITECTURE, libc::SYS_read as u32 | X32_BIT, [0; 3]), KILL);
    }

    #[test]
    fn threads_and_forks_are_made_but_no_namespace() {
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        assert_eq!(here(libc::SYS_clone, [thread, 0, 0]), ALLOW);
        assert_eq!(here(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0]), ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
            assert_eq!(here(libc::SYS_clone, [flag as u64, 0, 0]), error(libc::EPERM));
        }
        assert_eq!(here(libc::SYS_clone3, [0; 3]), error(libc::ENOSYS));
    }

    #[test]
    fn only_everyday_sockets_are_made() {
        let stream = libc::SOCK_STREAM as u64;
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
            assert_eq!(here(libc::SYS_socket, [family as u64, stream, 6]), ALLOW);
        }
        let netlink = libc::AF_NETLINK as u64;
        assert_eq!(here(libc::SYS_socket, [netlink, stream, libc::NETLINK_ROUTE as u64]), ALLOW);
        assert_eq!(
            here(libc::SYS_socket, [netlink, stream, libc::NETLINK_NETFILTER as u64]),
            error(libc::EAFNOSUPPORT)
        );
        for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET, libc::AF_XDP] {
            assert_eq!(here(libc::SYS_socket, [family as u64, stream, 0]), error(libc::EAFNOSUPPORT));
        }
    }

    #[test]
    fn a_terminal_takes_no_injected_input() {
        assert_eq!(here(libc::SYS_ioctl, [0, u64::from(libc::TIOCSTI as u32), 0]), error(libc::EPERM));
        // The upper half is ignored by the kernel, so it must not hide the lower one.
        let hidden = (1 << 32) | u64::from(libc::TIOCSTI as u32);
        assert_eq!(here(libc::SYS_ioctl, [0, hidden, 0]), error(libc::EPERM));
        assert_eq!(here(libc::SYS_ioctl, [0, u64::from(libc::TCGETS as u32), 0]), ALLOW);
    }
}

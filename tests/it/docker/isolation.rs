//! What user code cannot reach.

use super::{Bench, MIB, job, text};

#[tokio::test]
async fn user_code_has_no_privilege() {
    let bench = Bench::new().await;
    let code = "import os\n\
                print(os.getuid(), os.getgid(), os.getgroups())\n\
                for line in open('/proc/self/status'):\n\
                \x20   if line.startswith(('Cap', 'NoNewPrivs', 'Seccomp:')): print(line.split())\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    assert!(stdout.starts_with("1000 1000 []\n"), "{stdout}");
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:"] {
        assert!(stdout.contains(&format!("['{name}', '0000000000000000']")), "{stdout}");
    }
    // gVisor has neither line.
    if !bench.is_gvisor() {
        assert!(stdout.contains("['CapAmb:', '0000000000000000']"), "{stdout}");
        assert!(stdout.contains("['NoNewPrivs:', '1']"), "{stdout}");
    }
    assert!(stdout.contains("['Seccomp:', '2']"), "{stdout}");
    bench.end().await;
}

#[tokio::test]
async fn calls_beyond_the_process_are_denied() {
    let bench = Bench::new().await;
    // Each by its number on x86_64 or aarch64, with arguments that would work for root.
    let code = "import ctypes, errno, platform\n\
                arm = platform.machine() == 'aarch64'\n\
                libc = ctypes.CDLL(None, use_errno=True)\n\
                calls = {'ptrace': (101, 117), 'mount': (165, 40), 'unshare': (272, 97),\n\
                \x20        'keyctl': (250, 219), 'bpf': (321, 280), 'userfaultfd': (323, 282),\n\
                \x20        'io_uring_setup': (425, 425), 'clone3': (435, 435), 'setns': (308, 268)}\n\
                for name, numbers in calls.items():\n\
                \x20   ctypes.set_errno(0)\n\
                \x20   answer = libc.syscall(numbers[arm], 0, 0, 0, 0, 0)\n\
                \x20   print(name, answer, errno.errorcode.get(ctypes.get_errno()))\n\
                ctypes.set_errno(0)\n\
                answer = libc.syscall(220 if arm else 56, 0x10000000, 0, 0, 0, 0)\n\
                print('clone newuser', answer, errno.errorcode.get(ctypes.get_errno()))\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    let denied = ["ptrace", "mount", "unshare", "keyctl", "bpf", "userfaultfd", "setns", "clone newuser"];
    for name in denied {
        assert!(stdout.contains(&format!("{name} -1 EPERM\n")), "{name}: {stdout}");
    }
    for name in ["io_uring_setup", "clone3"] {
        assert!(stdout.contains(&format!("{name} -1 ENOSYS\n")), "{name}: {stdout}");
    }
    bench.end().await;
}

#[tokio::test]
async fn only_the_tmpfs_mounts_can_be_written() {
    let bench = Bench::new().await;
    let code = "import os\n\
                for path in ['/x', '/etc/x', '/code/x', '/input/x', '/tako/x', '/usr/x',\n\
                \x20            '/tmp/x', '/output/x', '/dev/shm/x']:\n\
                \x20   try: open(path, 'w').close(); print(path, 'yes')\n\
                \x20   except OSError as error: print(path, type(error).__name__, error.errno)\n\
                print(sum(1 for _ in open('/proc/mounts') if '/run/secrets' in _))\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    let written: Vec<&str> = stdout.lines().filter_map(|line| line.strip_suffix(" yes")).collect();
    assert_eq!(written, ["/tmp/x", "/output/x", "/dev/shm/x"], "{stdout}");
    bench.end().await;
}

#[tokio::test]
async fn there_is_no_network_but_the_own_loopback() {
    let bench = Bench::new().await;
    let code = "import socket\n\
                print([name for _, name in socket.if_nameindex()])\n\
                try: socket.create_connection(('169.254.169.254', 80), 2); print('connected')\n\
                except OSError as error: print(error.errno)\n\
                own = socket.create_server(('127.0.0.1', 0))\n\
                socket.create_connection(own.getsockname(), 2)\n\
                print('own loopback')\n";
    let run = bench.run(job(code)).await.unwrap();
    let refused = if bench.is_gvisor() { libc::EHOSTUNREACH } else { libc::ENETUNREACH };
    let expected = format!("['lo']\n{refused}\nown loopback\n");
    assert_eq!(text(&run.stdout), expected, "{}", text(&run.stderr));
    bench.end().await;
}

#[tokio::test]
async fn inodes_and_bytes_of_a_tmpfs_are_limited() {
    let mut bench = Bench::new().await;
    bench.spec.limits.inodes = 50;
    bench.spec.limits.tmp_bytes = MIB;
    bench.spec.limits.output_bytes = MIB;
    let code = "import os\n\
                def fill(path, bytes, most):\n\
                \x20   try:\n\
                \x20       for n in range(100): open(f'{path}/{n}', 'wb').write(bytes)\n\
                \x20   except OSError as error: return n < most, error.errno\n\
                for path in ['/tmp', '/output', '/dev/shm']:\n\
                \x20   print(fill(path, bytes(1 << 19), 3))\n\
                \x20   for name in os.listdir(path): os.unlink(f'{path}/{name}')\n\
                \x20   print(fill(path, b'', 51))\n";
    let run = bench.run(job(code)).await.unwrap();
    let full = format!("(True, {})", libc::ENOSPC);
    // gVisor knows no inode limit; its files count as the sandbox's memory.
    let inodes = if bench.is_gvisor() { "None" } else { &full };
    assert_eq!(text(&run.stdout), format!("{full}\n{inodes}\n").repeat(3));
    bench.end().await;
}

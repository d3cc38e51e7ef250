use std::net::TcpListener;

use tako_vm::engine::Engine;

use super::Fixture;

/// A job that tries one system call by number and prints the name of the error.
fn call(number: libc::c_long, arguments: &str) -> String {
    format!(
        "import ctypes, errno\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         result = libc.syscall({number}{arguments})\n\
         print('done' if result >= 0 else errno.errorcode[ctypes.get_errno()])"
    )
}

#[tokio::test]
async fn the_code_is_an_unprivileged_user_without_any_right() {
    let fixture = Fixture::new(1).await;
    let status = fixture.print("print(open('/proc/self/status').read())").await;
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(value("Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(value("Gid"), "1000\t1000\t1000\t1000");
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("Seccomp"), "2");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn there_is_no_network_but_an_own_loopback() {
    let fixture = Fixture::new(1).await;
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let code = format!(
        "import socket\n\
         print([name for _, name in socket.if_nameindex()])\n\
         for target in [('127.0.0.1', {port}), ('169.254.169.254', 80), ('::1', {port})]:\n\
         \x20   try: socket.create_connection(target, 2); print('connected')\n\
         \x20   except OSError as error: print(type(error).__name__, error.errno)\n\
         server = socket.create_server(('127.0.0.1', 0))\n\
         socket.create_connection(server.getsockname()); print('own loopback')"
    );
    let expected = "['lo']\nConnectionRefusedError 111\nOSError 101\nConnectionRefusedError 111\nown loopback";
    assert_eq!(fixture.print(&code).await, expected);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn only_the_sandboxs_own_directories_can_be_written() {
    let fixture = Fixture::new(1).await;
    let code = "import os\n\
                for root in ['/', '/usr', '/usr/bin', '/etc', '/dev', '/proc', '/proc/sys/kernel', '/sys', \
                '/code', '/input', '/tmp', '/output', '/dev/shm']:\n\
                \x20   try: open(root + '/x', 'w').close(); print(root)\n\
                \x20   except OSError: pass";
    let writable = fixture.print(code).await;
    // As an ordinary user guest and code are one user, who owns what the guest has made.
    let expected = match super::is_root() {
        true => "/tmp\n/output\n/dev/shm",
        false => "/code\n/input\n/tmp\n/output\n/dev/shm",
    };
    assert_eq!(writable, expected);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn nothing_of_the_host_is_seen_but_programs_and_libraries() {
    let fixture = Fixture::new(1).await;
    let code = "import os\n\
                print(sorted(name for name in os.listdir('/') if not name.startswith(('lib', 'sbin'))))\n\
                print(sorted(os.listdir('/dev')), os.listdir('/sys'))\n\
                print([path for path in ['/etc/shadow', '/etc/ssh', '/root', '/home', '/var', '/run', '/opt'] \
                if os.path.exists(path)])\n\
                print(len(open('/etc/passwd').readlines()), open('/etc/resolv.conf').read() == '')";
    let expected = "['bin', 'code', 'dev', 'etc', 'input', 'output', 'proc', 'secrets', 'sys', 'tako', 'tmp', 'usr']\n\
                    ['fd', 'full', 'null', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'urandom', 'zero'] []\n\
                    []\n3 True";
    assert_eq!(fixture.print(code).await, expected);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn the_kernels_own_files_tell_nothing_and_take_nothing() {
    let fixture = Fixture::new(1).await;
    let code = "import os\n\
                for path in ['/proc/cmdline', '/proc/keys', '/proc/kcore', '/proc/timer_list']:\n\
                \x20   try: print(open(path, 'rb').read(10))\n\
                \x20   except OSError: print(b'')\n\
                for path in ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/self/oom_score_adj', \
                '/proc/sys/kernel/hostname', '/proc/sys/net/ipv4/ip_forward']:\n\
                \x20   try: open(path, 'w').write('0'); print(path, 'written')\n\
                \x20   except OSError: pass\n\
                print(open('/proc/self/oom_score_adj').read().strip())";
    assert_eq!(fixture.print(code).await, "b''\nb''\nb''\nb''\n1000");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn the_guest_can_be_neither_seen_nor_touched() {
    let fixture = Fixture::new(1).await;
    let code = "import os, signal\n\
                for name in ['environ', 'fd', 'mem', 'maps', 'root']:\n\
                \x20   path = f'/proc/1/{name}'\n\
                \x20   try: os.listdir(path) if name in ('fd', 'root') else open(path, 'rb').read(1); print(path)\n\
                \x20   except OSError: pass\n\
                for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):\n\
                \x20   try: os.kill(1, number)\n\
                \x20   except OSError: pass\n\
                print(os.getppid())";
    let run = fixture.run(code).await;
    assert_eq!(super::text(&run.stdout), "1\n", "{:?}", run.stderr);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let fixture = Fixture::new(1).await;
    let code = "import os\n\
                held = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') \
                if os.path.lexists(f'/proc/self/fd/{n}')]\n\
                print(sorted({kind.split(':')[0] for kind in held}))";
    // Standard input, the pipes of output and exception, and the source itself while it runs.
    let seen = fixture.print(code).await;
    assert_eq!(seen, "['/dev/null', 'pipe']");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn system_calls_that_reach_outside_are_refused() {
    let fixture = Fixture::new(1).await;
    let user_namespace = format!(", {}", libc::CLONE_NEWUSER);
    let refused = [
        (libc::SYS_unshare, user_namespace.as_str()),
        (libc::SYS_clone, user_namespace.as_str()),
        (libc::SYS_mount, ", b'none', b'/tmp', b'tmpfs', 0, 0"),
        (libc::SYS_umount2, ", b'/proc', 2"),
        (libc::SYS_ptrace, ", 0, 0, 0, 0"),
        (libc::SYS_keyctl, ", 0, 0"),
        (libc::SYS_add_key, ", b'user', b'a', b'b', 1, -3"),
        (libc::SYS_bpf, ", 0, 0, 0"),
        (libc::SYS_io_uring_setup, ", 1, 0"),
        (libc::SYS_userfaultfd, ", 0"),
        (libc::SYS_perf_event_open, ", 0, 0, 0, 0, 0"),
        (libc::SYS_process_vm_readv, ", 1, 0, 0, 0, 0, 0"),
        (libc::SYS_open_by_handle_at, ", 0, 0, 0"),
        (libc::SYS_setns, ", 0, 0"),
        (libc::SYS_chroot, ", b'/tmp'"),
        (libc::SYS_fsopen, ", b'tmpfs', 0"),
        (libc::SYS_reboot, ", 0, 0, 0, 0"),
    ];
    for (number, arguments) in refused {
        assert_eq!(fixture.print(&call(number, arguments)).await, "EPERM", "call {number}");
    }
    assert_eq!(fixture.print(&call(libc::SYS_clone3, ", 0, 0")).await, "ENOSYS");
    for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET] {
        let arguments = format!(", {family}, 3, 0");
        assert_eq!(fixture.print(&call(libc::SYS_socket, &arguments)).await, "EAFNOSUPPORT");
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_setuid_program_gives_nobody_anything() {
    let fixture = Fixture::new(1).await;
    let code = "import os, subprocess\n\
                os.system('cp /usr/bin/id /tmp/id && chmod 6755 /tmp/id')\n\
                print(subprocess.run(['/usr/bin/mount', '-t', 'tmpfs', 'x', '/tmp'], capture_output=True).returncode != 0)\n\
                try: subprocess.run(['/tmp/id'])\n\
                except PermissionError: print('not executable')\n\
                flags = [line for line in open('/proc/mounts') if 'nosuid' not in line]\n\
                print(flags)";
    assert_eq!(fixture.print(code).await, "True\nnot executable\n[]");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn two_sandboxes_at_once_know_nothing_of_each_other() {
    let fixture = Fixture::new(2).await;
    let held = fixture.start().await;
    let code = "import os\n\
                print([name for name in os.listdir('/proc') if name.isdigit() and int(name) != os.getpid()])\n\
                print(os.listdir('/tmp'), os.listdir('/dev/shm'))\n\
                try: os.kill(-1, 9)\n\
                except OSError: pass";
    let run = fixture.run(code).await;
    assert_eq!(super::text(&run.stdout), "[]\n[] []\n", "{:?}", run.stderr);
    let neighbour =
        held.run(super::job("print('alive')"), tokio::sync::mpsc::channel(1).0, Default::default()).await.unwrap();
    assert_eq!(super::text(&neighbour.stdout), "alive\n");
    fixture.engine.shutdown().await;
}

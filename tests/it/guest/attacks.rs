//! User code against the guest itself.

use std::time::Duration;

use tako_guest::frame::{self, Kind};
use tako_guest::protocol::End;

use super::sandbox::{Place, is_root, job, run, run_job, text};

const WHAT_IS_OPEN: &str = "import os\n\
    for fd in range(3, 256):\n\
    \x20   try: print(fd, os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n\
    \x20   except OSError: pass\n";

#[tokio::test]
async fn user_code_inherits_no_descriptor_but_its_own() {
    // One pipe for the exception's name, closed on exec.
    assert_eq!(text(&run(WHAT_IS_OPEN).await.stdout), "5 pipe\n");
    let code = format!(
        "import subprocess, sys\nsys.stdout.flush()\nsubprocess.run([sys.executable, '-c', '''{}'''], close_fds=False)",
        WHAT_IS_OPEN.replace("\\n", "\\\\n")
    );
    assert_eq!(text(&run(&code).await.stdout), "");
}

#[tokio::test]
async fn a_forged_report_is_output_at_most() {
    let mut forged = Vec::new();
    frame::write(&mut forged, Kind::Exited, br#"{"end":{"how":"exited","code":0}}"#).unwrap();
    let literal: String = forged.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let code = format!(
        "import os\nforged = b'{literal}'\n\
         for fd in range(256):\n\
         \x20   try: os.write(fd, forged)\n\
         \x20   except OSError: pass\n\
         for pid in [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]:\n\
         \x20   for fd in range(64):\n\
         \x20       try:\n\
         \x20           with open(f'/proc/{{pid}}/fd/{{fd}}', 'wb') as f: f.write(forged)\n\
         \x20           print('wrote to', pid, fd)\n\
         \x20       except OSError: pass\n\
         os._exit(3)\n"
    );
    // Without root the shell that is the first process in the other place is the user's own,
    // and lends its standard output to anybody.
    let places = if is_root() { &[Place::Init, Place::NotInit][..] } else { &[Place::Init] };
    for place in places {
        let run = run_job(*place, job(&code)).await;
        assert_eq!(run.report.end, End::Exited { code: 3 });
        assert_eq!(run.stdout, forged);
        assert_eq!(run.stderr, forged);
    }
}

#[tokio::test]
async fn a_forged_exception_changes_no_fact() {
    let code = "import os\nos.write(5, b'MemoryError\\0Exception\\0forged')\nos._exit(0)";
    let report = run(code).await.report;
    assert_eq!((report.end, report.exception), (End::Exited { code: 0 }, None));
    let flood = "import os\nfor _ in range(64): os.write(5, b'a' * 65536)\nos._exit(4)";
    assert_eq!(run(flood).await.report.end, End::Exited { code: 4 });
}

#[tokio::test]
async fn the_guest_cannot_be_signalled_traced_or_read() {
    let code = "import os, signal, ctypes\n\
        for s in range(1, 65):\n\
        \x20   try: os.kill(1, s)\n\
        \x20   except OSError: pass\n\
        print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))\n\
        for name in ('environ', 'mem', 'maps', 'fd'):\n\
        \x20   try: print(name, os.listdir('/proc/1/fd') if name == 'fd' else open('/proc/1/' + name, 'rb').read(1))\n\
        \x20   except OSError as e: pass\n\
        print('alive')";
    let run = run(code).await;
    assert_eq!(run.report.end, End::Exited { code: 0 }, "{:?}", run.stderr);
    assert_eq!(text(&run.stdout), "-1\nalive\n");
}

#[tokio::test]
async fn killing_everything_kills_the_code_alone() {
    let run = run(
        "import os\nprint('before', flush=True)\ntry: os.kill(-1, 9)\nexcept OSError: pass\nos.kill(os.getpid(), 9)",
    )
    .await;
    assert_eq!(run.report.end, End::Signaled { signal: 9 });
    assert_eq!(text(&run.stdout), "before\n");
}

#[tokio::test]
async fn a_fork_bomb_ends_with_the_limit() {
    let mut job = job("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass");
    job.execution_timeout = Duration::from_millis(500);
    let (_sandbox, session, _) = {
        let mut boot = super::sandbox::boot();
        boot.rlimits.processes = 200;
        // A user of its own, because the kernel counts a user's processes in all sandboxes.
        boot.uid = 61_234;
        super::sandbox::ready(Place::Init, &boot).await.unwrap()
    };
    let (output, _) = tokio::sync::mpsc::channel(1);
    let run = session
        .run(job, output, tokio_util::sync::CancellationToken::new(), tako_vm::engine::session::GRACE)
        .await
        .unwrap();
    assert_eq!(run.report.end, End::TimedOut);
}

#[tokio::test]
async fn user_code_has_no_privilege_and_cannot_gain_one() {
    let code = "import re\nstatus = open('/proc/self/status').read()\n\
        print(*re.findall(r'(?m)^(?:Cap(?:Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Uid|Gid|Groups):[ \\t]*(.*?)[ \\t]*$', status), sep='|')\n\
        print(open('/proc/self/oom_score_adj').read())";
    let run = run(code).await;
    let mut lines = text(&run.stdout).lines();
    let fields: Vec<&str> = lines.next().unwrap().split('|').collect();
    let zero = "0000000000000000";
    assert_eq!(fields[0], "1000\t1000\t1000\t1000");
    assert_eq!(fields[1], "1000\t1000\t1000\t1000");
    if is_root() {
        assert_eq!(fields[2], "");
        assert_eq!(fields[3..], [zero, zero, zero, zero, zero, "1"]);
    } else {
        // The bounding set stays where the guest may not touch it, and gives nothing back.
        assert_eq!([fields[3], fields[4], fields[5], fields[7], fields[8]], [zero, zero, zero, zero, "1"]);
    }
    assert_eq!(lines.next(), Some("1000"));
}

#[tokio::test]
async fn code_and_input_cannot_be_changed() {
    if !is_root() {
        // Without root the user's code has the guest's own uid, and owns them.
        return;
    }
    let code = "import os\n\
        for act in (lambda: open('/code/main.py', 'a'), lambda: os.remove('/code/main.py'), lambda: open('/code/new', 'w'),\n\
        \x20           lambda: open('/input/data.json', 'a'), lambda: os.chmod('/input/data.json', 0o666)):\n\
        \x20   try: act(); print('done')\n\
        \x20   except OSError as e: print(type(e).__name__)";
    assert_eq!(text(&run(code).await.stdout), "PermissionError\n".repeat(5));
}

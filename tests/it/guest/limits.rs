//! Time and output limits, and how a job ends early.

use std::time::{Duration, Instant};

use tako_guest::protocol::End;
use tako_vm::engine::session::GRACE;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sandbox::{Place, boot, job, ready, run, run_job, text};

/// Longer than any machine should need to end a job, shorter than what the jobs wait for.
const PROMPT: Duration = Duration::from_secs(10);

async fn run_limited(place: Place, code: &str, limit_ms: u64) -> tako_vm::engine::Run {
    let mut job = job(code);
    job.execution_timeout = Duration::from_millis(limit_ms);
    let begun = Instant::now();
    let run = run_job(place, job).await;
    assert!(begun.elapsed() < PROMPT, "took {:?}", begun.elapsed());
    run
}

#[tokio::test]
async fn the_limit_ends_code_that_sleeps_or_computes() {
    for code in
        ["import time; print('begun', flush=True); time.sleep(60)", "print('begun', flush=True)\nwhile True: pass"]
    {
        let run = run_limited(Place::Init, code, 300).await;
        assert_eq!(run.report.end, End::TimedOut);
        assert!((300..2000).contains(&run.report.wall_ms), "{}", run.report.wall_ms);
        assert_eq!(text(&run.stdout), "begun\n");
    }
}

#[tokio::test]
async fn ignoring_every_signal_does_not_help() {
    let code =
        "import signal, time\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)";
    assert_eq!(run_limited(Place::Init, code, 300).await.report.end, End::TimedOut);
}

#[tokio::test]
async fn stopped_code_is_ended_too() {
    let code = "import os; os.kill(os.getpid(), 19)";
    assert_eq!(run_limited(Place::Init, code, 300).await.report.end, End::TimedOut);
}

#[tokio::test]
async fn code_that_asked_to_be_traced_by_its_parent_is_not_taken_for_ended() {
    let code = "import ctypes, os\nctypes.CDLL(None).ptrace(0, 0, 0, 0)\nos.kill(os.getpid(), 5)\nprint('never')";
    let run = run_limited(Place::Init, code, 500).await;
    assert_eq!(run.report.end, End::TimedOut);
    assert_eq!(text(&run.stdout), "");
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_open_delays_nothing() {
    for place in [Place::Init, Place::NotInit] {
        let code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        print('held', flush=True); time.sleep(60)\n    os._exit(0)\nos.wait(); time.sleep(.2); print('done')";
        let begun = Instant::now();
        let run = run_job(place, job(code)).await;
        assert!(begun.elapsed() < PROMPT);
        assert_eq!(run.report.end, End::Exited { code: 0 });
        assert_eq!(text(&run.stdout), "held\ndone\n");
    }
}

#[tokio::test]
async fn floods_of_threads_orphans_and_zombies_end_with_the_job() {
    for place in [Place::Init, Place::NotInit] {
        for code in [
            "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(60,)).start()\nprint('begun', flush=True)",
            "import os, time\nfor _ in range(100):\n    if os.fork() == 0: time.sleep(60)\nprint('begun', flush=True)\ntime.sleep(60)",
            "import os, time\nfor _ in range(300):\n    if os.fork() == 0: os._exit(0)\nprint('begun', flush=True)\ntime.sleep(60)",
            "import os, time, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nprint('begun', flush=True)\nwhile True:\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)",
        ] {
            let run = run_limited(place, code, 2000).await;
            assert_eq!(run.report.end, End::TimedOut, "{code}");
            assert_eq!(text(&run.stdout), "begun\n", "{code}");
        }
    }
}

#[tokio::test]
async fn output_is_kept_to_its_limit_and_counted_beyond() {
    let mut job = job("import sys\nsys.stdout.write('é' * 5000)\nsys.stderr.write('x' * 50)");
    job.stdout_limit_bytes = 101;
    job.stderr_limit_bytes = 50;
    let run = run_job(Place::Init, job).await;
    assert_eq!(text(&run.stdout), "é".repeat(50));
    assert_eq!(text(&run.stderr), "x".repeat(50));
    let report = run.report;
    assert_eq!((report.stdout_truncated, report.stdout_total_bytes), (true, 10_000));
    assert_eq!((report.stderr_truncated, report.stderr_total_bytes), (false, 50));
}

#[tokio::test]
async fn endless_output_costs_neither_memory_nor_the_limit() {
    let run = run_limited(Place::Init, "import os\nwhile True: os.write(1, b'a' * 65536)", 500).await;
    assert_eq!(run.report.end, End::TimedOut);
    assert_eq!(run.stdout.len(), 64 * 1024);
    assert!(run.report.stdout_total_bytes > 1 << 20);
}

#[tokio::test]
async fn bytes_that_are_no_text_arrive_as_written() {
    let run = run("import os; os.write(1, bytes(range(256))); os.write(2, b'\\0\\xff\\xc3')").await;
    assert_eq!(run.stdout, (0..=255).collect::<Vec<u8>>());
    assert_eq!(run.stderr, b"\0\xff\xc3".as_slice());
}

#[tokio::test]
async fn output_is_seen_while_the_code_runs_and_a_cancellation_ends_it() {
    let (_sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    let (output, mut chunks) = mpsc::channel(8);
    let cancel = CancellationToken::new();
    let code = "import time; print('seen', flush=True); time.sleep(60)";
    let run = tokio::spawn(session.run(job(code), output, cancel.clone(), GRACE));
    let chunk = chunks.recv().await.unwrap();
    assert_eq!(chunk.bytes, "seen\n");
    cancel.cancel();
    let run = run.await.unwrap().unwrap();
    assert_eq!(run.report.end, End::Cancelled);
    assert_eq!(text(&run.stdout), "seen\n");
}

#[tokio::test]
async fn a_termination_from_outside_ends_the_code_and_one_from_inside_does_not() {
    let (sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    let (output, mut chunks) = mpsc::channel(8);
    let code = "import os, time\n\
        try: os.kill(1, 15)\n\
        except OSError: pass\n\
        time.sleep(.2); print('alive', flush=True); time.sleep(60)";
    let run = tokio::spawn(session.run(job(code), output, CancellationToken::new(), GRACE));
    assert_eq!(chunks.recv().await.unwrap().bytes, "alive\n");
    // SAFETY: the process is the sandbox's first one, held by `sandbox`.
    assert_eq!(unsafe { libc::kill(sandbox.guest_pid(), libc::SIGTERM) }, 0);
    assert_eq!(run.await.unwrap().unwrap().report.end, End::Cancelled);
}

#[tokio::test]
async fn a_host_that_reads_nothing_does_not_extend_the_limit() {
    // The channel is full after one chunk and its receiver never reads.
    let (_sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    let (output, _chunks) = mpsc::channel(1);
    let mut job = job("import os\nwhile True: os.write(1, b'a' * 65536)");
    job.execution_timeout = Duration::from_millis(300);
    job.stdout_limit_bytes = 8 << 20;
    let run = session.run(job, output, CancellationToken::new(), GRACE).await.unwrap();
    assert_eq!(run.report.end, End::TimedOut);
}

#[tokio::test]
async fn usage_is_of_the_code_and_its_children() {
    let code = "import os, time\nif os.fork() == 0:\n    x = bytearray(80 << 20)\n    t = time.process_time()\n    while time.process_time() - t < .3: pass\n    os._exit(0)\nos.wait()";
    let report = run(code).await.report;
    assert!((290..5000).contains(&report.cpu_ms), "{}", report.cpu_ms);
    // The interpreter's start, and whatever ran before it, is not the code's.
    let idle = run("import time; time.sleep(.1)").await.report;
    // On a busy machine the guest hears some milliseconds late that the code began.
    assert!(idle.cpu_ms < 20 && idle.wall_ms >= 50, "{idle:?}");
    assert!(report.peak_memory_bytes > 80 << 20, "{}", report.peak_memory_bytes);
}

#[tokio::test]
async fn processes_have_their_limits_and_no_core_files() {
    let code = "import resource as r\nprint(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_CORE))";
    // A core limit of 1 writes no file either, and keeps a host's core handler from being started.
    assert_eq!(text(&run(code).await.stdout), "(256, 256) (33554432, 33554432) (1, 1)\n");
}

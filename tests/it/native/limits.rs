use std::time::Duration;

use tako_guest::protocol::End;
use tako_vm::engine::Engine;
use tako_vm::engine::native::Limit;

use super::{Fixture, LIMITS, job, text};

#[tokio::test]
async fn a_memory_bomb_is_an_oom_kill_where_memory_is_limited_and_an_error_elsewhere() {
    let fixture = Fixture::new(1).await;
    let mut spec = fixture.spec();
    spec.limits.memory_bytes = 64 << 20;
    for round in 0..2 {
        let code = "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))";
        let run = fixture.try_run(job(code), spec.clone()).await.unwrap();
        if fixture.limits(Limit::Memory) {
            assert_eq!(run.report.oom_killed, Some(true), "{round}: {:?}", run.report);
            assert_eq!(run.report.end, End::Signaled { signal: 9 });
            let peak = run.report.peak_memory_bytes;
            assert!(peak > 32 << 20 && peak <= 64 << 20, "{peak}");
        } else {
            assert_eq!(run.report.end, End::Exited { code: 1 });
            assert_eq!(run.report.exception.unwrap().class, "MemoryError");
        }
        // The next sandbox of the cell neither inherits the kill nor the peak.
        let run = fixture.try_run(job("print(1)"), spec.clone()).await.unwrap();
        assert_ne!(run.report.oom_killed, Some(true));
        assert!(run.report.peak_memory_bytes < 32 << 20, "{}", run.report.peak_memory_bytes);
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn exit_code_137_is_no_oom_kill() {
    let fixture = Fixture::new(1).await;
    for code in ["import sys; sys.exit(137)", "import os; os.kill(os.getpid(), 9)"] {
        let run = fixture.run(code).await;
        assert_ne!(run.report.oom_killed, Some(true), "{code}");
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn an_oom_kill_in_a_child_is_told_though_the_parent_exits_well() {
    let fixture = Fixture::new(1).await;
    if !fixture.limits(Limit::Memory) {
        eprintln!("SKIPPED: this user has no memory cgroup");
        return;
    }
    let mut spec = fixture.spec();
    spec.limits.memory_bytes = 64 << 20;
    let code = "import os\n\
                pid = os.fork()\n\
                hoard = []\n\
                while pid == 0: hoard.append(bytearray(1 << 20))\n\
                print(os.waitpid(pid, 0)[1])";
    let run = fixture.try_run(job(code), spec).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 0 });
    assert_eq!(text(&run.stdout), "9\n");
    assert_eq!(run.report.oom_killed, Some(true));
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_tmpfs_or_a_memfd_is_no_way_around_the_memory_limit() {
    let fixture = Fixture::new(1).await;
    if !fixture.limits(Limit::Memory) {
        eprintln!("SKIPPED: this user has no memory cgroup");
        return;
    }
    let mut spec = fixture.spec();
    spec.limits.memory_bytes = 48 << 20;
    spec.limits.tmp_bytes = 512 << 20;
    spec.limits.file_bytes = 512 << 20;
    for open in ["os.open('/tmp/bomb', os.O_CREAT | os.O_WRONLY)", "os.memfd_create('bomb')"] {
        let code = format!("import os\nfd = {open}\nfor _ in range(256): os.write(fd, bytes(1 << 20))");
        let outcome = fixture.try_run(job(&code), spec.clone()).await;
        let killed = match outcome {
            Ok(run) => run.report.oom_killed == Some(true),
            Err(tako_vm::engine::Error::Lost { oom_killed, .. }) => oom_killed,
            Err(error) => panic!("{error}"),
        };
        assert!(killed, "{open}");
        assert_eq!(fixture.print("print(1)").await, "1");
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_its_neighbour_unharmed() {
    let fixture = Fixture::new(2).await;
    let bomb = "import os, time\n\
                count = 0\n\
                try:\n\
                \x20   while True:\n\
                \x20       if os.fork() == 0: time.sleep(60)\n\
                \x20       count += 1\n\
                except OSError as error: print(type(error).__name__, count < 64, flush=True)\n\
                time.sleep(60)";
    let mut bomb = job(bomb);
    bomb.execution_timeout = Duration::from_secs(2);
    let neighbour = "import subprocess\nfor _ in range(10): subprocess.run(['true'], check=True)\nprint('fine')";
    let spec = fixture.spec();
    let (bombed, printed) = tokio::join!(fixture.try_run(bomb, spec), fixture.print(neighbour));
    let bombed = bombed.unwrap();
    assert_eq!(text(&bombed.stdout), "BlockingIOError True\n");
    assert_eq!(bombed.report.end, End::TimedOut);
    assert_eq!(printed, "fine");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn directories_hold_no_more_bytes_and_files_than_they_may() {
    let fixture = Fixture::new(1).await;
    let mut spec = fixture.spec();
    spec.limits.tmp_bytes = 4 << 20;
    spec.limits.output_bytes = 2 << 20;
    spec.limits.inodes = 50;
    let code = "import errno, os\n\
                def fill(path):\n\
                \x20   total = 0\n\
                \x20   try:\n\
                \x20       with open(path, 'wb', 0) as file:\n\
                \x20           while True: total += file.write(bytes(65536))\n\
                \x20   except OSError as error: print(errno.errorcode[error.errno], total >> 20)\n\
                \x20   os.unlink(path)\n\
                fill('/tmp/x'); fill('/output/x'); fill('/dev/shm/x')\n\
                count = 0\n\
                try:\n\
                \x20   while True: open(f'/output/{count}', 'w').close(); count += 1\n\
                except OSError as error: print(errno.errorcode[error.errno], count)";
    let run = fixture.try_run(job(code), spec).await.unwrap();
    assert_eq!(text(&run.stdout), "ENOSPC 4\nENOSPC 2\nENOSPC 4\nENOSPC 49\n", "{:?}", run.stderr);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_job_that_is_throttled_still_ends_in_time() {
    let fixture = Fixture::new(1).await;
    let mut spec = fixture.spec();
    spec.limits = tako_vm::engine::SandboxLimits { cpu_millis: 100, ..LIMITS };
    let code = "import os\nfor _ in range(5): os.fork()\nwhile True: pass";
    let mut job = job(code);
    job.execution_timeout = Duration::from_secs(1);
    let sandbox = fixture.engine.start(&spec).await.unwrap();
    let begun = std::time::Instant::now();
    let run = sandbox.run(job, tokio::sync::mpsc::channel(1).0, Default::default()).await.unwrap();
    eprintln!("{:?}", begun.elapsed());
    assert_eq!(run.report.end, End::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn one_cpu_is_one_cpu() {
    let fixture = Fixture::new(1).await;
    if !fixture.limits(Limit::Cpu) {
        eprintln!("SKIPPED: this user has no cpu cgroup");
        return;
    }
    let mut spec = fixture.spec();
    spec.limits = tako_vm::engine::SandboxLimits { cpu_millis: 200, ..LIMITS };
    // The interpreter's own start counts not: it takes its time where processors are emulated.
    let code = "import time\n\
                begun, used = time.monotonic(), time.process_time()\n\
                while time.monotonic() - begun < 1: pass\n\
                print(time.process_time() - used < 0.5)";
    let run = fixture.try_run(job(code), spec).await.unwrap();
    assert_eq!(text(&run.stdout), "True\n");
    fixture.engine.shutdown().await;
}

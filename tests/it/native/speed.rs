use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tako_vm::engine::Engine;

use super::Fixture;

fn bare() {
    let status = Command::new("/usr/bin/python3")
        .args(["-c", "print(1)"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("p10 {:.1} ms, p50 {:.1} ms, p99 {:.1} ms", at(0.1), at(0.5), at(0.99))
}

/// CPU time of this process and of all it waited for, directly or through launchers.
fn cpu() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(usage).sum()
}

fn usage(who: libc::c_int) -> Duration {
    // SAFETY: an all-zero rusage is a valid one, and it outlives the call.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(who, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn each(total: Duration, count: usize) -> f64 {
    total.as_secs_f64() * 1e3 / count as f64
}

/// CPU time of a job, which decides the throughput of a busy machine and, unlike latency, is
/// much the same on one that has other work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; the engine's own share is of the build's profile"]
async fn cpu_time_beside_bare_python() {
    const COUNT: usize = 100;
    for _ in 0..3 {
        let before = cpu();
        (0..COUNT).for_each(|_| bare());
        let plain = cpu() - before;
        let (own, children) = (usage(libc::RUSAGE_SELF), usage(libc::RUSAGE_CHILDREN));
        let fixture = Fixture::new(1).await;
        for _ in 0..COUNT {
            fixture.run("print(1)").await;
        }
        // Launchers are waited for here.
        fixture.engine.shutdown().await;
        println!(
            "CPU per job: bare {:.2} ms, native {:.2} ms in sandboxes and {:.2} ms in the engine",
            each(plain, COUNT),
            each(usage(libc::RUSAGE_CHILDREN) - children, COUNT),
            each(usage(libc::RUSAGE_SELF) - own, COUNT),
        );
    }
}

/// Prints the figures of performance.md's native rows: `cargo test --release -- --ignored
/// --nocapture native::speed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; only a quiet machine and a release build mean anything"]
async fn cold_start_and_throughput_beside_bare_python() {
    const COUNT: usize = 200;
    let fixture = Fixture::new(2).await;
    for _ in 0..10 {
        bare();
        tokio::join!(fixture.run("print(1)"), fixture.run("print(1)"));
    }
    let (mut plain, mut cold, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..COUNT {
        let begun = Instant::now();
        tokio::task::spawn_blocking(bare).await.unwrap();
        plain.push(begun.elapsed());
        let begun = Instant::now();
        let sandbox = fixture.start().await;
        ready.push(begun.elapsed());
        sandbox.run(super::job("print(1)"), tokio::sync::mpsc::channel(1).0, Default::default()).await.unwrap();
        cold.push(begun.elapsed());
    }
    println!("bare python:      {}", percentiles(plain));
    println!("native, ready:    {}", percentiles(ready));
    println!("native, complete: {}", percentiles(cold));

    let begun = Instant::now();
    let loops = [(); 2].map(|()| std::thread::spawn(|| (0..COUNT).for_each(|_| bare())));
    for one in loops {
        one.join().unwrap();
    }
    println!("bare python, 2 in flight: {:.0}/s", 2.0 * COUNT as f64 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let jobs = async || {
        for _ in 0..COUNT {
            fixture.run("print(1)").await;
        }
    };
    tokio::join!(jobs(), jobs());
    println!("native, 2 in flight:      {:.0}/s", 2.0 * COUNT as f64 / begun.elapsed().as_secs_f64());
    fixture.engine.shutdown().await;
}

use std::time::{Duration, Instant};

use tako_guest::protocol::End;
use tako_vm::engine::native::{NativeConfig, NativeEngine};
use tako_vm::engine::{Engine, Error, Kind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Fixture, job, text};

#[tokio::test]
async fn this_host_is_supported_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = NativeConfig { runtime_dir: Some(directory.path().to_owned()), ..NativeConfig::default() };
    assert_eq!(NativeEngine::supported(config).await, Ok(()));
}

#[tokio::test]
async fn a_job_reads_its_input_and_gives_its_output_back() {
    let fixture = Fixture::new(1).await;
    let mut job = job("import json, sys\n\
         data = json.load(open('/input/data.json'))\n\
         json.dump({'sum': sum(data['numbers'])}, open('/output/result.json', 'w'))\n\
         print('out'); print('err', file=sys.stderr); sys.exit(3)");
    job.input = br#"{"numbers": [1, 2, 3]}"#.as_slice().into();
    let run = fixture.try_run(job, fixture.spec()).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 3 });
    assert_eq!((text(&run.stdout), text(&run.stderr)), ("out\n", "err\n"));
    assert_eq!(run.artifacts, [("result.json".to_owned(), r#"{"sum": 6}"#.into())]);
    assert!(run.report.peak_memory_bytes > 1 << 20);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn the_same_job_has_the_same_result_in_the_next_sandbox_of_a_cell() {
    let fixture = Fixture::new(1).await;
    let code = "import os, hashlib\n\
                names = sorted(os.listdir('/')) + sorted(os.listdir('/tmp')) + sorted(os.environ)\n\
                print(names, os.getpid(), os.getcwd(), hash('x'), os.uname().nodename)\n\
                open('/tmp/trace', 'w').write('x'); open('/dev/shm/trace', 'w').write('x')";
    let first = fixture.print(code).await;
    assert_eq!(first, fixture.print(code).await);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_job_beyond_its_time_is_ended() {
    let fixture = Fixture::new(1).await;
    for code in ["while True: pass", "import time; time.sleep(60)"] {
        let mut job = job(code);
        job.execution_timeout = Duration::from_millis(300);
        let begun = Instant::now();
        let run = fixture.try_run(job, fixture.spec()).await.unwrap();
        assert_eq!(run.report.end, End::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_cancelled_job_ends_at_once() {
    let fixture = Fixture::new(1).await;
    let (cancel, (output, mut chunks)) = (CancellationToken::new(), mpsc::channel(4));
    let sandbox = fixture.start().await;
    let running = sandbox.run(job("print('here', flush=True)\nwhile True: pass"), output, cancel.clone());
    let cancelling = async {
        chunks.recv().await.unwrap();
        cancel.cancel();
    };
    let (run, ()) = tokio::join!(running, cancelling);
    assert_eq!(run.unwrap().report.end, End::Cancelled);
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_module_that_is_not_there_fails_the_start_and_frees_the_cell() {
    let fixture = Fixture::new(1).await;
    let mut spec = fixture.spec();
    spec.preload = vec!["no_such_module".into()];
    let error = fixture.engine.start(&spec).await.err().unwrap();
    assert!(matches!(error, Error::Startup(_)), "{error:?}");
    assert_eq!(fixture.print("print(1)").await, "1");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn no_more_sandboxes_than_cells_exist_at_a_time() {
    let fixture = Fixture::new(1).await;
    let held = fixture.start().await;
    let mut spec = fixture.spec();
    spec.startup_timeout = Duration::from_millis(50);
    let error = fixture.engine.start(&spec).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    held.destroy().await;
    assert_eq!(fixture.print("print(1)").await, "1");
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn an_image_that_is_not_the_hosts_is_refused() {
    let fixture = Fixture::new(1).await;
    let error = fixture.engine.resolve_image("python:3.11").await.unwrap_err();
    assert!(matches!(error, Error::Image { .. }), "{error:?}");
    let mut spec = fixture.spec();
    spec.image.digest = format!("sha256:{}", "0".repeat(64));
    let error = fixture.engine.start(&spec).await.err().unwrap();
    assert!(matches!(error, Error::Image { .. }), "{error:?}");
    assert_eq!((fixture.engine.kind(), fixture.engine.runtime()), (Kind::Native, "namespaces"));
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn modules_of_the_distribution_work_as_on_the_host() {
    let fixture = Fixture::new(1).await;
    let code = "import ssl, sqlite3, ctypes, json, decimal, zoneinfo, multiprocessing, threading\n\
                ssl.create_default_context()\n\
                lock = multiprocessing.Lock()\n\
                thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n\
                import subprocess; print(subprocess.check_output(['id', '-un']).decode().strip())";
    assert_eq!(fixture.print(code).await, "thread\nsandbox");
    fixture.engine.shutdown().await;
}

//! A sandbox that was broken out of may send anything: the host must end the session, within
//! its own limits, and believe nothing that breaks a promise.

#![no_main]

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tako_guest::frame::{self, Kind};
use tako_guest::protocol::{ArtifactLimits, Boot, Ready, Rlimits, VERSION};
use tako_vm::engine::Job;
use tako_vm::engine::session::Session;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const LIMIT: u64 = 256;

fuzz_target!(|data: &[u8]| {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() else {
        return;
    };
    runtime.block_on(async {
        // Half of the inputs get past the greeting for nothing, so that what follows it is tried too.
        let mut stream = Vec::new();
        if data.first().is_some_and(|byte| byte % 2 == 0) {
            let ready = Ready { protocol: VERSION, python_version: "3.11.2".to_owned(), startup_ms: 1 };
            let payload = serde_json::to_vec(&ready).unwrap_or_default();
            let _ = frame::write(&mut stream, Kind::Ready, &payload);
        }
        stream.extend_from_slice(data.get(1..).unwrap_or_default());
        let boot = Boot {
            protocol: VERSION,
            python: None,
            preload: Vec::new(),
            environment: Default::default(),
            uid: 1000,
            gid: 1000,
            devices: Vec::new(),
            startup_timeout_ms: 1000,
            rlimits: Rlimits { open_files: 1, file_bytes: 1, processes: 1 },
        };
        let reader = Box::new(Cursor::new(stream));
        let Ok((session, _)) = Session::boot(reader, Box::new(tokio::io::sink()), &boot, Duration::from_secs(1)).await
        else {
            return;
        };
        let job = Job {
            code: Bytes::from_static(b"print(1)"),
            input: Bytes::from_static(b"{}"),
            files: Vec::new(),
            secrets: Vec::new(),
            egress: None,
            execution_timeout: Duration::from_secs(1),
            stdout_limit_bytes: LIMIT,
            stderr_limit_bytes: LIMIT,
            artifacts: ArtifactLimits { max_count: 2, max_file_bytes: LIMIT, max_total_bytes: LIMIT },
        };
        let (output, _chunks) = mpsc::channel(4);
        let run = session.run(job, output, CancellationToken::new(), Duration::from_secs(1)).await;
        if let Ok(run) = run {
            assert!(run.stdout.len() as u64 <= LIMIT && run.stderr.len() as u64 <= LIMIT);
            assert!(run.artifacts.len() <= 2);
            assert!(run.artifacts.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() <= LIMIT);
        }
    });
});

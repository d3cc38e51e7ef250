//! Whole lives of executions, decided, folded and appended as the program does it.

use chrono::{DateTime, Utc};
use tako_vm::domain::{
    Claim, Command, Digest, Ending, Envelope, ErrorType, ExecutionRecord, Failure, JobLimits, JobSubmitted, Observed,
    Output, Phase, Sandbox, Timing, Usage, Warmth, decide,
};
use tako_vm::store::{Append, Blob, Outcome, QueueChange, RecordRow, Store, StreamKind, new_events};
use uuid::Uuid;

/// Submits, claims, starts and ends executions, all in the same appends.
pub async fn live(store: &Store, node: Uuid, jobs: &mut [Job]) {
    append(store, jobs, |job| job.submit()).await;
    let claims = store.claim(node, jobs.len()).await.unwrap();
    assert_eq!(claims.len(), jobs.len());
    jobs.sort_by_key(|job| job.id);
    for (job, claim) in jobs.iter_mut().zip(claims_by_id(claims)) {
        assert_eq!(job.id, claim.execution_id);
        job.lease = claim.lease;
    }
    append(store, jobs, |job| job.start(node)).await;
    append(store, jobs, |job| job.end()).await;
}

pub fn claims_by_id(mut claims: Vec<tako_vm::store::Claim>) -> Vec<tako_vm::store::Claim> {
    claims.sort_by_key(|claim| claim.execution_id);
    claims
}

pub async fn append(store: &Store, jobs: &mut [Job], make: impl Fn(&mut Job) -> Append) {
    let items = jobs.iter_mut().map(make).collect();
    for (job, result) in jobs.iter_mut().zip(store.append_batch(items).await) {
        match result.unwrap() {
            Outcome::Appended(appended) => job.head = Some(appended.head_hash),
            other => panic!("{other:?}"),
        }
    }
}

/// One execution on its way.
pub struct Job {
    pub id: Uuid,
    pub lease: i64,
    /// Instead of the usual ones.
    pub tenant: &'static str,
    pub job_type: &'static str,
    pub succeeds: bool,
    record: Option<ExecutionRecord>,
    head: Option<Digest>,
}

impl Job {
    pub fn new() -> Self {
        let (tenant, job_type) = ("default", "default");
        Self { id: Uuid::now_v7(), lease: 0, tenant, job_type, succeeds: true, record: None, head: None }
    }

    pub fn submit(&mut self) -> Append {
        let mut item = self.carry_out("intake@bench", vec![Command::SubmitJob(Box::new(self.submitted()))]);
        item.queue = QueueChange::Enqueue {
            tenant: self.tenant.into(),
            job_type: self.job_type.into(),
            priority: 5,
            not_before: None,
            is_keyed: false,
        };
        item.blobs = vec![Blob::new("print(1+1)\n"), Blob::new("{}")];
        item
    }

    pub fn start(&mut self, node_id: Uuid) -> Append {
        let sandbox = Sandbox {
            id: Uuid::now_v7().simple().to_string(),
            engine: "scripted".into(),
            runtime: "none".into(),
            image: "tako-vm/executor:3.11".into(),
            image_digest: format!("sha256:{}", Digest::of(b"image")),
            warmth: Warmth::Warm,
            startup_ms: 12,
            hash_seed: Some("0".into()),
        };
        let claim = Claim { node_id, slot: 3, lease: self.lease };
        let commands = vec![Command::Dequeue { claim }, Command::Start { lease: self.lease, sandbox }];
        let mut item = self.carry_out("slot@bench", commands);
        item.lease = Some(self.lease);
        item
    }

    pub fn end(&mut self) -> Append {
        let error = Failure {
            error_type: ErrorType::ValueError,
            message: "no".into(),
            phase: Phase::Execution,
            exception: None,
        };
        let ending = Box::new(match self.succeeds {
            true => Ending::Succeeded { observed: observed() },
            false => Ending::Failed { error, observed: Some(observed()) },
        });
        let mut item = self.carry_out("slot@bench", vec![Command::Finish { lease: self.lease, ending }]);
        item.lease = Some(self.lease);
        item.queue = QueueChange::Remove;
        item.blobs = vec![Blob::new("2\n"), Blob::new("")];
        item
    }

    fn carry_out(&mut self, speaker: &str, commands: Vec<Command>) -> Append {
        let version = self.record.as_ref().map_or(0, |record| record.version);
        let mut envelopes = Vec::new();
        for command in commands {
            for event in decide(self.record.as_ref(), command).unwrap() {
                let envelope = Envelope {
                    event_id: Uuid::now_v7(),
                    stream_id: self.id,
                    version: version + 1 + envelopes.len() as i32,
                    recorded_at: now(),
                    correlation_id: Some("0198a1b2-0000-7000-8000-000000000000".into()),
                    event,
                };
                self.record = ExecutionRecord::evolve(self.record.take(), &envelope).unwrap();
                envelopes.push(envelope);
            }
        }
        let events = new_events(envelopes.iter().map(|envelope| (envelope, speaker))).unwrap();
        let mut item = Append::events(self.id, StreamKind::Execution, events);
        item.expected_version = version;
        item.prev_hash = self.head;
        item.record = Some(RecordRow::of(self.record.as_ref().unwrap()));
        item
    }

    fn submitted(&self) -> JobSubmitted {
        JobSubmitted {
            tenant: self.tenant.into(),
            job_type: self.job_type.into(),
            job_version: "default@sha256:0123456789ab".into(),
            code: Digest::of(b"print(1+1)\n"),
            input: Digest::of(b"{}"),
            input_canonical: Digest::of(b"{}"),
            params: Digest::of(b"params"),
            files: Vec::new(),
            input_artifacts: None,
            requirements: Vec::new(),
            limits: JobLimits {
                timeout_ms: 30_000,
                startup_timeout_ms: 30_000,
                memory_bytes: 512 << 20,
                cpu_millis: 1000,
                pids: 100,
                open_files: 256,
                tmp_bytes: 64 << 20,
                output_bytes: 64 << 20,
                stdout_bytes: 64 << 10,
                stderr_bytes: 64 << 10,
                artifact_count: 100,
                artifact_bytes: 10 << 20,
                artifacts_total_bytes: 50 << 20,
            },
            priority: 5,
            not_before: None,
            max_attempts: 3,
            idempotency: None,
            client_ip: Some("127.0.0.1".into()),
            parent: None,
            pinned_image: None,
            hash_seed: None,
            secrets: Vec::new(),
            concurrency: None,
            tags: Default::default(),
            callback_url: None,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the bench is not the program")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

fn observed() -> Observed {
    Observed {
        exit_code: Some(0),
        signal: None,
        timing: Timing {
            startup_ms: 12,
            dep_install_ms: 0,
            execution_ms: 9,
            total_ms: 14,
            phase_at_exit: Phase::Execution,
        },
        usage: Usage { max_rss_bytes: 9_437_184, cpu_time_ms: 8, wall_time_ms: 9, oom_killed: false },
        stdout: Output { hash: Digest::of(b"2\n"), bytes: 2, truncated: false },
        stderr: Output { hash: Digest::of(b""), bytes: 0, truncated: false },
        output: None,
        artifacts: Vec::new(),
        refused_artifacts: Vec::new(),
    }
}

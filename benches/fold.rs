//! What the pure domain costs: deciding, and folding an execution's stream.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use tako_vm::domain::{Envelope, Event, EventKind, ExecutionRecord, canonical_json};
use uuid::Uuid;

/// The stream of a job on a warm sandbox, from the catalog's samples.
fn stream() -> Vec<Envelope> {
    let kinds =
        [EventKind::JobSubmitted, EventKind::JobDequeued, EventKind::ExecutionStarted, EventKind::ExecutionSucceeded];
    let stream_id = Uuid::now_v7();
    kinds
        .into_iter()
        .enumerate()
        .map(|(index, kind)| {
            let path = format!("{}/events/{}/v1.sample.json", env!("CARGO_MANIFEST_DIR"), kind.as_str());
            let payload = std::fs::read_to_string(path).expect("the catalog has a sample");
            Envelope {
                event_id: Uuid::now_v7(),
                stream_id,
                version: index as i32 + 1,
                recorded_at: chrono::DateTime::UNIX_EPOCH,
                correlation_id: None,
                event: Event::from_payload(kind, &payload).expect("a sample decodes"),
            }
        })
        .collect()
}

fn fold(criterion: &mut Criterion) {
    let stream = stream();
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(stream.len() as u64));
    group.bench_function("one execution", |bencher| {
        bencher.iter(|| ExecutionRecord::fold(black_box(&stream)).expect("the stream folds"));
    });
    let payloads: Vec<_> =
        stream.iter().map(|envelope| (envelope.event.kind(), envelope.event.payload().expect("it encodes"))).collect();
    group.bench_function("decode and fold", |bencher| {
        bencher.iter(|| {
            let envelopes: Vec<_> = payloads
                .iter()
                .zip(&stream)
                .map(|((kind, payload), envelope)| Envelope {
                    event: Event::from_payload(*kind, payload).expect("it decodes"),
                    ..envelope.clone()
                })
                .collect();
            ExecutionRecord::fold(&envelopes).expect("the stream folds")
        });
    });
    group.finish();
    let value = json!({"b": [1, 2, {"d": "x", "c": null}], "a": {"z": 1, "y": "é"}});
    criterion.bench_function("canonical JSON", |bencher| bencher.iter(|| canonical_json(black_box(&value))));
}

criterion_group!(benches, fold);
criterion_main!(benches);

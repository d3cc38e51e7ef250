//! How cost grows with the log: `cargo bench --bench scale [-- <executions>...]`.
//!
//! Starts a PostgreSQL server of its own with its default durability, fills it to 10,000 and
//! then 100,000 executions of four events each (or to the sizes that are given), and measures at each
//! size what clients and operators wait for. Of the oldest executions a few are of another tenant, of
//! another job type or failed: whoever looks for them must not walk over all the others. Prints a
//! table, and draws `docs/scale.svg` when more than one size was measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

#[path = "support/chart.rs"]
mod chart;
#[path = "../tests/it/db.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod db;
#[path = "support/lifecycle.rs"]
mod lifecycle;

use std::path::Path;
use std::time::Instant;

use chart::{Panel, Series};
use db::{Cluster, Db};
use lifecycle::{Job, append, live, now};
use tako_vm::domain::{EventKind, Status};
use tako_vm::store::audit::{Sealing, Verification};
use tako_vm::store::{Filter, LogFilter, Store};
use uuid::Uuid;

const BATCH: usize = 64;
const FILL: usize = 500;
/// Of each kind.
const RARE: usize = 20;
const PAGE: u32 = 100;

/// Milliseconds of one call, and things per second.
#[derive(Default)]
struct Measured {
    latencies: Vec<(&'static str, f64)>,
    rates: Vec<(&'static str, f64)>,
}

#[tokio::main]
async fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 100_000];
    }
    sizes.sort_unstable();
    let cluster = Cluster::start(&["max_wal_size=4GB", "shared_buffers=256MB"]);
    let db = db::fresh_on(&cluster).await;
    let node = Uuid::now_v7();
    db.store.register_node(node, 64, "bench").await.unwrap();
    let (mut filled, mut results) = (0, Vec::new());
    for size in sizes {
        let start = Instant::now();
        fill(&db, node, filled, size).await;
        filled = size;
        // As autovacuum would have by then, which must not run into the measurement.
        sqlx::query("VACUUM ANALYZE").execute(&db.admin).await.unwrap();
        println!("{size} executions, filled in {:.0} s", start.elapsed().as_secs_f64());
        results.push((size, measure(&db, node).await));
    }
    table(&results);
    if results.len() > 1 {
        draw(&results);
    }
}

async fn fill(db: &Db, node: Uuid, from: usize, to: usize) {
    let mut number = from;
    while number < to {
        let end = to.min(number + FILL);
        let mut jobs: Vec<_> = (number..end).map(job).collect();
        live(&db.store, node, &mut jobs).await;
        number = end;
    }
    while db.store.seal_next(Sealing { key: None, at: now(), at_least: 1, at_most: 10_000 }).await.unwrap().is_some() {}
}

fn job(number: usize) -> Job {
    let mut job = Job::new();
    match number / RARE {
        0 => job.tenant = "rare",
        1 => job.job_type = "rare",
        2 => job.succeeds = false,
        _ => {}
    }
    job
}

async fn measure(db: &Db, node: Uuid) -> Measured {
    // A server that started now: its connections know nothing yet.
    let store = Store::connect(&db.options).await.unwrap();
    let mut measured = Measured::default();
    let mut rate = |name, value| measured.rates.push((name, value));

    let start = Instant::now();
    for _ in 0..20 {
        let mut jobs: Vec<_> = (0..BATCH).map(|_| Job::new()).collect();
        live(&store, node, &mut jobs).await;
    }
    rate("append, events/s", (20 * BATCH * 4) as f64 / start.elapsed().as_secs_f64());
    let rebuilt = store.rebuild_projections(&|_| {}).await.unwrap();
    assert_eq!(rebuilt.differing, 0, "{rebuilt:#?}");
    rate("rebuild, events/s", rebuilt.events as f64 / rebuilt.took.as_secs_f64());
    let verified = store.verify_log(&Verification::default(), &|_| {}).await.unwrap();
    assert!(verified.holds(), "{:?}", verified.faults);
    rate("verify, events/s", verified.events as f64 / verified.took.as_secs_f64());

    measured.latencies = latencies(&store, node).await;
    store.close().await;
    measured
}

async fn latencies(store: &Store, node: Uuid) -> Vec<(&'static str, f64)> {
    let mut found = Vec::new();
    let mut waiting: Vec<_> = (0..200).map(|_| Job::new()).collect();
    append(store, &mut waiting, |job| job.submit()).await;
    let (mut submits, mut claims, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..100 {
        let mut job = [Job::new()];
        submits.push(time(append(store, &mut job, |job| job.submit())).await.0);
        waiting.extend(job);
    }
    for _ in 0..100 {
        let (claimed, claim) = time(store.claim(node, 1)).await;
        claims.push(claimed);
        let claim = claim.unwrap().remove(0);
        let at = waiting.iter().position(|job| job.id == claim.execution_id).unwrap();
        let mut job = [waiting.remove(at)];
        job[0].lease = claim.lease;
        append(store, &mut job, |job| job.start(node)).await;
        ends.push(time(append(store, &mut job, |job| job.end())).await.0);
    }
    found.push(("submit one job", median(submits)));
    found.push(("claim one job", median(claims)));
    found.push(("append its end", median(ends)));
    // The queue is left empty.
    while !waiting.is_empty() {
        for claim in store.claim(node, 100).await.unwrap() {
            let at = waiting.iter().position(|job| job.id == claim.execution_id).unwrap();
            let mut job = [waiting.remove(at)];
            job[0].lease = claim.lease;
            append(store, &mut job, |job| job.start(node)).await;
            append(store, &mut job, |job| job.end()).await;
        }
    }

    let of = |tenant: &str| Filter { tenant: Some(tenant.into()), ..Filter::default() };
    let oldest = oldest(store).await;
    let lists = [
        ("list, first page", of("default")),
        ("list, a rare status", Filter { status: Some(Status::Failed), ..of("default") }),
        ("list, a rare job type", Filter { job_type: Some("rare".into()), ..of("default") }),
        ("list, a rare tenant", Filter { status: Some(Status::Succeeded), ..of("rare") }),
        ("list, the last page", Filter { before: Some(oldest), ..of("default") }),
        (
            "list, the last page of a status",
            Filter { before: Some(oldest), status: Some(Status::Succeeded), ..of("default") },
        ),
    ];
    for (name, filter) in lists {
        let mut pages = Vec::new();
        for _ in 0..20 {
            let (took, page) = time(store.list(&filter, PAGE, 0)).await;
            assert!(!page.unwrap().records.is_empty(), "{name}");
            pages.push(took);
        }
        found.push((name, median(pages)));
    }

    let (mut histories, mut pages) = (Vec::new(), Vec::new());
    let last = store.last_position().await.unwrap();
    for number in 1..=50 {
        let position = last * number / 51;
        let events = store.log_events(position, &[], 1).await.unwrap();
        let (took, events) = time(store.stream_events(events[0].stream_id, 0, 100)).await;
        assert!(!events.unwrap().is_empty());
        histories.push(took);
        let (took, page) = time(store.log_page(position, last, &LogFilter::default(), PAGE)).await;
        assert!(!page.unwrap().is_empty());
        pages.push(took);
    }
    found.push(("history of one execution", median(histories)));
    found.push(("a page of the global log", median(pages)));
    let mut counts = store.status_counts().await.unwrap();
    let mut counted = Vec::new();
    for _ in 0..20 {
        let (took, since) = time(store.status_counts_since(counts)).await;
        counts = since.unwrap();
        counted.push(took);
    }
    found.push(("count by status, for metrics", median(counted)));
    found
}

/// An execution with hardly more than a page before it.
async fn oldest(store: &Store) -> Uuid {
    let events = store.log_events(0, &[EventKind::JobSubmitted], PAGE + 50).await.unwrap();
    events.last().unwrap().stream_id
}

async fn time<T>(work: impl Future<Output = T>) -> (f64, T) {
    let start = Instant::now();
    let value = work.await;
    (start.elapsed().as_secs_f64() * 1000.0, value)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(results: &[(usize, Measured)]) {
    let row = |name: &str, values: Vec<f64>, digits: usize| {
        let values: String = values.iter().map(|value| format!("{value:>14.digits$}")).collect();
        println!("{name:<40}{values}");
    };
    row("executions", results.iter().map(|(size, _)| *size as f64).collect(), 0);
    let first = &results[0].1;
    for (index, (name, _)) in first.latencies.iter().enumerate() {
        let values = results.iter().map(|(_, measured)| measured.latencies[index].1).collect();
        row(&format!("{name}, ms"), values, 2);
    }
    for (index, (name, _)) in first.rates.iter().enumerate() {
        row(name, results.iter().map(|(_, measured)| measured.rates[index].1).collect(), 0);
    }
}

fn draw(results: &[(usize, Measured)]) {
    let sizes: Vec<f64> = results.iter().map(|(size, _)| *size as f64).collect();
    let panel = |title: &'static str, of: fn(&Measured) -> &[(&'static str, f64)]| {
        let names = of(&results[0].1).iter().map(|(name, _)| *name).enumerate();
        let series = |(index, name): (usize, &'static str)| Series {
            name,
            values: results.iter().map(|(_, measured)| of(measured)[index].1).collect(),
        };
        Panel { title, series: names.map(series).collect() }
    };
    let panels = [
        panel("milliseconds for one call (median)", |measured| &measured.latencies),
        panel("per second", |measured| &measured.rates),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scale.svg");
    std::fs::write(&path, chart::svg("What a call costs as the log grows", "executions in the log", &sizes, &panels))
        .unwrap();
    println!("drawn in docs/scale.svg");
}

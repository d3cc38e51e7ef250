//! Figures for Prometheus, in its text format 0.0.4.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use tokio::sync::Mutex;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::Params;
use super::pool;
use super::problem::Problem;
use crate::domain::Status;
use crate::store::Filter;

/// GET /metrics
pub async fn metrics(
    _caller: Caller<Read>,
    app: web::Data<App>,
    counts: web::Data<Counts>,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let figures = pool::figures(&app).await?;
    let sight = app.health.look().await;
    let counts = counts.get(&app).await?;
    let mut text = Text::default();
    text.gauge("tako_vm_queue_jobs", "Jobs that wait, of the whole installation.", figures.pending as f64);
    text.gauge("tako_vm_queue_limit", "Jobs that may wait.", f64::from(figures.max_queue_size));
    text.gauge("tako_vm_running_jobs", "Jobs that run on this node.", f64::from(figures.running));
    text.gauge("tako_vm_slots", "Jobs that may run on this node at the same time.", f64::from(figures.max_workers));
    text.gauge("tako_vm_draining", "1 while the node takes no more jobs.", f64::from(u8::from(figures.draining)));
    text.family("tako_vm_jobs", "gauge", "Executions on record, by status, as counted within the last 15 s.");
    for (status, count) in counts {
        text.sample(&format!("tako_vm_jobs{{status=\"{status}\"}}"), count as f64);
    }
    text.gauge("tako_vm_pool_idle_sandboxes", "Sandboxes that wait for a job.", figures.warm_pool.idle as f64);
    text.family("tako_vm_pool_jobs_total", "counter", "Jobs by how they got their sandbox.");
    text.sample("tako_vm_pool_jobs_total{sandbox=\"warm\"}", figures.warm_pool.warm as f64);
    text.sample("tako_vm_pool_jobs_total{sandbox=\"cold\"}", figures.warm_pool.cold as f64);
    text.gauge(
        "tako_vm_engine_available",
        "1 while the engine starts sandboxes.",
        f64::from(u8::from(sight.engine_available)),
    );
    text.family("tako_vm_info", "gauge", "What runs, as labels.");
    text.sample(
        &format!(
            "tako_vm_info{{version=\"{}\",engine=\"{}\",runtime=\"{}\"}}",
            env!("CARGO_PKG_VERSION"),
            escaped(&sight.engine),
            escaped(&sight.runtime)
        ),
        1.0,
    );
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body(text.0))
}

/// Executions by status. Counting takes time in proportion to their number, so it is done rarely,
/// and once for all who ask meanwhile.
#[derive(Default)]
pub struct Counts(Mutex<Option<Counted>>);

type Counted = (Instant, Vec<(Status, u64)>);

impl Counts {
    const MAX_AGE: Duration = Duration::from_secs(15);

    async fn get(&self, app: &App) -> Result<Vec<(Status, u64)>, Problem> {
        let mut counted = self.0.lock().await;
        if let Some((at, counts)) = &*counted
            && at.elapsed() < Self::MAX_AGE
        {
            return Ok(counts.clone());
        }
        let counts = app
            .read(|store| async move {
                let mut counts = Vec::new();
                for status in Status::ALL {
                    let filter = Filter { status: Some(status), ..Filter::default() };
                    counts.push((status, store.count(&filter).await?));
                }
                Ok(counts)
            })
            .await?;
        *counted = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, series: &str, value: f64) {
        let _ = writeln!(self.0, "{series} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, value);
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

//! Figures for Prometheus, in its text format 0.0.4.

use std::collections::BTreeMap;
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
use crate::store::StatusCounts;

/// GET /metrics
pub async fn metrics(
    _caller: Caller<Read>,
    app: web::Data<App>,
    counts: web::Data<Counts>,
    letters: web::Data<Letters>,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let figures = pool::figures(&app).await?;
    let sight = app.health.look().await;
    let counts = counts.get(&app).await?;
    let letters = letters.get(&app).await?;
    let mut text = Text::default();
    text.gauge("tako_vm_queue_jobs", "Jobs that wait, of the whole installation.", figures.pending as f64);
    text.gauge("tako_vm_queue_limit", "Jobs that may wait.", f64::from(figures.max_queue_size));
    text.gauge("tako_vm_running_jobs", "Jobs that run on this node.", f64::from(figures.running));
    text.gauge("tako_vm_slots", "Jobs that may run on this node at the same time.", f64::from(figures.max_workers));
    text.gauge("tako_vm_draining", "1 while the node takes no more jobs.", f64::from(u8::from(figures.draining)));
    text.family("tako_vm_jobs", "gauge", "Executions on record, by status, as counted within the last 15 s.");
    for status in Status::ALL {
        text.sample(&format!("tako_vm_jobs{{status=\"{status}\"}}"), counts.of(status) as f64);
    }
    text.family("tako_vm_dead_letters", "gauge", "Dead letters that nobody has decided about, by error type.");
    for (error_type, count) in letters {
        text.sample(&format!("tako_vm_dead_letters{{error_type=\"{}\"}}", escaped(&error_type)), count as f64);
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
    text.gauge(
        "tako_vm_database_writable",
        "1 while the database takes this node's writes.",
        f64::from(u8::from(app.writes.refusal().is_none())),
    );
    let blobs = app.objects_health().await?;
    text.gauge(
        "tako_vm_blob_store_available",
        "1 while the store of large blobs answers.",
        f64::from(u8::from(blobs.is_available)),
    );
    text.family("tako_vm_nodes", "gauge", "Live nodes of the installation, by what they do.");
    text.sample("tako_vm_nodes{does=\"answers\"}", f64::from(app.fleet.answering()));
    text.sample("tako_vm_nodes{does=\"works\"}", f64::from(app.fleet.working()));
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

/// Executions by status, counted once for all who ask meanwhile. Counting all takes time in proportion
/// to their number, so that mostly only what was appended since is counted.
#[derive(Default)]
pub struct Counts(Mutex<Option<Counted>>);

#[derive(Clone)]
struct Counted {
    /// When all were counted, and when anything was.
    whole_at: Instant,
    at: Instant,
    counts: StatusCounts,
}

impl Counts {
    const MAX_AGE: Duration = Duration::from_secs(15);

    /// Retention takes executions away, of which no event tells.
    const WHOLE_MAX_AGE: Duration = Duration::from_secs(3600);

    async fn get(&self, app: &App) -> Result<StatusCounts, Problem> {
        let mut counted = self.0.lock().await;
        let (whole_at, known) = match counted.clone() {
            Some(counted) if counted.at.elapsed() < Self::MAX_AGE => return Ok(counted.counts),
            Some(counted) if counted.whole_at.elapsed() < Self::WHOLE_MAX_AGE => {
                (counted.whole_at, Some(counted.counts))
            }
            Some(_) | None => (Instant::now(), None),
        };
        let counts = app
            .read(move |store| async move {
                match known {
                    Some(counts) => store.status_counts_since(counts).await,
                    None => store.status_counts().await,
                }
            })
            .await?;
        *counted = Some(Counted { whole_at, at: Instant::now(), counts: counts.clone() });
        Ok(counts)
    }
}

/// Dead letters by error type, of all tenants. Counting takes time in proportion to their number, so it is
/// done the more seldom the longer it takes.
#[derive(Default)]
pub struct Letters(Mutex<Option<Tally>>);

struct Tally {
    good_until: Instant,
    /// With a type of which there were some and are none, so that its series goes down to 0.
    by_error_type: BTreeMap<String, u64>,
}

impl Letters {
    const MIN_AGE: Duration = Duration::from_secs(15);

    /// Counting takes no more than a hundredth of the time.
    const REST: u32 = 100;

    async fn get(&self, app: &App) -> Result<BTreeMap<String, u64>, Problem> {
        let mut tally = self.0.lock().await;
        if let Some(known) = tally.as_ref().filter(|known| Instant::now() < known.good_until) {
            return Ok(known.by_error_type.clone());
        }
        let began = Instant::now();
        let counts = app.read(|store| async move { store.dead_letter_counts(None).await }).await?;
        let good_until = Instant::now() + Self::MIN_AGE.max(began.elapsed().saturating_mul(Self::REST));
        let gone = tally.take().into_iter().flat_map(|known| known.by_error_type.into_keys());
        let by_error_type: BTreeMap<_, _> = gone.map(|error_type| (error_type, 0)).chain(counts).collect();
        *tally = Some(Tally { good_until, by_error_type: by_error_type.clone() });
        Ok(by_error_type)
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

//! Every path there is.

use actix_web::http::Method;
use actix_web::{Handler, HttpRequest, HttpResponse, Resource, Responder, Route, web};
use serde_json::json;

use super::app::App;
use super::problem::{Kind, Problem};
use super::{
    artifacts, audit, builds, dlq, events, executions, health, images, job_types, jobs, lineage, metrics, nodes,
    openapi, output, pauses, pool, replay, schedules, secrets, shred,
};
use crate::config::Role;

/// A path with its methods. A method that is not here is answered 405, with those that are.
pub struct Path {
    pub pattern: &'static str,
    routes: Vec<(Method, Route)>,
}

impl Path {
    fn at(pattern: &'static str) -> Self {
        Self { pattern, routes: Vec::new() }
    }

    fn on<F, Args>(mut self, method: Method, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: actix_web::FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.routes.push((method.clone(), Route::new().method(method).to(handler)));
        self
    }

    /// HEAD is GET without the body; the server leaves the body away.
    fn get<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: actix_web::FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.on(Method::GET, handler.clone()).on(Method::HEAD, handler)
    }

    fn post<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: actix_web::FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.on(Method::POST, handler)
    }

    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        self.routes.iter().map(|(method, _)| method)
    }

    fn resource(self) -> Resource {
        let allow = self.methods().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let resource =
            self.routes.into_iter().fold(web::resource(self.pattern), |resource, (_, route)| resource.route(route));
        resource.default_service(web::to(move |request: HttpRequest| {
            let detail = format!("{} does not take {}, but {allow}", shown(request.path()), request.method());
            let problem = Problem::new(Kind::MethodNotAllowed, detail).allow(allow.clone());
            async move { Err::<HttpResponse, _>(problem) }
        }))
    }
}

/// In an order in which a fixed name comes before a parameter of the same place.
pub fn paths() -> Vec<Path> {
    vec![
        Path::at("/").get(index),
        Path::at("/execute").post(jobs::execute),
        Path::at("/execute/async").post(jobs::submit_async),
        Path::at("/jobs").post(jobs::submit),
        Path::at("/jobs/batch").post(jobs::submit_batch),
        Path::at("/jobs/{id}").get(jobs::status),
        Path::at("/jobs/{id}/result").get(jobs::result),
        Path::at("/jobs/{id}/cancel").post(jobs::cancel),
        Path::at("/jobs/{id}/rerun").post(jobs::rerun),
        Path::at("/jobs/{id}/fork").post(jobs::fork),
        Path::at("/jobs/{id}/events").get(events::of_execution),
        Path::at("/jobs/{id}/output").get(output::follow),
        Path::at("/jobs/{id}/artifacts/{name:.+}").get(artifacts::download),
        Path::at("/executions").get(executions::list),
        Path::at("/executions/{id}").get(executions::get),
        Path::at("/executions/{id}/lineage").get(lineage::graph),
        Path::at("/executions/{id}/replay").get(replay::verdict).post(replay::replay),
        Path::at("/executions/{id}/proof").get(audit::proof),
        Path::at("/executions/{id}/shred").post(shred::execution),
        Path::at("/tenants/{tenant}/shred").post(shred::tenant),
        Path::at("/audit/verify").get(audit::verify),
        Path::at("/audit/seals").get(audit::seals),
        Path::at("/artifacts/{sha256}/consumers").get(lineage::consumers),
        Path::at("/code/{sha256}/executions").get(lineage::executions_of_code),
        Path::at("/events").get(events::all),
        Path::at("/job-types").get(job_types::list).post(job_types::create),
        Path::at("/job-types/{name}").get(job_types::get).on(Method::PUT, job_types::change),
        Path::at("/job-types/{name}/versions").get(job_types::versions),
        Path::at("/job-types/{name}/pause").post(pauses::pause),
        Path::at("/job-types/{name}/resume").post(pauses::resume),
        Path::at("/nodes").get(nodes::list),
        Path::at("/job-types/{name}/build").post(job_types::build),
        Path::at("/secrets").get(secrets::list),
        Path::at("/secrets/{name}").on(Method::PUT, secrets::set).on(Method::DELETE, secrets::remove),
        Path::at("/schedules").get(schedules::list).post(schedules::create),
        Path::at("/schedules/{name}")
            .get(schedules::get)
            .on(Method::PUT, schedules::change)
            .on(Method::DELETE, schedules::remove),
        Path::at("/schedules/{name}/pause").post(schedules::pause),
        Path::at("/schedules/{name}/resume").post(schedules::resume),
        Path::at("/builds").get(builds::list),
        Path::at("/builds/{id}/log").get(builds::log),
        Path::at("/builds/{id}/cancel").post(builds::cancel),
        Path::at("/images").get(images::list),
        Path::at("/images/gc").post(images::collect),
        Path::at("/pool/stats").get(pool::stats),
        Path::at("/dlq").get(dlq::list),
        Path::at("/dlq/stats").get(dlq::stats),
        Path::at("/dlq/requeue").post(dlq::requeue_all),
        Path::at("/dlq/{id}").get(dlq::get).on(Method::DELETE, dlq::discard),
        Path::at("/dlq/{id}/requeue").post(dlq::requeue),
        Path::at("/health").get(health::health),
        Path::at("/livez").get(health::livez),
        Path::at("/readyz").get(health::readyz),
        Path::at("/metrics").get(metrics::metrics),
        Path::at("/openapi.json").get(openapi::document),
    ]
}

/// What a node answers that only works.
const OF_WORKERS: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];

/// Every path that a node of a role has.
pub fn configure(role: Role) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        for path in paths().into_iter().filter(|path| role.answers() || OF_WORKERS.contains(&path.pattern)) {
            config.service(path.resource());
        }
    }
}

/// For every path that is none.
pub async fn no_such_path(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    if !app.config.role.answers() {
        let detail =
            format!("this node is a worker and answers {} alone; ask one with role api or all", OF_WORKERS.join(", "));
        return Err(Problem::new(Kind::NotFound, detail));
    }
    let detail = format!("there is no path {}; GET /openapi.json lists those there are", shown(request.path()));
    Err(Problem::new(Kind::NotFound, detail))
}

/// GET /
async fn index() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "name": "tako-vm",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "POST a job to /execute, or to /jobs and look at /executions",
        "openapi": "/openapi.json",
        "health": "/health",
    }))
}

fn shown(path: &str) -> String {
    path.chars().take(200).collect::<String>().escape_debug().to_string()
}

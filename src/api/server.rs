//! The HTTP server.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App as HttpApp, HttpServer, middleware, web};

use super::app::App;
use super::caller::Keys;
use super::metrics::{Counts, Letters};
use super::rate_limit::RateLimit;
use super::{envelope, routes};

/// How long a stopping server waits for answers that are under way. Whoever waits for a job was
/// answered before, by [`App::stopping`].
const SHUTDOWN_SECONDS: u64 = 5;

/// Answers HTTP on a listener, which may have port 0, until the returned server is stopped
/// through its handle. Signals are left to the caller.
///
/// # Errors
/// When the listener cannot be used, and for an API key whose hash is none.
pub fn serve(app: web::Data<App>, listener: TcpListener, http_workers: usize) -> std::io::Result<Server> {
    let keys = Keys::of(&app.config)
        .map_err(|name| std::io::Error::other(format!("the hash of API key {name:?} is no SHA-256")))?;
    let keys = web::Data::new(keys);
    let rate_limit = web::Data::new(RateLimit::new(&app.config.rate_limit));
    let counts = web::Data::new(Counts::default());
    let letters = web::Data::new(Letters::default());
    let role = app.config.role;
    let server = HttpServer::new(move || {
        HttpApp::new()
            .app_data(app.clone())
            .app_data(keys.clone())
            .app_data(rate_limit.clone())
            .app_data(counts.clone())
            .app_data(letters.clone())
            .configure(routes::configure(role))
            .default_service(web::to(routes::no_such_path))
            .wrap(middleware::from_fn(envelope::wrap))
    });
    Ok(server
        .workers(http_workers.max(1))
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_SECONDS)
        // A client has so long to send its head, which bounds what slow ones can hold.
        .client_request_timeout(Duration::from_secs(10))
        .keep_alive(Duration::from_secs(75))
        .listen(listener)?
        .run())
}

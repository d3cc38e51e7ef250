//! What every exchange has around it, whatever the path: a correlation id, a place in the rate
//! limit, safe headers, and errors written as problems.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use futures::FutureExt as _;
use uuid::Uuid;

use super::app::App;
use super::problem::{Kind, Problem};
use super::rate_limit::RateLimit;

pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The caller's, if it sent one that can be kept, else a new one.
#[derive(Debug, Clone)]
pub struct CorrelationId(pub String);

impl CorrelationId {
    fn of(request: &ServiceRequest) -> Self {
        let sent = request.headers().get(CORRELATION_ID).and_then(|value| value.to_str().ok());
        match sent {
            Some(sent) if (1..=128).contains(&sent.len()) && sent.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Self(sent.to_owned())
            }
            _ => Self(Uuid::now_v7().to_string()),
        }
    }
}

/// The outermost middleware.
pub async fn wrap(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let correlation = CorrelationId::of(&request);
    request.extensions_mut().insert(correlation.clone());
    let mut response = match refused_by_rate(&request) {
        Some(problem) => {
            let (request, _) = request.into_parts();
            ServiceResponse::new(request, problem.answer(&correlation.0))
        }
        None => match AssertUnwindSafe(next.call(request)).catch_unwind().await {
            Ok(Ok(response)) => as_problem(response, &correlation.0),
            // The request is gone, and actix makes its answer of the error.
            Ok(Err(error)) => return Err(as_error(Problem::of_error(&error), &correlation)),
            Err(_panic) => return Err(as_error(Problem::defect(&"a handler panicked"), &correlation)),
        },
    };
    set_headers(response.headers_mut(), &correlation);
    Ok(response)
}

fn as_error(problem: Problem, correlation: &CorrelationId) -> Error {
    let mut answer = problem.answer(&correlation.0);
    set_headers(answer.headers_mut(), correlation);
    actix_web::error::InternalError::from_response("answered", answer).into()
}

fn set_headers(headers: &mut header::HeaderMap, correlation: &CorrelationId) {
    if let Ok(value) = HeaderValue::from_str(&correlation.0) {
        headers.insert(CORRELATION_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
}

fn refused_by_rate(request: &ServiceRequest) -> Option<Problem> {
    let rate_limit = request.app_data::<web::Data<RateLimit>>()?;
    let nodes = request.app_data::<web::Data<App>>()?.fleet.answering();
    let client = request.peer_addr()?.ip();
    let wait = rate_limit.take_share(client, Instant::now(), nodes).err()?;
    let detail = format!("this address made too many requests; the next is answered in {:.1} s", wait.as_secs_f64());
    Some(Problem::new(Kind::RateLimited, detail).retry_after(wait))
}

/// An error answer becomes a problem, with the correlation id in it.
fn as_problem(response: ServiceResponse<impl MessageBody + 'static>, correlation_id: &str) -> ServiceResponse<BoxBody> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response.map_into_boxed_body();
    }
    let problem = match response.response().error() {
        Some(error) => Problem::of_error(error),
        None => Problem::of_status(status, &status),
    };
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, problem.answer(correlation_id))
}

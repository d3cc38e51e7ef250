//! Why a request was not granted: the only place that knows HTTP status codes of errors.
//!
//! Every error becomes a [`Problem`], and every problem is written as `application/problem+json`
//! (RFC 9457) by [`Problem::answer`], which the outermost middleware calls because it alone knows
//! the correlation id.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix::MailboxError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use uuid::Uuid;

use crate::actors::submission::FieldFault;
use crate::actors::{builder, refusal};
use crate::store;

/// Everything a request can fail of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be read at all.
    Malformed,
    /// The job has ended, so there is nothing to cancel.
    AlreadyEnded,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// It was there, and is no longer kept.
    Gone,
    MethodNotAllowed,
    /// The job did not end while the client was ready to wait.
    NotYet,
    /// The body did not arrive in time.
    TooSlow,
    IdempotencyConflict,
    /// What is asked for does not fit what the execution is now.
    Conflict,
    /// A job type of that name is there, or is not to be changed here.
    JobTypeConflict,
    /// A schedule of that name is there, or was just changed, or there are too many.
    ScheduleConflict,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    RateLimited,
    BuildFailed,
    Internal,
    Unavailable,
}

impl Kind {
    /// Status, last part of the `type`, and `title`.
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed", "The request cannot be read"),
            Self::AlreadyEnded => (StatusCode::BAD_REQUEST, "already-ended", "The job has already ended"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "An API key is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The API key does not allow this"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::Gone => (StatusCode::GONE, "gone", "It is no longer kept"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The path does not have this method")
            }
            Self::NotYet => (StatusCode::REQUEST_TIMEOUT, "not-yet", "The job has not ended yet"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "The request did not arrive in time"),
            Self::IdempotencyConflict => {
                (StatusCode::CONFLICT, "idempotency-conflict", "The idempotency key was used for another payload")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "The execution's state does not allow this"),
            Self::JobTypeConflict => (StatusCode::CONFLICT, "job-type-conflict", "The job type cannot be defined so"),
            Self::ScheduleConflict => {
                (StatusCode::CONFLICT, "schedule-conflict", "The schedule cannot be made or changed so")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is not JSON")
            }
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::BuildFailed => (StatusCode::UNPROCESSABLE_ENTITY, "build-failed", "The job type cannot be built"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The service failed"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The service cannot do this now"),
        }
    }

    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// The kind of an error status that actix-web made by itself.
    fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            413 => Self::TooLarge,
            415 => Self::UnsupportedMediaType,
            400..=499 => Self::Malformed,
            503 => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

/// An error as a client sees it. Boxed, because most answers carry none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Facts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldFault>,
    execution_id: Option<Uuid>,
    existing_job_id: Option<Uuid>,
    retry_after: Option<Duration>,
    allow: Option<String>,
    log_tail: Option<String>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Facts {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            execution_id: None,
            existing_job_id: None,
            retry_after: None,
            allow: None,
            log_tail: None,
        }))
    }

    /// What is wrong, by field. A fault of size makes the whole a 413.
    pub fn invalid(faults: Vec<FieldFault>) -> Self {
        let kind = if faults.iter().any(|fault| fault.is_size) { Kind::TooLarge } else { Kind::Invalid };
        let detail: Vec<_> = faults.iter().map(|fault| format!("{} {}", fault.field, fault.message)).collect();
        let mut problem = Self::new(kind, detail.join("; "));
        problem.0.errors = faults;
        problem
    }

    /// One field that is wrong; `message` continues a sentence that begins with its name.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldFault { field: field.to_owned(), message: message.into(), is_size: false }])
    }

    pub fn no_execution(id: Uuid) -> Self {
        Self::new(Kind::NotFound, format!("execution {id} does not exist"))
    }

    pub fn expired(id: Uuid, at: chrono::DateTime<chrono::Utc>) -> Self {
        let at = at.format("%Y-%m-%dT%H:%M:%SZ");
        let detail =
            format!("execution {id} expired at {at}: its record is no longer kept, its events and their proof are");
        Self::new(Kind::Gone, detail).about(id)
    }

    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after(Duration::from_secs(2))
    }

    /// A defect; nothing of it is told.
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "the cause is in the server's log, under this correlation id")
    }

    /// A defect, with its cause for the log.
    pub fn defect(cause: &dyn fmt::Display) -> Self {
        tracing::error!(cause = %cause, "a request failed for a reason that is no client's");
        Self::internal()
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn about(mut self, execution_id: Uuid) -> Self {
        self.0.execution_id = Some(execution_id);
        self
    }

    #[must_use]
    pub fn allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The problem behind an error answer, whoever made it.
    pub fn of_error(error: &actix_web::Error) -> Self {
        if let Some(problem) = error.as_error::<Self>() {
            return problem.clone();
        }
        Self::of_status(error.as_response_error().status_code(), error)
    }

    /// For an error answer that actix-web made without one of ours.
    pub fn of_status(status: StatusCode, cause: &dyn fmt::Display) -> Self {
        match Kind::of_status(status) {
            Kind::Internal => Self::defect(cause),
            kind => Self::new(kind, kind.row().2),
        }
    }

    /// As one item of a batch's answer.
    pub fn item(&self) -> impl Serialize + '_ {
        self.body(None)
    }

    pub fn answer(&self, correlation_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.0.kind.status()).json(self.body(Some(correlation_id)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.0.allow.as_deref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
            headers.insert(header::ALLOW, methods);
        }
        if self.0.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// Whole seconds, at least one.
    fn retry_after_seconds(&self) -> Option<u64> {
        self.0.retry_after.map(|wait| wait.as_secs_f64().ceil().max(1.0) as u64)
    }

    fn body<'a>(&'a self, correlation_id: Option<&'a str>) -> Body<'a> {
        let facts = &*self.0;
        let (status, slug, title) = facts.kind.row();
        Body {
            kind: format!("urn:tako-vm:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: &facts.detail,
            correlation_id,
            execution_id: facts.execution_id,
            existing_job_id: facts.existing_job_id,
            retry_after: self.retry_after_seconds(),
            errors: &facts.errors,
            log_tail: facts.log_tail.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    existing_job_id: Option<Uuid>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "<[FieldFault]>::is_empty")]
    errors: &'a [FieldFault],
    /// The last lines of a build that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_tail: Option<&'a str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.kind.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.answer("")
    }
}

impl From<refusal::Refusal> for Problem {
    fn from(refusal: refusal::Refusal) -> Self {
        use refusal::Refusal;
        let detail = refusal.to_string();
        match refusal {
            Refusal::Invalid { faults } => Self::invalid(faults),
            Refusal::JobType(_) => Self::field("job_type", format!("is not known: {detail}")),
            Refusal::IdempotencyConflict { existing, .. } => {
                let mut problem = Self::new(Kind::IdempotencyConflict, detail);
                problem.0.existing_job_id = Some(existing);
                problem
            }
            Refusal::NoSecret { .. } | Refusal::NoSchedule { .. } => Self::new(Kind::NotFound, detail),
            // Somebody must give the server a key first.
            Refusal::NoSecretKey => Self::new(Kind::Unavailable, detail).retry_after(Duration::from_secs(60)),
            Refusal::NotFound(id) | Refusal::NotADeadLetter(id) => Self::new(Kind::NotFound, detail).about(id),
            Refusal::Expired(id) => Self::new(Kind::Gone, detail).about(id),
            Refusal::AlreadyEnded { execution_id, .. } => Self::new(Kind::AlreadyEnded, detail).about(execution_id),
            Refusal::NotEnded(execution_id)
            | Refusal::NotRepeatable { execution_id, .. }
            | Refusal::ReplayRefused { execution_id, .. } => Self::new(Kind::Conflict, detail).about(execution_id),
            Refusal::ScheduleExists { .. } | Refusal::ScheduleRaced { .. } | Refusal::TooManySchedules { .. } => {
                Self::new(Kind::ScheduleConflict, detail)
            }
            Refusal::InProgress { .. } => Self::new(Kind::Conflict, detail),
            Refusal::QueueFull { retry_after, .. } | Refusal::Unavailable { retry_after, .. } => {
                Self::new(Kind::Unavailable, detail).retry_after(retry_after)
            }
            Refusal::Internal => Self::internal(),
        }
    }
}

impl From<builder::Refusal> for Problem {
    fn from(refusal: builder::Refusal) -> Self {
        let kind = match refusal {
            builder::Refusal::JobType(_) => Kind::NotFound,
            builder::Refusal::NotBuilt { .. } | builder::Refusal::Failed { retryable: false, .. } => Kind::BuildFailed,
            builder::Refusal::Failed { retryable: true, .. } => Kind::Unavailable,
            builder::Refusal::Exists { .. } | builder::Refusal::Configured { .. } | builder::Refusal::Raced { .. } => {
                Kind::JobTypeConflict
            }
        };
        let mut problem = Self::new(kind, refusal.to_string());
        if kind == Kind::Unavailable {
            problem = problem.retry_after(Duration::from_secs(2));
        }
        if let builder::Refusal::Failed { log_tail, .. } = refusal {
            problem.0.log_tail = Some(log_tail).filter(|tail| !tail.is_empty());
        }
        problem
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        if error.is_transient() && error.is_of_objects() {
            tracing::warn!(error = %error, "the object store did not answer a request");
            return Self::unavailable("the object store does not answer; try again later");
        }
        if error.is_transient() {
            tracing::warn!(error = %error, "the database did not answer a request");
            return Self::unavailable("the database does not answer; try again later");
        }
        Self::defect(&error)
    }
}

impl From<MailboxError> for Problem {
    fn from(_: MailboxError) -> Self {
        Self::unavailable("the service is busy or stopping; try again later")
    }
}

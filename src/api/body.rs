//! Takes a request's body off the wire, within the limit.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::app::App;
use super::problem::{Kind, Problem};
use super::strict_json;

/// How long a whole body may take, so that slow clients do not hold what others need.
const PATIENCE: Duration = Duration::from_secs(30);

/// A JSON body as a `T`.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let text = text_of(&request, payload).await?;
            if text.trim().is_empty() {
                return Err(Problem::new(Kind::Malformed, "the body is empty: send a JSON object").into());
            }
            Ok(Self(strict_json::read(&text)?))
        })
    }
}

/// A JSON object of any fields; whoever takes it checks them.
pub struct JsonObjectBody(pub Map<String, Value>);

impl FromRequest for JsonObjectBody {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let text = text_of(&request, payload).await?;
            Ok(Self(strict_json::object(&text)?))
        })
    }
}

/// A JSON body where there may be none: an absent one reads as `{}`.
pub struct OptionalJsonBody<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalJsonBody<T> {
    type Error = actix_web::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Self::Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let text = text_of(&request, payload).await?;
            let text = if text.trim().is_empty() { "{}" } else { &text };
            Ok(Self(strict_json::read(text)?))
        })
    }
}

/// What clients send that do not say what they send, and what they call JSON.
fn may_be_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.is_empty() || essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

async fn text_of(request: &HttpRequest, payload: Payload) -> Result<String, Problem> {
    let Some(app) = request.app_data::<web::Data<App>>() else {
        return Err(Problem::defect(&"the application is not registered"));
    };
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "a body with a content encoding is not read; send it plain",
        ));
    }
    let bytes = tokio::time::timeout(PATIENCE, within(app.config.limits.max_body_bytes, payload))
        .await
        .map_err(|_| Problem::new(Kind::TooSlow, format!("the body took longer than {} s", PATIENCE.as_secs())))??;
    let declared =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A wrong type on a body that is JSON is forgiven: the body is what is meant.
    if !may_be_json(declared) && !matches!(bytes.trim_ascii_start().first(), None | Some(b'{')) {
        let detail = format!("send application/json, not {:?}", declared.chars().take(100).collect::<String>());
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(Kind::Malformed, format!("the body is not UTF-8 from byte {at} on"))
    })
}

/// Reads the body. Of one that is too long, a little more is read and dropped, because most
/// clients look for an answer only after they have sent everything.
async fn within(limit: u64, mut payload: Payload) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut read = 0_u64;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Problem::new(Kind::Malformed, format!("the body ended early: {error}")))?;
        read += chunk.len() as u64;
        if read <= limit {
            bytes.extend_from_slice(&chunk);
        } else {
            bytes = Vec::new();
            if read > limit.saturating_mul(8) {
                break;
            }
        }
    }
    if read > limit {
        return Err(Problem::new(Kind::TooLarge, format!("the body is larger than the limit of {limit} bytes")));
    }
    Ok(bytes)
}

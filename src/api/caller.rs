//! Who asks, and what they may.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::ops::Deref;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, web};

use super::envelope::CorrelationId;
use super::problem::{Kind, Problem};
use crate::actors::submission::Origin;
use crate::config::{ApiKey, Config, Scope};
use crate::domain::Digest;

/// The API keys by their hashes; with none at all, everybody is let in.
#[derive(Debug)]
pub struct Keys(Vec<(Digest, ApiKey)>);

impl Keys {
    /// # Errors
    /// The name of a key whose hash is none. A loaded configuration has none such, and leaving
    /// the key out instead could leave the door open.
    pub fn of(config: &Config) -> Result<Self, String> {
        let hashed = |key: &ApiKey| match key.sha256.expose().parse() {
            Ok(hash) => Ok((hash, key.clone())),
            Err(_) => Err(key.name.clone()),
        };
        Ok(Self(config.api_keys.iter().map(hashed).collect::<Result<_, _>>()?))
    }

    /// Looks at every key, whichever it is, in the same time.
    fn find(&self, presented: &str) -> Option<&ApiKey> {
        let presented = Digest::of(presented.as_bytes());
        let mut found = None;
        for (hash, key) in &self.0 {
            if equal_in_constant_time(hash.as_bytes(), presented.as_bytes()) {
                found = Some(key);
            }
        }
        found
    }
}

fn equal_in_constant_time(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// A scope as a type, so that a handler's signature says what it asks for.
pub trait Needs: 'static {
    const SCOPE: Scope;
}

/// Reads records, events, output and artifacts.
pub struct Read;
/// Submits, cancels and repeats jobs.
pub struct Submit;
/// Builds, and what shows all tenants.
pub struct Admin;

impl Needs for Read {
    const SCOPE: Scope = Scope::Read;
}

impl Needs for Submit {
    const SCOPE: Scope = Scope::Submit;
}

impl Needs for Admin {
    const SCOPE: Scope = Scope::Admin;
}

/// A client that may do what needs `N`. First among a handler's arguments, so that a stranger's
/// body is never read.
pub struct Caller<N> {
    pub origin: Origin,
    /// May do everything.
    pub is_admin: bool,
    needs: PhantomData<N>,
}

impl<N> Deref for Caller<N> {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.origin
    }
}

impl<N: Needs> FromRequest for Caller<N> {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(
            admit(request, N::SCOPE)
                .map(|(origin, is_admin)| Self { origin, is_admin, needs: PhantomData })
                .map_err(Into::into),
        )
    }
}

/// Who asks, and whether as an administrator.
fn admit(request: &HttpRequest, needed: Scope) -> Result<(Origin, bool), Problem> {
    let Some(keys) = request.app_data::<web::Data<Keys>>() else {
        return Err(Problem::defect(&"the API keys are not registered"));
    };
    let correlation_id = request.extensions().get::<CorrelationId>().map(|id| id.0.clone()).unwrap_or_default();
    let client_ip = request.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
    if keys.0.is_empty() {
        let by = "anonymous".to_owned();
        return Ok((Origin { tenant: "default".to_owned(), by, client_ip, correlation_id }, true));
    }
    let presented = presented_key(request).ok_or_else(|| {
        Problem::new(Kind::Unauthenticated, "send an API key, as \"Authorization: Bearer …\" or as \"X-API-Key: …\"")
    })?;
    let key = keys.find(presented).ok_or_else(|| Problem::new(Kind::Unauthenticated, "the API key is not known"))?;
    let is_admin = key.scopes.contains(&Scope::Admin);
    if !key.scopes.contains(&needed) && !is_admin {
        let scope = match needed {
            Scope::Submit => "submit",
            Scope::Read => "read",
            Scope::Admin => "admin",
        };
        return Err(Problem::new(Kind::Forbidden, format!("this needs an API key with the scope {scope:?}")));
    }
    Ok((Origin { tenant: key.tenant.clone(), by: key.name.clone(), client_ip, correlation_id }, is_admin))
}

fn presented_key(request: &HttpRequest) -> Option<&str> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(authorization) = header(header::AUTHORIZATION.as_str()) {
        let (scheme, key) = authorization.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(key.trim());
    }
    header("x-api-key").map(str::trim)
}

//! What stands in the address of a request: ids and query parameters.

use std::fmt::Display;
use std::future::{Ready, ready};
use std::str::FromStr;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use chrono::{DateTime, Datelike as _, Utc};
use uuid::Uuid;

use super::problem::{Kind, Problem};
use super::strict_json::unknown;
use crate::actors::submission::FieldFault;

/// The `{id}` of a path.
pub struct Id(pub Uuid);

impl FromRequest for Id {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let text = request.match_info().get("id").unwrap_or_default();
        ready(execution_id(text).map(Self).map_err(Into::into))
    }
}

/// The `{name}` of a path.
pub struct Named(pub String);

impl FromRequest for Named {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.match_info().get("name").unwrap_or_default().to_owned())))
    }
}

/// Reads the one form that ids are written in, so that one execution has one address.
fn execution_id(text: &str) -> Result<Uuid, Problem> {
    let refused = || {
        let shown: String = text.chars().take(64).collect();
        Problem::new(
            Kind::Malformed,
            format!("{shown:?} is not an id; one looks like 0192f0c1-2b3a-7c4d-8e5f-0123456789ab"),
        )
    };
    match text.len() {
        36 => Uuid::try_parse(text).map_err(|_| refused()),
        _ => Err(refused()),
    }
}

/// The query parameters, each of which must be asked for.
#[derive(Debug)]
pub struct Params {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<FieldFault>,
}

impl FromRequest for Params {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::read(request.query_string()).map_err(Into::into))
    }
}

impl Params {
    fn read(query: &str) -> Result<Self, Problem> {
        let given = web::Query::<Vec<(String, String)>>::from_query(query)
            .map_err(|error| Problem::new(Kind::Malformed, format!("the query cannot be read: {error}")))?
            .into_inner();
        Ok(Self { given, known: Vec::new(), faults: Vec::new() })
    }

    /// The text of a parameter; an empty one is an absent one.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone());
        let value = values.next();
        if values.next().is_some() {
            self.fault(name, "is given twice");
        }
        value.filter(|value| !value.is_empty())
    }

    /// A number within bounds.
    pub fn number<T>(&mut self, name: &'static str, least: T, most: T, default: T) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = self.text(name) else { return default };
        match text.trim().parse::<T>() {
            Ok(value) if value >= least && value <= most => value,
            _ => {
                self.fault(name, format!("must be a number from {least} to {most}, not {text:.40?}"));
                default
            }
        }
    }

    pub fn seconds(&mut self, name: &'static str, most: f64, default: f64) -> Duration {
        Duration::try_from_secs_f64(self.number(name, 0.0, most, default)).unwrap_or_default()
    }

    pub fn flag(&mut self, name: &'static str) -> bool {
        let Some(text) = self.text(name) else { return false };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.fault(name, format!("must be true or false, not {text:.40?}"));
                false
            }
        }
    }

    /// `view=full`, or the short view.
    pub fn full_view(&mut self) -> bool {
        match self.text("view").as_deref() {
            Some("full") => true,
            None | Some("summary" | "default") => false,
            Some(other) => {
                let message = format!("must be full or absent, not {other:.40?}");
                self.fault("view", message);
                false
            }
        }
    }

    pub fn id(&mut self, name: &'static str) -> Option<Uuid> {
        let text = self.text(name)?;
        match execution_id(&text) {
            Ok(id) => Some(id),
            Err(problem) => {
                self.fault(name, format!("is no id: {}", problem.detail()));
                None
            }
        }
    }

    pub fn moment(&mut self, name: &'static str) -> Option<DateTime<Utc>> {
        let text = self.text(name)?;
        // A plus sign that nobody escaped arrives as a space.
        match DateTime::parse_from_rfc3339(&text.replace(' ', "+")) {
            // Beyond that the database has no time, nor has the margin of an index.
            Ok(moment) if (0..=9999).contains(&moment.year()) => Some(moment.with_timezone(&Utc)),
            Ok(_) | Err(_) => {
                self.fault(name, format!("must be a time like 2026-01-31T12:00:00Z, not {text:.40?}"));
                None
            }
        }
    }

    pub fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.push(FieldFault { field: name.to_owned(), message: message.into(), is_size: false });
    }

    /// Call after the last parameter was asked for.
    ///
    /// # Errors
    /// Invalid, with every parameter that is wrong, repeated or never asked for.
    pub fn done(mut self) -> Result<(), Problem> {
        for (name, _) in &self.given {
            if !self.known.contains(&name.as_str()) {
                let message = match self.known.is_empty() {
                    true => "is not known: this path has no parameters".to_owned(),
                    false => unknown(name, &self.known),
                };
                let field = name.chars().take(100).collect();
                self.faults.push(FieldFault { field, message, is_size: false });
            }
        }
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Problem::invalid(self.faults)),
        }
    }
}

/// Where a page of a list is.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub limit: u32,
    pub offset: u32,
}

impl Page {
    pub fn of(params: &mut Params) -> Self {
        Self { limit: params.number("limit", 1, 1000, 100), offset: params.number("offset", 0, 1_000_000, 0) }
    }

    pub fn answer(self, items: Vec<serde_json::Value>, has_more: bool) -> serde_json::Value {
        serde_json::json!({
            "count": items.len(),
            "items": items,
            "limit": self.limit,
            "offset": self.offset,
            "has_more": has_more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_an_id_is_one() {
        let id = Uuid::now_v7();
        assert_eq!(execution_id(&id.to_string()).unwrap(), id);
        for text in
            ["", "abc", "../../etc/passwd", "\0", &id.simple().to_string(), &id.urn().to_string(), &"a".repeat(9999)]
        {
            let problem = execution_id(text).unwrap_err();
            assert_eq!(problem.kind(), Kind::Malformed);
            assert!(problem.detail().len() < 300);
        }
    }

    #[test]
    fn what_is_out_of_bounds_names_the_bounds_and_what_is_unknown_its_neighbour() {
        let mut params = Params::read("limit=0&ofset=3&wait=maybe").unwrap();
        Page::of(&mut params);
        params.flag("wait");
        let detail = params.done().unwrap_err().detail().to_owned();
        assert_eq!(
            detail,
            "limit must be a number from 1 to 1000, not \"0\"; wait must be true or false, not \"maybe\"; \
             ofset is not a known field; did you mean \"offset\"?"
        );
    }

    #[test]
    fn numbers_that_are_none_do_not_pass() {
        for query in ["timeout=nan", "timeout=inf", "timeout=-1", "timeout=1e9", "timeout=x", "timeout=1&timeout=2"] {
            let mut params = Params::read(query).unwrap();
            params.seconds("timeout", 300.0, 30.0);
            assert!(params.done().is_err(), "{query}");
        }
        let mut params = Params::read("timeout=1.5&at=2026-01-31T12:00:00%2B00:00").unwrap();
        assert_eq!(params.seconds("timeout", 300.0, 30.0), Duration::from_millis(1500));
        assert!(params.moment("at").is_some());
        assert!(params.done().is_ok());
    }
}

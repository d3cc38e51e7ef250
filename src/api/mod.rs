//! HTTP: reads what clients send, passes their wishes to the actors, shows what is on record.
//!
//! Writes happen only by messages to actors; reads only from projections, on the I/O runtime.
//! [`routes`] lists every path; a handler's [`caller::Caller`] says what it asks of its client;
//! [`problem`] is the only place that turns errors into answers.

mod app;
mod artifacts;
pub mod audit;
mod body;
mod builds;
mod caller;
mod dead_letter;
mod divergence;
mod dlq;
mod envelope;
mod events;
mod executions;
pub mod health;
mod images;
mod job_types;
mod jobs;
mod lineage;
mod metrics;
mod nodes;
mod openapi;
mod output;
mod params;
mod pauses;
mod pool;
mod problem;
mod rate_limit;
mod replay;
mod routes;
pub mod schedules;
mod secret_uses;
mod secrets;
mod server;
mod shred;
mod sse;
mod strict_json;
mod submit_body;
mod view;

pub use app::App;
pub use server::serve;

//! The REST API through a real server on real PostgreSQL; jobs run on the scripted engine.

mod access;
mod audit;
mod bad_input;
mod contract;
mod follow;
mod history;
mod idempotency;
mod lineage;
mod replay;
mod site;

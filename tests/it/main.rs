//! The integration tests, in one binary: real PostgreSQL, one database per test.

mod db;
mod store;

//! The network of jobs: hosts of the allowlist through the gate, and nothing else.

mod headers;
mod jobs;
mod outside;

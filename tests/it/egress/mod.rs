//! The network of jobs: hosts of the allowlist through the gate, and nothing else.

mod jobs;
mod outside;

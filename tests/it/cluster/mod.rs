//! What several nodes do together: roles, live output, builds, and one place for large blobs.

mod blobs;
mod manifests;
mod roles;
mod s3;

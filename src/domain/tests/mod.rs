//! The domain's laws: by example, by snapshot, and for whatever proptest comes up with.

mod laws;
mod lifecycles;
mod outcomes;
mod properties;
mod story;
mod strategies;

//! The domain's laws: by example, by snapshot, and for whatever proptest comes up with.

mod dependencies;
mod laws;
mod lifecycles;
mod outcomes;
mod properties;
mod schedules;
mod story;
mod strategies;

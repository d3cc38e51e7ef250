//! The attack suite: what hostile code tries, and what must come of it on every engine.
//!
//! Each case is a Python program below `cases/` with the verdict it must get and a proof, both
//! in `catalogue/`. It runs in a sandbox of its own while a [`neighbour`] works in another one
//! of the same engine, whose result must be right and in time. When all cases of an engine are
//! through, nothing of their sandboxes may be left on the host ([`remains`]).
//!
//! The verdicts are the table in `docs/security.md`. A run fails when that table says anything
//! else; with `UPDATE_DOCS=1` it is written instead. `ATTACKS=disk/` runs the cases
//! whose names contain that.

mod arena;
mod case;
mod catalogue;
mod neighbour;
mod remains;
mod stage;
mod suite;
mod table;

use arena::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_withstands_every_attack() {
    suite::run(Place::Native).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_runc_withstands_every_attack() {
    suite::run(Place::Runc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_runsc_withstands_every_attack() {
    suite::run(Place::Runsc).await;
}

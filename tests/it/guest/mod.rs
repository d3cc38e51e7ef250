//! Host and guest together: the embedded guest as PID 1 of a small sandbox, real Python in it,
//! and the host's session at the other end.

mod artifacts;
mod attacks;
mod fidelity;
mod life;
mod limits;
mod sandbox;
mod session;

//! The log: libvirt's levels, filters and outputs, over `tracing`.
//!
//! `main` installs it once with [`install`]; a reload or the administrator hands a new [`Plan`] to the [`Handle`]. The hard
//! thing is that a plan decides at the call site what is made at all, so a change of plan makes every
//! call site ask again.

mod layer;
mod plan;
mod sink;

pub use layer::{Handle, OutputError, install};
pub use plan::{Filter, Output, Plan, PlanError, Priority, Problem, Surroundings, Target};

//! The one way an operation goes: its steps, their reversals, and what became of it.

pub mod undo;

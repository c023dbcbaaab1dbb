//! What changes a guest as a whole: defining, renaming, removing, configuring, and what becomes of guests as
//! the host comes and goes.

pub mod autostart;
pub mod configure;
pub mod cut_off;
pub mod define;
mod overlaid;
pub mod preserve;
pub mod remove;
pub mod revert;

//! What changes a guest as a whole: defining, renaming, removing, configuring.

pub mod autostart;
pub mod configure;
pub mod cut_off;
pub mod define;
mod overlaid;
pub mod remove;
pub mod revert;

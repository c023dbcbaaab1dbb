//! What changes a guest as a whole: defining, renaming, removing, configuring.

pub mod autostart;
pub mod configure;
pub mod define;
pub mod revert;

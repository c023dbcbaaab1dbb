//! What changes a guest as a whole: defining, renaming, removing, configuring.

pub mod configure;
pub mod define;

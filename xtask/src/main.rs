//! `cargo xtask`: checks the rules of this repository that a tool can check.
fn main() {}

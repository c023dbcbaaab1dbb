//! `#[derive(Xml)]` for xmlform.

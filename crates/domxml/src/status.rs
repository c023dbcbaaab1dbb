//! The daemon's own file of a running guest.

use xmlform::Xml;

/// x
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct StatusDocument {}

//! `<lease>`: a lock that the guest holds while it runs.

use xmlform::Xml;

/// A lease on a lock space.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    #[xml(text_child)]
    pub lockspace: Option<String>,
    #[xml(text_child)]
    pub key: Option<String>,
    #[xml(child)]
    pub target: Option<LeaseTarget>,
}

/// File that backs the lock.
#[derive(Xml, Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTarget {
    #[xml(attr)]
    pub path: Option<String>,
    /// Bytes into the file.
    #[xml(attr)]
    pub offset: Option<u64>,
}

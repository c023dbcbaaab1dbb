//! From a client's text to a complete document, and a document in the forms that clients ask for.
//!
//! Called by `start`, `change` and `device`; it changes nothing.

pub(crate) mod abi;
pub(crate) mod batch;
pub mod config;
pub(crate) mod copy;
pub mod plan;
pub mod prepared;
pub mod resources;
pub mod schema;
pub mod scope;
pub mod xml;

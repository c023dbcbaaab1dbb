//! Facts of the host, read below a given root.

//! What surrounds a guest's process: cgroups, namespaces, labels, limits.

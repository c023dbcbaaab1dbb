//! `<metadata>` by namespace: what clients of the metadata calls see.

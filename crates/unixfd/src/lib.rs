//! Descriptor passing, peer credentials, pidfd, memfd: the one crate that may say `unsafe`.

//! Groups in made trees, as the kernel would show them.

//! One test binary; a module per module of the crate.
mod fleet;
mod publisher;
mod set;
mod support;

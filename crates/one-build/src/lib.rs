//! Nothing. This package is built with the server by `cargo run --release`, and turns on the features that the whole workspace has
//! of the crates that both need, so that what `cargo xtask test` built is found again instead of being built once more. What is
//! shipped (`--package portcullis-server`) is built without it.

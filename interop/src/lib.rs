//! Portcullis together with large crates of others, that the main workspace does not compile: examples and tests, nothing else.
//!
//! `examples/grpc.rs`: a service of tonic behind the layer, whose streams end with their tokens.

//! Real clients of others' making, against the real server.
mod grpc;
mod openidconnect;

//! The relay: follows the feed as one verifier, and serves it to many.
//!
//! The rules are in `feed::relay`, and can be read on one screen: whose age is told, and what is acknowledged. Here is what
//! those must not have: the task that follows (`tower`'s), the streams, the questions, and who may ask them. A relay has no
//! database and keeps nothing over a restart; whoever was below it opens the feed again.
//!
//! | module | holds |
//! |---|---|
//! | [`hub`] | the log as it is handed on, who is below, and what they have said |
//! | [`streams`] | one verifier's stream, at its own pace |
//! | [`registry`] | whom the server knows, kept for a minute as a digest |
//! | [`position`] | what can be told of a position without the server's keys |
//! | `sightings` | what services below have seen, until the server is told |
//! | [`routes`] | `/v1/feed` and what is below it, `/readyz`, `/metrics` |
//!
//! Limits, and what happens at them: instances, and instances of one client [503 `overloaded`, once those that are gone have
//! given way], streams of an instance [the oldest ends], connections and sockets [`portcullis_http::accept`], bodies [413], entries kept for resuming [a snapshot], snapshots kept for pages [409,
//! start again], questions to the server about credentials [503 `overloaded`], sightings that wait [left out].
pub mod hub;
pub mod position;
pub mod registry;
pub mod routes;
mod sightings;
pub mod streams;

pub use hub::{Hub, Settings};
pub use portcullis_feed::fleet::limit_of_client;
pub use routes::{ops_router, router};

//! Portcullis for services on tower and axum: a layer that verifies access tokens offline, the client that follows the
//! revocation feed, and a guard that ends open connections: server-sent events, WebSocket, gRPC (docs/streams.md).
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use portcullis_tower::{Config, Verified, Verifier, VerifyLayer};
//!
//! async fn whoami(verified: Verified) -> String {
//!     format!("{} by session {}\n", verified.claims().sub, verified.claims().sid)
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new("https://id.example", "https://api.example", "cli_…", "the client's secret");
//! let verifier = Verifier::start(config)?;
//! let admin = VerifyLayer::new(verifier.clone()).scope("admin");
//! let app = Router::new()
//!     .route("/whoami", get(whoami).layer(VerifyLayer::new(verifier.clone())))
//!     .route("/admin", get(whoami).layer(admin))
//!     .route("/readyz", get(async move || if verifier.is_fresh() { "ready" } else { "not yet" }));
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//! # Ok(()) }
//! ```
//!
//! One task per [`Verifier`] follows the feed and swaps in what it knows; requests read that and never wait: no lock that the
//! task holds, no network (except on routes under `introspect`, while not fresh), no database. When the last handle is
//! dropped, the task ends. The rules are not here: what a token is worth stands in `verify`, what freshness is in `feed`. Here
//! is what those crates must not have: sockets, tasks, the clock and randomness (both in `real.rs`, nowhere else).

mod answer;
mod body;
mod config;
mod dpop;
#[cfg(feature = "axum")]
mod extract;
mod follow;
pub mod following;
pub mod grpc;
mod guard;
mod guarded;
mod http1;
mod introspect;
mod judging;
mod layer;
mod metrics;
mod real;
mod sightings;
pub mod sse;
mod stripe;
mod verifier;
pub mod websocket;

pub use answer::Refusal;
pub use body::AnswerBody;
pub use config::{Config, ConfigError};
pub use dpop::Address;
pub use guard::{Guard, RenewError};
pub use guarded::{Guarded, WithLast};
pub use layer::{ResponseFuture, VerifyLayer, VerifyService};
pub use portcullis_feed::{Mono, Policies, Policy};
pub use portcullis_verify::{NotTheSame, Reason};
pub use portcullis_wire as wire;
pub use verifier::{Readiness, Rule, Verified, Verifier};

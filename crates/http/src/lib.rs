//! The outside surface: HTTP in, HTTP out.
//!
//! A handler here reads a request, calls one operation of `app`, and writes what it returned. No rule lives here: who may do
//! what, what an end ends and what a token says is decided further in. What this crate decides is what HTTP itself is about:
//! how a request must look ([`mod@request`]), where it comes from ([`mod@forwarded`], [`mod@origin`]), how a refusal reads ([`problem`]),
//! what a browser is told to keep ([`cookies`]), and how long a connection may take ([`accept`]).
//!
//! | module | holds |
//! |---|---|
//! | `api` | `/v1/accounts`, `/v1/sessions`, `/v1/recovery`, `/v1/me`: what people's own programs call |
//! | `admin` | `/v1/admin`: for administrators by token, and for operators on the admin socket |
//! | `feed` | `/v1/feed`: streams, acknowledgements and snapshot pages for verifiers |
//! | `oauth` | `/oauth2/introspect` and the metadata under `/.well-known` |
//! | `ops` | `/healthz`, `/readyz`, `/metrics`, `/openapi.json` |
//! | `pages` | `/sign-in` and `/account/devices`: HTML without a script |
//!
//! Every route is added through one table ([`mod@table`]), so that the metrics know it and a test can hold `openapi.json` against it.
pub mod accept;
pub mod config;
pub mod cookies;
pub mod feed;
pub mod forwarded;
pub mod origin;
pub mod pages;
pub mod probe;
pub mod problem;
pub mod request;
pub mod table;
pub mod traffic;

mod admin;
mod api;
mod front;
mod oauth;
mod openapi;
mod ops;
mod render;
mod revoking;

pub use accept::{Limits, Listener, Tls, serve, serve_any};
pub use config::HttpConfig;
pub use front::{About, about};
pub use traffic::Traffic;

use crate::request::Shared;
use crate::table::Table;
use portcullis_app::App;

/// Everything that the public listener serves.
pub fn router(app: App, config: HttpConfig) -> axum::Router {
    finish(public_table(config.ops), app, config, false)
}

/// The admin API for whoever can reach the admin socket: no token, the actor is `operator`.
pub fn operator_router(app: App, config: HttpConfig) -> axum::Router {
    let table = admin::operator_routes(admin::routes(Table::new()));
    finish(ops::description(ops::routes(table)), app, config, true)
}

/// `/healthz`, `/readyz` and `/metrics` alone, for a listener of their own.
pub fn ops_router(app: App, config: HttpConfig) -> axum::Router {
    finish(ops::routes(Table::new()), app, config, false)
}

/// Method and path of every route of the public listener.
pub fn routes() -> Vec<(String, String)> {
    public_table(true).list()
}

fn public_table(ops: bool) -> Table {
    let table = feed::routes(admin::routes(api::routes(Table::new())));
    let table = ops::description(pages::routes(oauth::routes(table)));
    if ops { ops::routes(table) } else { table }
}

fn finish(table: Table, app: App, config: HttpConfig, operator: bool) -> axum::Router {
    let (router, counts) = table.finish();
    let shared = Shared::new(app, config, operator, counts);
    router
        .fallback(front::no_such_route)
        .method_not_allowed_fallback(front::no_such_method)
        .layer(axum::middleware::from_fn_with_state(shared.clone(), front::front))
        .with_state(shared)
}

#[cfg(test)]
mod tests {
    /// A defect in a handler costs one request: it answers 503, it is counted, and the server goes on.
    #[tokio::test]
    async fn a_panic_is_a_fault_and_no_more() {
        use tower::ServiceExt as _;
        async fn broken() -> axum::response::Response {
            panic!("a defect")
        }
        let server = portcullis_testkit::TestServer::usual().await;
        let config = super::HttpConfig::new("https://id.example");
        let traffic = config.traffic.clone();
        let table = super::Table::new().get("/v1/broken", broken);
        let router = super::finish(table, server.app.clone(), config, false);
        for path in ["/v1/broken", "/v1/broken", "/v1/nothing"] {
            let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), if path.ends_with("broken") { 503 } else { 404 });
            assert_eq!(answer.headers().contains_key("retry-after"), path.ends_with("broken"));
            assert!(answer.headers().contains_key("strict-transport-security"), "the issuer is https");
        }
        assert_eq!(traffic.panics.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}

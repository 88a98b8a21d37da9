//! `portcullis demo-api`: a protected service as somebody else would write it, on the `tower` crate alone. It knows the
//! server's issuer and a verifier client, and judges every request by itself.
use super::remote;
use super::serve::{Signals, block_on};
use crate::cli::DemoArgs;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::settings::address;
use crate::telemetry;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use futures_util::Stream;
use http::{StatusCode, header};
use portcullis_tower::{Address, Config, Policy, Verified, Verifier, VerifyLayer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often `GET /stream` ticks.
const TICK: Duration = Duration::from_millis(250);

/// Serves until a signal ends it.
pub fn run(args: &DemoArgs) -> Outcome {
    telemetry::start(false, "info");
    let (config, policy) = config(args)?;
    let listen = address(&args.listen).map_err(|why| Failure::config(format!("--listen {:?}: {why}", args.listen)))?;
    let outside = args.address.as_deref().map(Address::parse).transpose().map_err(Failure::config)?;
    block_on(async move {
        let mut signals = Signals::listen()?;
        let demo = Demo::start(config, policy, listen, outside).await?;
        tracing::info!(address = %demo.address, "demo API; /readyz answers 200 once it is fresh");
        let name = signals.next().await;
        tracing::info!(signal = name, "ended");
        demo.stop().await;
        Ok(Exit::Done)
    })
}

fn config(args: &DemoArgs) -> Result<(Config, Policy), Failure> {
    let audience = args.audience.as_ref().unwrap_or(&args.follow.issuer);
    let config = remote::follow(&args.follow, audience, args.ca_file.as_deref())?.name("demo-api");
    let policy = args.policy.parse().map_err(|error| Failure::config(format!("--policy: {error}")))?;
    Ok((config, policy))
}

/// The service, running.
pub struct Demo {
    /// What it judges by.
    pub verifier: Verifier,
    /// Where it listens.
    pub address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Demo {
    /// Begins to follow the feed and to serve. `outside`: where clients reach it, when that is not where it listens.
    pub async fn start(
        config: Config,
        policy: Policy,
        listen: SocketAddr,
        outside: Option<Address>,
    ) -> Result<Self, Failure> {
        let verifier = Verifier::start(config).map_err(Failure::config)?;
        let listener = tokio::net::TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| Failure::config(format!("cannot listen on {listen}: {error}")))?;
        let address = listener.local_addr().map_err(|error| Failure::config(format!("listen: {error}")))?;
        let listening = || Address::parse(&format!("http://{address}")).map_err(Failure::config);
        let router = router(verifier.clone(), policy, outside.map_or_else(listening, Ok)?);
        // An answer is written whole; waiting for more to send with it only adds time.
        let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the demo API ended");
            }
        });
        Ok(Self { verifier, address, tasks })
    }

    /// Ends it, open streams too.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

fn router(verifier: Verifier, policy: Policy, address: Address) -> Router {
    let protected = Router::new().route("/whoami", get(whoami)).route("/stream", get(stream));
    let (ready, metrics) = (verifier.clone(), verifier.clone());
    protected
        .route_layer(VerifyLayer::new(verifier).policy(policy).address(address))
        .route("/readyz", get(async move || readyz(&ready)))
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.metrics())),
        )
}

async fn whoami(verified: Verified) -> Json<Value> {
    let claims = verified.claims();
    Json(json!({
        "sub": claims.sub, "sid": claims.sid, "rev": claims.rev, "epoch": claims.epoch, "scope": claims.scope,
    }))
}

/// Where an open stream stands.
enum At {
    Ticking(u64),
    Ended,
}

/// Ticks until the token that opened it no longer carries it; then says so, and ends.
async fn stream(verified: Verified) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let start = (verified.guard(), tokio::time::interval(TICK), At::Ticking(0));
    Sse::new(futures_util::stream::unfold(start, async |(guard, mut ticks, at)| {
        let At::Ticking(n) = at else { return None };
        let (event, at) = tokio::select! {
            biased;
            reason = guard.ended() => {
                let body = json!({ "code": reason.code().as_str() });
                (Event::default().event("ended").data(body.to_string()), At::Ended)
            }
            _ = ticks.tick() => (Event::default().event("tick").data(n.to_string()), At::Ticking(n + 1)),
        };
        Some((Ok(event), (guard, ticks, at)))
    }))
}

fn readyz(verifier: &Verifier) -> Response {
    let now = verifier.readiness();
    let status = if now.fresh { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "fresh": now.fresh, "applied": now.applied, "epoch": now.epoch, "connected": now.connected });
    let mut response = (status, Json(body)).into_response();
    if !now.fresh {
        response.headers_mut().insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

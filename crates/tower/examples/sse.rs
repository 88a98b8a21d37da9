//! Server-sent events under a guard: `GET /clock` ticks until its reader's token no longer carries it, and says why at its end;
//! `POST /clock/{id}` with a newer token renews the stream of that id, for events go one way only.
//!
//! `ISSUER=http://127.0.0.1:7400 CLIENT_ID=… CLIENT_SECRET=… cargo run -p portcullis-tower --example sse`
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Router, serve};
use futures_util::{Stream, StreamExt as _, stream};
use portcullis_tower::{Config, Guard, Reason, Verified, Verifier, VerifyLayer};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{convert::Infallible, env::var, error::Error, time::Duration};

const TICK: Duration = Duration::from_millis(200);

/// The guards of the streams that are open. Their ids need not be secret: a stream takes tokens of its own session only.
#[derive(Clone, Default)]
struct Streams {
    open: Arc<Mutex<HashMap<u64, Guard>>>,
    next: Arc<AtomicU64>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Guard>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, guard: &Guard) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, guard.clone());
        Entered { id, streams: self.clone() }
    }
}

/// Takes the guard out again, however the stream ends.
struct Entered {
    id: u64,
    streams: Streams,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

async fn clock(State(streams): State<Streams>, guard: Guard) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let entered = streams.enter(&guard);
    let hello = Event::default().event("hello").data(entered.id.to_string());
    let ticks = stream::unfold(entered, async |entered| {
        tokio::time::sleep(TICK).await;
        Some((Event::default().event("tick").data(""), entered))
    });
    let events = stream::iter([hello]).chain(ticks);
    let ended = |reason: Reason| Event::default().event("ended").data(reason.code().as_str());
    Sse::new(guard.wrap(events).with_last(ended).map(Ok))
}

async fn renew(
    State(streams): State<Streams>,
    Path(id): Path<u64>,
    verified: Verified,
) -> Result<StatusCode, (StatusCode, &'static str)> {
    let guard = streams.lock().get(&id).cloned().ok_or((StatusCode::NOT_FOUND, "not_found"))?;
    let renewed = guard.renew(verified).map_err(|error| error.code());
    let refused = |code: portcullis_tower::wire::Code| {
        (StatusCode::from_u16(code.status()).unwrap_or(StatusCode::FORBIDDEN), code.as_str())
    };
    renewed.map(|()| StatusCode::NO_CONTENT).map_err(refused)
}

/// The service.
pub fn app(verifier: Verifier) -> Router {
    Router::new()
        .route("/clock", get(clock))
        .route("/clock/{id}", post(renew))
        .route_layer(VerifyLayer::new(verifier))
        .with_state(Streams::default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = var("ISSUER")?;
    let verifier = Verifier::start(Config::new(&issuer, &issuer, var("CLIENT_ID")?, var("CLIENT_SECRET")?))?;
    Ok(serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app(verifier)).await?)
}

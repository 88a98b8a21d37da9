//! A whole protected service: `GET /whoami` for everybody who is signed in, `GET /reports` with the scope `reports` only, and
//! `GET /clock`, a stream that ends when its reader's session does.
//!
//! `ISSUER=http://127.0.0.1:7400 CLIENT_ID=… CLIENT_SECRET=… cargo run -p portcullis-tower --example service`
use axum::response::sse::{Event, Sse};
use axum::{Router, routing::get};
use futures_util::{Stream, StreamExt as _, stream};
use portcullis_tower::{Config, Verified, Verifier, VerifyLayer};
use std::{convert::Infallible, env::var, error::Error, time::Duration};

async fn whoami(verified: Verified) -> String {
    format!("{} by session {}\n", verified.claims().sub, verified.claims().sid)
}

async fn clock(verified: Verified) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::repeat(()).then(|()| tokio::time::sleep(Duration::from_secs(1)));
    Sse::new(verified.guard().wrap(ticks.map(|()| Ok(Event::default().data("tick")))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = var("ISSUER")?;
    let verifier = Verifier::start(Config::new(&issuer, &issuer, var("CLIENT_ID")?, var("CLIENT_SECRET")?))?;
    let guarded = VerifyLayer::new(verifier.clone());
    let app = Router::new()
        .route("/whoami", get(whoami).layer(guarded.clone()))
        .route("/clock", get(clock).layer(guarded.clone()))
        .route("/reports", get(whoami).layer(guarded.scope("reports")))
        .route("/metrics", get(async move || verifier.metrics()));
    Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?)
}

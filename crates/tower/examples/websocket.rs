//! A WebSocket under a guard. Browsers can send no headers with one, so the access token is the first message, and a newer one
//! may follow at any time: `{"token":"…"}`. Each is answered: `{"until":…}` with its `exp`, or `{"refused":"…"}`. The server ticks, and
//! closes with 1008 and the code as reason when the newest token shown no longer carries the connection.
//!
//! `ISSUER=http://127.0.0.1:7400 CLIENT_ID=… CLIENT_SECRET=… cargo run -p portcullis-tower --example websocket`
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::{Router, routing::get, serve};
use portcullis_tower::wire::Code;
use portcullis_tower::{Config, Guard, Policy, Rule, Verifier, websocket};
use serde_json::{Value, json};
use std::{env::var, error::Error, time::Duration};
use tokio::time::timeout;

const TICK: Duration = Duration::from_millis(200);
/// A connection that shows no token is nobody's.
const UNTIL_FIRST: Duration = Duration::from_secs(5);
/// How long a peer may take to close its side.
const UNTIL_CLOSED: Duration = Duration::from_secs(1);
const MAX_MESSAGE_BYTES: usize = 32 * 1024;

async fn upgrade(State(verifier): State<Verifier>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_MESSAGE_BYTES).on_upgrade(async move |mut socket| {
        if let Some(code) = served(&verifier, &mut socket).await {
            // Whoever does not read is not waited for.
            let _ = timeout(UNTIL_CLOSED, close(&mut socket, code)).await;
        }
    })
}

/// Serves one connection; why it must be closed, unless its peer went away.
async fn served(verifier: &Verifier, socket: &mut WebSocket) -> Option<Code> {
    let guard = match timeout(UNTIL_FIRST, opened(verifier, socket)).await.unwrap_or(Err(Code::TokenMissing)) {
        Ok(guard) => guard,
        Err(code) => return Some(code),
    };
    // Wherever the talk waits, for a message, for the peer to take one, the end comes through.
    tokio::select! {
        biased;
        reason = guard.ended() => Some(reason.code()),
        _ = talk(&guard, socket) => None,
    }
}

async fn opened(verifier: &Verifier, socket: &mut WebSocket) -> Result<Guard, Code> {
    let Some(Ok(Message::Text(first))) = socket.recv().await else { return Err(Code::TokenMissing) };
    let token = token_in(&first).ok_or(Code::TokenMissing)?;
    let verified = verifier.verify(&token, &Rule::default()).await.map_err(|refusal| refusal.code())?;
    Ok(verified.guard())
}

/// Until the peer goes away.
async fn talk(guard: &Guard, socket: &mut WebSocket) -> Result<(), axum::Error> {
    let mut ticks = tokio::time::interval(TICK);
    send(socket, json!({ "until": guard.verified().claims().exp })).await?;
    loop {
        tokio::select! {
            _ = ticks.tick() => send(socket, json!("tick")).await?,
            message = socket.recv() => match message {
                Some(message) => heard(guard, socket, message?).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn heard(guard: &Guard, socket: &mut WebSocket, message: Message) -> Result<(), axum::Error> {
    let Message::Text(text) = message else { return Ok(()) };
    let Some(token) = token_in(&text) else { return send(socket, json!({ "heard": text.as_str() })).await };
    let answer = match guard.renew_with(&token).await {
        Ok(()) => json!({ "until": guard.verified().claims().exp }),
        Err(error) => json!({ "refused": error.code().as_str() }),
    };
    send(socket, answer).await
}

fn token_in(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    message["token"].as_str().map(str::to_owned)
}

async fn send(socket: &mut WebSocket, what: Value) -> Result<(), axum::Error> {
    socket.send(Message::Text(what.to_string().into())).await
}

/// Says why, and waits for the peer to close its side: what it sent meanwhile would otherwise reset the connection, and the reason
/// be lost with it.
async fn close(socket: &mut WebSocket, code: Code) {
    let frame = CloseFrame { code: websocket::close_code(code), reason: code.as_str().into() };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        while let Some(Ok(_)) = socket.recv().await {}
    }
}

/// The service.
pub fn app(verifier: Verifier) -> Router {
    // No layer is around this route that would say it.
    verifier.declare(Policy::Closed);
    Router::new().route("/socket", get(upgrade)).with_state(verifier)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = var("ISSUER")?;
    let verifier = Verifier::start(Config::new(&issuer, &issuer, var("CLIENT_ID")?, var("CLIENT_SECRET")?))?;
    Ok(serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app(verifier)).await?)
}

//! The documented example of a WebSocket, with a real client.
use crate::server::{Server, unix_ms};
use futures_util::{SinkExt as _, StreamExt as _};
use portcullis_tower::Verifier;
use portcullis_tower::wire::{SessionId, Target};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

#[allow(dead_code, reason = "its main")]
#[path = "../../examples/websocket.rs"]
mod example;

const PATIENCE: Duration = Duration::from_secs(10);

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(address: &str) -> Self {
        Self(timeout(PATIENCE, connect_async(format!("ws://{address}/socket"))).await.unwrap().unwrap().0)
    }

    async fn say(&mut self, what: Value) {
        self.0.send(Message::text(what.to_string())).await.unwrap();
    }

    /// The next message that is no tick, or the close frame's code and reason.
    async fn hear(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) if text == "\"tick\"" => {}
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                _ => {}
            }
        }
    }
}

async fn served(verifier: Verifier) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, example::app(verifier)).await.unwrap() });
    address
}

#[tokio::test]
async fn renewed_by_a_message_and_closed_with_the_reason() {
    let server = Server::patient().await;
    let address = served(server.verifier().await).await;
    let mut short = server.claims(1);
    short.exp = unix_ms() / 1000 + 2;
    let short_token = server.signer.sign(&short);
    let (mut renewed, mut left_alone) = (Socket::open(&address).await, Socket::open(&address).await);
    for socket in [&mut renewed, &mut left_alone] {
        socket.say(json!({ "token": short_token })).await;
        assert_eq!(socket.hear().await, Ok(json!({ "until": short.exp })));
    }
    renewed.say(json!({ "token": server.token(2) })).await;
    assert_eq!(renewed.hear().await, Ok(json!({ "refused": "forbidden" })), "another session's");
    renewed.say(json!({ "token": "garbage" })).await;
    assert_eq!(renewed.hear().await, Ok(json!({ "refused": "token_malformed" })));
    let long = server.claims(1);
    renewed.say(json!({ "token": server.signer.sign(&long) })).await;
    assert_eq!(renewed.hear().await, Ok(json!({ "until": long.exp })));

    assert_eq!(left_alone.hear().await, Err((1008, "token_expired".into())));
    assert!(unix_ms() >= short.exp * 1000);
    renewed.say(json!("still there?")).await;
    assert_eq!(renewed.hear().await, Ok(json!({ "heard": "\"still there?\"" })));
    server.end(Target::Session(SessionId::from_bits(1)));
    assert_eq!(renewed.hear().await, Err((1008, "token_revoked".into())));
}

#[tokio::test]
async fn nobody_gets_in_without_a_token() {
    let server = Server::patient().await;
    let address = served(server.verifier().await).await;
    for (first, why) in [
        (json!("hello"), "token_missing"),
        (json!({ "token": 7 }), "token_missing"),
        (json!({ "token": "garbage" }), "token_malformed"),
    ] {
        let mut socket = Socket::open(&address).await;
        socket.say(first).await;
        assert_eq!(socket.hear().await, Err((1008, why.into())));
    }
    let mut silent = Socket::open(&address).await;
    assert_eq!(silent.hear().await, Err((1008, "token_missing".into())));
}

#[tokio::test]
async fn without_a_lease_it_says_to_try_again_later() {
    let server = Server::start().await;
    let address = served(server.verifier().await).await;
    let mut open = loop {
        let mut socket = Socket::open(&address).await;
        socket.say(json!({ "token": server.token(1) })).await;
        // A machine that stalls loses the lease by itself.
        if socket.hear().await.is_ok() {
            break socket;
        }
    };
    server.set_down(true);
    assert_eq!(open.hear().await, Err((1013, "not_fresh".into())), "nothing is wrong with the token");
}

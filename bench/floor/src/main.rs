//! The floor: what a refresh costs with the same HTTP stack, one signature and one grouped one-row update, and no rules.
//!
//! `cargo xtask bench smoke` holds the server against this program, on the same machine in the same run. It must stay what it
//! is: every check added here would flatter the server. There is no MAC, no view, no expiry, no log, no audit; the token names
//! its row and the version it expects, and the answer leaves after the commit is on disk.
//!
//! Usage: `portcullis-floor ADDRESS DATABASE ROWS` (rows are numbered from 1; the first token of row 7 is `7.0`).
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// As many decisions share one transaction at most.
const GROUP: usize = 32;
/// As many decisions wait for the writer at most.
const QUEUE: usize = 1024;

type Fault = Box<dyn Error + Send + Sync>;

struct Rotate {
    id: i64,
    version: i64,
    done: oneshot::Sender<bool>,
}

struct Floor {
    writer: mpsc::SyncSender<Rotate>,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

#[derive(Deserialize)]
struct Ask {
    refresh_token: String,
}

#[derive(Serialize)]
struct Answer {
    access_token: String,
    token_type: &'static str,
    expires_in: u32,
    refresh_token: String,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, database, rows] = arguments.as_slice() else {
        return Err("usage: portcullis-floor ADDRESS DATABASE ROWS".into());
    };
    let connection = open(database)?;
    connection.execute_batch(
        "CREATE TABLE family (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, at_ms INTEGER NOT NULL)",
    )?;
    for id in 1..=rows.parse::<i64>()? {
        connection.execute("INSERT INTO family VALUES (?1, 0, 0)", [id])?;
    }
    let (writer, waiting) = mpsc::sync_channel(QUEUE);
    std::thread::Builder::new().name("writer".into()).spawn(move || write(connection, &waiting))?;
    tokio::spawn(checkpoint(open(database)?));

    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())?;
    let app = Router::new()
        .route("/v1/sessions/refresh", post(refresh))
        .route("/readyz", get(|| async { "ready" }))
        .with_state(Arc::new(Floor { writer, key, random }));
    let listener = tokio::net::TcpListener::bind(address).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

async fn refresh(State(floor): State<Arc<Floor>>, Json(ask): Json<Ask>) -> Result<Json<Answer>, StatusCode> {
    let (id, version) = ask.refresh_token.split_once('.').ok_or(StatusCode::BAD_REQUEST)?;
    let id: i64 = id.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let version: i64 = version.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    let (done, committed) = oneshot::channel();
    floor.writer.try_send(Rotate { id, version, done }).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    match committed.await {
        Ok(true) => {}
        Ok(false) => return Err(StatusCode::CONFLICT),
        Err(_) => return Err(StatusCode::SERVICE_UNAVAILABLE),
    }
    let access_token = sign(&floor, id, version).ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let refresh_token = format!("{id}.{}", version + 1);
    Ok(Json(Answer { access_token, token_type: "Bearer", expires_in: 300, refresh_token }))
}

/// An access token of the usual size, signed with ES256.
fn sign(floor: &Floor, id: i64, version: i64) -> Option<String> {
    let now = now_ms() / 1000;
    let claims = serde_json::json!({
        "iss": "http://127.0.0.1:7400", "aud": "http://127.0.0.1:7400", "sub": format!("acc_{id:022}"), "sid": format!("ses_{id:022}"),
        "client_id": "portcullis", "scope": "account", "jti": format!("{id:011}{version:011}"), "iat": now, "exp": now + 300,
        "auth_time": now, "acr": "1", "amr": ["pwd"], "rev": 1, "epoch": 1,
    });
    let header = r#"{"alg":"ES256","kid":"key_1","typ":"at+jwt"}"#;
    let mut token = format!("{}.{}", B64.encode(header), B64.encode(serde_json::to_vec(&claims).ok()?));
    let signature = floor.key.sign(&floor.random, token.as_bytes()).ok()?;
    token.push('.');
    B64.encode_string(signature.as_ref(), &mut token);
    Some(token)
}

/// Takes what waits, never waits for more, and answers everybody after their shared commit.
fn write(mut connection: Connection, waiting: &mpsc::Receiver<Rotate>) {
    while let Ok(first) = waiting.recv() {
        let group: Vec<Rotate> = std::iter::once(first).chain(waiting.try_iter().take(GROUP - 1)).collect();
        // A fault drops the senders, which their callers see as 503.
        let Ok(outcomes) = commit(&mut connection, &group) else { continue };
        for (rotate, rotated) in group.into_iter().zip(outcomes) {
            let _ = rotate.done.send(rotated);
        }
    }
}

fn commit(connection: &mut Connection, group: &[Rotate]) -> rusqlite::Result<Vec<bool>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(group.len());
    {
        let mut update = transaction
            .prepare_cached("UPDATE family SET version = version + 1, at_ms = ?3 WHERE id = ?1 AND version = ?2")?;
        for rotate in group {
            outcomes.push(update.execute(params![rotate.id, rotate.version, now_ms()])? == 1);
        }
    }
    transaction.commit()?;
    Ok(outcomes)
}

/// Moves the log into the database apart from the writer (docs/decisions/0005).
async fn checkpoint(connection: Connection) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| {
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        });
    }
}

fn open(database: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(database)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

#[allow(clippy::disallowed_methods, reason = "a measuring program apart from the product: its clock is the machine's")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

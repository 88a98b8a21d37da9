//! Keys as an operator meets them: by command, across restarts, and when the server is killed while all of them are sealed anew.
mod services;

use crate::support::{ADMIN, Dir, PATIENCE, Ran, Server, run};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

fn keys(dir: &Dir, args: &[&str]) -> Ran {
    run(&dir.0, &[&["keys"], args, &["--data-dir", "data"]].concat())
}

fn states(dir: &Dir) -> Vec<(String, String)> {
    let listed = keys(dir, &["list", "--json"]).must(0, "").json();
    let text = |key: &Value, member: &str| key[member].as_str().unwrap().to_owned();
    listed["keys"].as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "state"))).collect()
}

fn kid(token: &str) -> String {
    use portcullis_tower::wire::jws::Compact;
    Compact::parse(token, "at+jwt").unwrap().kid.to_string()
}

async fn stop(mut server: Server) {
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().await, Some(0));
}

#[tokio::test]
async fn rotate_and_revoke() {
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--bound", "1s"]).await;
    let pairs = |states: &[(&str, &str)]| states.iter().map(|(k, s)| ((*k).into(), (*s).into())).collect::<Vec<_>>();
    assert_eq!(states(&dir), pairs(&[("key_1", "active"), ("key_2", "waiting"), ("key_3", "active")]));
    let first = server.access_token(ADMIN).await;
    assert_eq!(kid(&first), "key_1");
    // Not before the bound has passed since the next one was published.
    let rotated = async {
        while keys(&dir, &["rotate", "--use", "sig"]).code != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rotated).await.unwrap();
    keys(&dir, &["list"]).must(0, "verifying");
    let second = server.access_token(ADMIN).await;
    assert_eq!(kid(&second), "key_2");
    for token in [&first, &second] {
        assert_eq!(server.call("GET", "/v1/me", Some(token), None).await.0, 200);
    }
    keys(&dir, &["revoke", "key_2", "--reason", "it was in a log", "--wait"]).must(0, "enforced everywhere");
    let refused = server.call("GET", "/v1/me", Some(&second), None).await;
    assert_eq!((refused.0, refused.1["code"].as_str()), (401, Some("token_revoked")));
    assert_eq!(server.call("GET", "/v1/me", Some(&first), None).await.0, 200, "another key's token lives on");
    keys(&dir, &["revoke", "key_2", "--reason", "again"]).must(0, "0 sessions ended (rev 1)");
    keys(&dir, &["revoke", "key_3", "--reason", "r"]).must(1, "sign everyone out");
    keys(&dir, &["revoke", "key_99", "--reason", "r"]).must(1, "not_found");
    keys(&dir, &["revoke", "nonsense", "--reason", "r"]).must(1, "not_found");
    keys(&dir, &["rotate", "--use", "nonsense"]).must(2, "sig");
    keys(&dir, &["rotate", "--use", "mac"]).must(0, "key_6");
    // A dead key stays dead, and is listed nowhere, after a start too.
    stop(server).await;
    let server = Server::start(&dir).await;
    assert!(states(&dir).contains(&("key_2".into(), "dead".into())));
    let jwks = server.call("GET", "/.well-known/jwks.json", None, None).await.1.to_string();
    assert!(jwks.contains("key_1") && jwks.contains("key_4") && !jwks.contains("key_2") && !jwks.contains("key_3"));
    let third = server.access_token(ADMIN).await;
    assert!(["key_4", "key_5"].contains(&&*kid(&third)));
    assert_eq!(server.call("GET", "/v1/me", Some(&second), None).await.1["code"], "token_revoked");
}

#[tokio::test]
async fn another_algorithm() {
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--token-algorithm", "Ed25519"]).await;
    let metadata = server.call("GET", "/.well-known/openid-configuration", None, None).await.1;
    assert_eq!(metadata["portcullis_token_signing_alg_values_supported"], serde_json::json!(["Ed25519"]));
    let token = server.access_token(ADMIN).await;
    assert_eq!(server.call("GET", "/v1/me", Some(&token), None).await.0, 200);
    run(&dir.0, &["config", "check", "--token-algorithm", "HS256"]).must(2, "ES256, RS256, Ed25519");
    run(&dir.0, &["config", "check", "--token-algorithm", "none"]).must(2, "must be one of");
    run(&dir.0, &["config", "check", "--key-rotation", "1s"]).must(2, "10m");
    run(&dir.0, &["config", "check", "--key-rotation", "0"]).must(0, "");
}

#[tokio::test]
async fn the_master_key_is_replaced() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let place = dir.path("data/master.key");
    let old = std::fs::read_to_string(&place).unwrap();
    let new = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    dir.write("new.key", &format!("{new}\n"));
    dir.write("bad.key", "nonsense");
    keys(&dir, &["rotate-master", "--new-key-file", "bad.key"]).must(2, "32 bytes");
    keys(&dir, &["rotate-master", "--new-key-file", "missing.key"]).must(2, "cannot be read");
    keys(&dir, &["rotate-master", "--new-key-file", "new.key"]).must(0, "3 stored keys");
    keys(&dir, &["rotate-master", "--new-key-file", "new.key"]).must(0, "already");
    assert_eq!(std::fs::read_to_string(&place).unwrap().trim(), new);
    assert!(!dir.path("data/master.key.next").exists());
    let token = server.access_token(ADMIN).await;
    // By token nobody brings a master key.
    let body = serde_json::json!({ "new_key": new });
    let refused = server.call("POST", "/v1/admin/keys/rotate-master", Some(&token), Some(body)).await;
    assert_eq!((refused.0, refused.1["code"].as_str()), (403, Some("forbidden")));
    stop(server).await;

    // The old one opens nothing any more.
    dir.write("data/master.key", &old);
    let failed = Server::command(&dir, &[]).output().unwrap();
    Ran::from(failed).must(2, "the master key does not open the stored keys");
    // As a kill between commit and rename leaves it: the next one is found, and takes its place.
    dir.write("data/master.key.next", new);
    stop(Server::start(&dir).await).await;
    assert_eq!(std::fs::read_to_string(&place).unwrap().trim(), new);
    assert!(!dir.path("data/master.key.next").exists());
    // As a kill before the commit leaves it: the next one opens nothing, and goes.
    dir.write("data/master.key.next", &old);
    let server = Server::start(&dir).await;
    assert!(!dir.path("data/master.key.next").exists());
    assert_eq!(std::fs::read_to_string(&place).unwrap().trim(), new);
    assert!(!server.access_token(ADMIN).await.is_empty());
}

/// kill -9 while the master key is replaced, again and again: every start works, with the keys that were there.
#[tokio::test]
async fn killed_while_the_master_key_is_replaced() {
    let dir = Dir::new();
    let mut server = Server::start(&dir).await;
    let token = server.access_token(ADMIN).await;
    let mut replaced = 0;
    for round in 0..16u64 {
        dir.write("new.key", &format!("{round:042}A="));
        let mut command = crate::support::portcullis(
            &dir.0,
            &["keys", "rotate-master", "--new-key-file", "new.key", "--data-dir", "data"],
        );
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
        // From before the request has come until after the answer has left.
        tokio::time::sleep(Duration::from_micros(3_000 + round * 700)).await;
        server.process.signal(Signal::KILL);
        replaced += u32::from(child.unwrap().wait().unwrap().success());
        server.process.ended().await;
        server = Server::start(&dir).await;
        assert_eq!(server.call("GET", "/v1/me", Some(&token), None).await.0, 200, "round {round}");
        assert!(!dir.path("data/master.key.next").exists());
    }
    println!("{replaced} of 16 were answered");
}

/// kill -9 while keys are revoked, again and again, beside a verifier that lives through it: every start signs with a key that is
/// not dead and that the verifier knows, and what was said to be dead is dead.
#[tokio::test]
async fn killed_while_keys_are_revoked() {
    use crate::kept::{insist, serve, sign_in, turn, verifier};
    use portcullis_testkit::lasting_address;
    let _turn = turn().await;
    let dir = Dir::new();
    let to = lasting_address();
    let start = async || serve(&dir, to, &["--bound", "1s"]).await;
    let mut server = start().await;
    let verifier = verifier(to, &Server::verifier_client(&dir), "v");
    let mut said = 0;
    for round in 0..12u64 {
        let session = sign_in(to, ADMIN.0).await;
        services::takes(&verifier, &session.access).await;
        let dead = kid(&session.access);
        let args = ["keys", "revoke", &dead, "--reason", "a test", "--data-dir", "data"];
        let mut command = crate::support::portcullis(&dir.0, &args);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
        tokio::time::sleep(Duration::from_micros(3_000 + round * 900)).await;
        server.process.signal(Signal::KILL);
        let was_said = child.unwrap().wait().unwrap().success();
        said += u32::from(was_said);
        server.process.ended().await;
        server = start().await;
        let me = insist(to, "GET", "/v1/me", Some(&session.access), None).await;
        assert!(!was_said || me.code() == "token_revoked", "round {round}: {}", me.body);
        if me.status == 401 {
            services::refuses(&verifier, &session.access).await;
        }
        let next = sign_in(to, ADMIN.0).await;
        assert_eq!(kid(&next.access) == dead, me.status == 200, "round {round}");
        services::takes(&verifier, &next.access).await;
    }
    println!("{said} of 12 were answered");
}

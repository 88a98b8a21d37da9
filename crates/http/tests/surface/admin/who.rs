//! Who may administer: a token with the scope `admin` whose account still has the role; whoever can reach the admin socket.
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use portcullis_testkit::TestServer;
use serde_json::{Value, json};

#[tokio::test]
async fn only_administrators() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    for path in ["accounts", "clients", "revocations", "verifiers", "events", "events/stream", "webhooks", "keys"] {
        let path = format!("/v1/admin/{path}");
        server.client.get(&*path).send().await.expect_problem("token_missing");
        let refused = server.client.get(&*path).bearer(&ada.access).send().await.expect_problem("insufficient_scope");
        assert!(refused.header("www-authenticate").contains("insufficient_scope"));
    }
}

#[tokio::test]
async fn who_lost_the_role_or_the_session_is_refused_at_once() {
    let server = TestServer::usual().await;
    let first = server.admin().await;
    let body = json!({ "email": "second@example.test", "password": "another long password", "roles": ["admin"] });
    let made =
        server.client.post("/v1/admin/accounts").bearer(&first.access).json(&body).send().await.expect(201).json();
    let second = server.sign_in_as("second@example.test", "another long password", json!({})).await;
    server.client.get("/v1/admin/keys").bearer(&second.access).send().await.expect(200);
    let path = format!("/v1/admin/accounts/{}", made["id"].as_str().unwrap());
    let patched = server.client.patch(&*path).bearer(&first.access).json(&json!({ "roles": [] })).send().await;
    assert_eq!(patched.expect(200).json()["roles"], json!([]));
    // The token carries the old roles: it is stale, and what a refresh gives has the scope no more.
    let refused = server.client.get("/v1/admin/keys").bearer(&second.access).send().await;
    assert!([401, 403].contains(&refused.status.as_u16()), "{}", refused.text());
    let again =
        server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": second.refresh })).send().await;
    let again = again.expect(200).json();
    let token = again["access_token"].as_str().unwrap();
    let refused = server.client.get("/v1/admin/keys").bearer(token).send().await;
    assert_eq!(refused.status, 403, "{}", refused.text());
}

/// Who calls is asked before anything else: whatever a stranger sends, they hear only that they are one.
#[tokio::test]
async fn strangers_are_refused_before_path_query_and_body_are_read() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    for (method, path) in [
        ("POST", "/v1/admin/accounts"),
        ("PATCH", "/v1/admin/accounts/no-id"),
        ("POST", "/v1/admin/accounts/no-id/block"),
        ("POST", "/v1/admin/accounts/no-id/unblock"),
        ("DELETE", "/v1/admin/accounts/no-id/sessions"),
        ("DELETE", "/v1/admin/sessions/no-id"),
        ("POST", "/v1/admin/revocations"),
        ("GET", "/v1/admin/revocations/no-rev?limit=x"),
        ("GET", "/v1/admin/verifiers?limit=x"),
        ("POST", "/v1/admin/clients"),
        ("PATCH", "/v1/admin/clients/no-id"),
        ("GET", "/v1/admin/events/stream?after=x"),
        ("POST", "/v1/admin/webhooks"),
        ("PATCH", "/v1/admin/webhooks/no-id"),
        ("DELETE", "/v1/admin/webhooks/no-id"),
        ("POST", "/v1/admin/webhooks/no-id/secret"),
        ("POST", "/v1/admin/webhooks/no-id/test"),
        ("GET", "/v1/admin/webhooks/no-id/messages?limit=x"),
        ("POST", "/v1/admin/webhooks/no-id/replay"),
    ] {
        let call = || server.client.call(method.parse().unwrap(), path).text("application/json", "{");
        call().send().await.expect_problem("token_missing");
        call().bearer(&ada.access).send().await.expect_problem("insufficient_scope");
    }
    for (method, path) in [("PATCH", "no-id"), ("DELETE", "no-id"), ("DELETE", "?except=x"), ("GET", "?limit=x")] {
        let call = server.client.call(method.parse().unwrap(), format!("/v1/me/sessions/{path}").replace("/?", "?"));
        call.text("text/plain", "{").send().await.expect_problem("token_missing");
    }
    for (method, path) in [("GET", "/v1/feed?zz=1"), ("POST", "/v1/feed/acks"), ("GET", "/v1/feed/snapshot?part=x")] {
        let call = server.client.call(method.parse().unwrap(), path);
        call.text("text/plain", "{").send().await.expect_problem("invalid_credentials");
    }
}

/// The operator's socket needs no token, and its acts are recorded as the operator's.
#[tokio::test]
async fn an_operator_on_the_admin_socket() {
    let mut server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let socket = server.operator_socket();
    let call = async |method: &str, path: &str, body: Option<Value>| -> (u16, Value) {
        let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("host", "admin");
        let request = request.header("content-type", "application/json");
        let body = Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default()));
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap())
    };
    let (status, list) = call("GET", "/v1/admin/accounts", None).await;
    assert_eq!((status, list["accounts"].as_array().map(Vec::len)), (200, Some(2)));
    let path = format!("/v1/admin/accounts/{account}/block");
    let (status, blocked) = call("POST", &path, Some(json!({ "reason": "by hand" }))).await;
    assert_eq!((status, blocked["ended"].as_u64()), (200, Some(0)), "{blocked}");
    let (_, told) = call("GET", &format!("/v1/admin/accounts/{account}"), None).await;
    assert_eq!((told["status"].as_str(), told["block"]["actor"].as_str()), (Some("blocked"), Some("operator")));
    // Only the admin API is there.
    assert_eq!(call("GET", "/v1/me", None).await.0, 404);
    assert_eq!(call("GET", "/healthz", None).await.0, 200);
}

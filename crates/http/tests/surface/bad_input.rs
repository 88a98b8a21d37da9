//! Requests that cannot be read: each gets its own clear error, and nothing changes.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Options, TestServer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let server = TestServer::usual().await;
    let post = |body: &'static str| server.client.post("/v1/sessions").text("application/json", body).send();
    for (body, told) in [
        ("", "EOF"),
        ("{", "line 1 column 1"),
        ("[]", "line 1"),
        ("null", "line 1"),
        ("\"text\"", "line 1"),
        (r#"{"identifier": 1, "password": "x"}"#, "integer `1`"),
        (r#"{"identifier": "a", "password": ["x"]}"#, "line 1"),
        (r#"{"identifier": "a", "password": "b", "admin": true}"#, "unknown member `admin`"),
        (r#"{"identifier": "a", "identifier": "b", "password": "c"}"#, "twice"),
        (r#"{"identifier": "a", "password": "b"} {}"#, "trailing"),
        ("{\"identifier\": \"a\u{1}\"}", "control character"),
        ("{'identifier': 'a'}", "line 1 column 2"),
    ] {
        let problem = post(body).await.expect_problem("malformed");
        assert!(problem.json()["detail"].as_str().unwrap().contains(told), "{body}: {}", problem.text());
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    server.client.post("/v1/sessions").text("application/json", deep).send().await.expect_problem("malformed");
    let not_utf8 = server.client.post("/v1/sessions").text("application/json", &b"{\"identifier\": \"\xff\"}"[..]);
    not_utf8.send().await.expect_problem("malformed");
}

#[tokio::test]
async fn every_body_refuses_unknown_members() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let account = server.sign_up("ada@example.test").await;
    let (id, secret) = server.new_client("verifier").await;
    for path in [
        "/v1/accounts".to_owned(),
        "/v1/sessions".into(),
        "/v1/sessions/refresh".into(),
        "/v1/admin/accounts".into(),
        format!("/v1/admin/accounts/{account}/block"),
        format!("/v1/admin/accounts/{account}/unblock"),
        "/v1/admin/revocations".into(),
        "/v1/admin/clients".into(),
    ] {
        let call = server.client.post(&*path).bearer(&admin.access).json(&json!({ "surprise": 1 }));
        let problem = call.send().await.expect_problem("malformed");
        assert!(problem.text().contains("surprise"), "{path}: {}", problem.text());
    }
    let patch = server.client.patch(format!("/v1/admin/accounts/{account}")).bearer(&admin.access);
    patch.json(&json!({ "surname": "x" })).send().await.expect_problem("malformed");
    let patch = server.client.patch(format!("/v1/admin/clients/{id}")).bearer(&admin.access);
    patch.json(&json!({ "kind": "public" })).send().await.expect_problem("malformed");
    let acks = server.client.post("/v1/feed/acks").basic((&id, &secret)).json(&json!({ "surprise": 1 }));
    acks.send().await.expect_problem("malformed");
}

#[tokio::test]
async fn every_route_refuses_unknown_parameters() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    for path in [
        "/v1/me",
        "/v1/me/sessions",
        "/v1/admin/accounts",
        "/v1/admin/clients",
        "/v1/admin/revocations",
        "/v1/admin/verifiers",
        "/v1/admin/events",
        "/v1/admin/keys",
    ] {
        let problem = server.client.get(format!("{path}?surprise=1")).bearer(&admin.access).send().await;
        assert!(problem.expect_problem("malformed").text().contains("surprise"), "{path}");
        server
            .client
            .get(format!("{path}?limit=1&limit=2"))
            .bearer(&admin.access)
            .send()
            .await
            .expect_problem("malformed");
    }
    let typo = server.client.delete("/v1/me/sessions?excpet=current").bearer(&admin.access).send().await;
    typo.expect_problem("malformed");
    server.client.get("/v1/me").bearer(&admin.access).send().await.expect(200);
}

#[tokio::test]
async fn sizes_types_paths_and_methods() {
    let server = TestServer::usual().await;
    let fits = json!({ "identifier": "a", "password": "x".repeat(60_000) });
    server.client.post("/v1/sessions").json(&fits).send().await.expect_problem("invalid_credentials");
    let large = json!({ "identifier": "a", "password": "x".repeat(66_000) });
    server.client.post("/v1/sessions").json(&large).send().await.expect_problem("too_large");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let call = server.client.post("/v1/sessions").text(kind, r#"{"identifier":"a","password":"b"}"#);
        call.send().await.expect_problem("unsupported_media_type");
    }
    let call = server
        .client
        .post("/v1/sessions")
        .text("Application/JSON; charset=utf-8", r#"{"identifier":"a","password":"b"}"#);
    call.send().await.expect_problem("invalid_credentials");
    for path in ["/", "/v1", "/v1/", "/v1/me/", "/v2/me", "/v1/admin/accounts/", "/.well-known/", "/%00", "/v1//me"] {
        server.client.get(path).send().await.expect_problem("not_found");
    }
    let wrong = server.client.patch("/v1/accounts").send().await.expect_problem("method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{:?}", wrong.headers);
    server.client.post("/v1/me").send().await.expect_problem("method_not_allowed");
}

#[tokio::test]
async fn hostile_headers_change_nothing() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
    for (name, value) in [
        ("user-agent", &b"<script>alert(1)</script>"[..]),
        ("user-agent", b"\xff\xfe"),
        ("user-agent", &[b'x'; 8000]),
        ("x-forwarded-for", b"'; DROP TABLE accounts; --"),
        ("forwarded", b"for=\"[::1\""),
        ("x-request-id", b"../../etc/passwd"),
        ("cookie", b"=;=;;;__Host-portcullis_session=;"),
        ("x-http-method-override", b"DELETE"),
    ] {
        let answer = server.client.post("/v1/sessions").json(&body).header(name, value).send().await.expect(201);
        assert_eq!(answer.json()["session"]["ip"], "127.0.0.1");
        assert!(!answer.text().contains("<script>"), "{name}");
        assert!(!answer.header("x-request-id").contains('/'));
    }
    for authorization in ["Bearer", "Bearer ", "Bearer  a", "bearer\ta", "Basic", "Digest a=b", ""] {
        let answer = server.client.get("/v1/me").header("authorization", authorization).send().await;
        assert_eq!(answer.status, 401, "{authorization}");
    }
    // Which of two tokens counts is no question to be answered differently here and at a proxy.
    server.sign_up("two@example.test").await;
    let token = format!("Bearer {}", server.sign_in("two@example.test").await.access);
    server.client.get("/v1/me").header("authorization", &*token).send().await.expect(200);
    for other in ["Bearer x", "Basic eDp5", &*token] {
        let twice = server.client.get("/v1/me").header("authorization", &*token).header("authorization", other);
        twice.send().await.expect_problem("token_malformed");
    }
    let odd = server.client.get("/v1/me").header("authorization", b"Bearer \xff");
    odd.send().await.expect_problem("token_malformed");
}

#[tokio::test]
async fn heads_have_a_limit() {
    let server = TestServer::usual().await;
    let whole = async |head: String| {
        let mut stream = tokio::net::TcpStream::connect(server.authority()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is reset while we still write has said enough.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let raw = async |head: String| whole(head).await.lines().next().unwrap_or("").to_owned();
    let long =
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n", "x".repeat(40_000));
    let answer = raw(long).await;
    assert!(answer.contains("431") || answer.is_empty(), "{answer}");
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    let answer = raw(format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{many}\r\n")).await;
    assert!(answer.contains("431"), "{answer}");
    let answer = raw("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into()).await;
    assert!(answer.contains("200"), "{answer}");
    assert!(raw("\u{16}\u{3}\u{1}garbage\r\n\r\n".into()).await.contains("400"));
    // A body without a length is measured as it comes.
    let chunk = format!("{:x}\r\n{}\r\n", 70_000, "x".repeat(70_000));
    let head = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let answer = raw(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n")).await;
    assert!(answer.contains("413"), "{answer}");
    // Two lengths, or a length and chunks: no request is smuggled behind another.
    let smuggled = "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd";
    assert!(raw(smuggled.into()).await.contains("400"));
    let both =
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let whole = whole(format!("{both}GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    assert_eq!(whole.matches("HTTP/1.1 ").count(), 1, "{whole}");
}

#[tokio::test]
async fn tokens_of_another_server_are_no_tokens() {
    let (one, other) = (TestServer::usual().await, TestServer::start(Options::default()).await);
    let foreign = other.admin().await;
    one.client.get("/v1/me").bearer(&foreign.access).send().await.expect_problem("token_malformed");
    one.client.get("/v1/admin/accounts").bearer(&foreign.access).send().await.expect_problem("token_malformed");
    let body = json!({ "refresh_token": foreign.refresh });
    one.client.post("/v1/sessions/refresh").json(&body).send().await.expect_problem("refresh_invalid");
}

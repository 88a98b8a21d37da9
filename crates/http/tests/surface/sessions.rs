//! `POST /v1/sessions` and `POST /v1/sessions/refresh`, by body; by cookie see `cookies`.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Options, TestServer};
use serde_json::json;

#[tokio::test]
async fn signing_in_gives_a_session_and_tokens() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let body = json!({ "identifier": " ada@EXAMPLE.test", "password": PASSWORD, "device_name": "Ada's phone" });
    let call = server.client.post("/v1/sessions").json(&body);
    let answer = call.header("x-forwarded-for", "203.0.113.1").send().await.expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.set_cookies().is_empty());
    let told = answer.json();
    assert_eq!((told["token_type"].as_str(), told["scope"].as_str()), (Some("Bearer"), Some("account")));
    let life = told["expires_in"].as_i64().unwrap();
    assert!((240..=360).contains(&life), "{life}");
    let session = &told["session"];
    assert_eq!((session["device_name"].as_str(), session["kind"].as_str()), (Some("Ada's phone"), Some("app")));
    assert_eq!((session["account_id"].as_str(), session["current"].as_bool()), (Some(&*account), Some(true)));
    // No proxy is trusted, so the header names nobody.
    assert_eq!(session["ip"], "127.0.0.1");
    let admin = server.admin().await;
    let me = server.client.get("/v1/me").bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(me["scope"], "account admin");
}

#[tokio::test]
async fn the_device_name_comes_from_the_browser_when_none_is_given() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let call = server.client.post("/v1/sessions").json(&body).header("user-agent", agent);
    assert_eq!(call.send().await.expect(201).json()["session"]["device_name"], "Firefox on Linux");
}

#[tokio::test]
async fn the_address_comes_from_trusted_proxies_only() {
    let options = Options {
        config: Box::new(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]),
        ..Options::default()
    };
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
    let call = server.client.post("/v1/sessions").json(&body).header("x-forwarded-for", "1.2.3.4, 203.0.113.9");
    let answer = call.header("x-request-id", "from-the-proxy.7").send().await.expect(201);
    assert_eq!(answer.json()["session"]["ip"], "203.0.113.9");
    assert_eq!(answer.header("x-request-id"), "from-the-proxy.7");
    // An id that is no id is not taken over.
    let answer = server.client.get("/healthz").header("x-request-id", "a b\"c").send().await;
    assert!(!answer.header("x-request-id").contains('"') && !answer.header("x-request-id").is_empty());
}

#[tokio::test]
async fn unknown_wrong_and_blocked_with_a_wrong_password_read_alike() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    let attempt = async |identifier: &str, password: &str| {
        let body = json!({ "identifier": identifier, "password": password });
        server.client.post("/v1/sessions").json(&body).send().await
    };
    let wrong = attempt("ada@example.test", "not the password").await.expect_problem("invalid_credentials").json();
    let unknown = attempt("nobody@example.test", "not the password").await.expect_problem("invalid_credentials").json();
    let block = format!("/v1/admin/accounts/{account}/block");
    server.client.post(block).bearer(&admin.access).json(&json!({ "reason": "spam" })).send().await.expect(200);
    let blocked = attempt("ada@example.test", "not the password").await.expect_problem("invalid_credentials").json();
    for other in [unknown, blocked] {
        for member in ["type", "title", "status", "detail", "code"] {
            assert_eq!(wrong[member], other[member]);
        }
        assert_eq!(wrong.as_object().unwrap().len(), other.as_object().unwrap().len());
    }
    // Only who knows the password hears of the block.
    let told = attempt("ada@example.test", PASSWORD).await.expect_problem("account_blocked").json();
    assert_eq!(told["reason"], "spam");
}

#[tokio::test]
async fn a_second_factor_and_a_strange_transport_are_refused_in_words() {
    let server = TestServer::usual().await;
    for (body, field) in [
        (json!({ "challenge": "x", "factor": "totp", "code": "123456" }), "challenge"),
        (json!({ "identifier": "a", "password": "b", "transport": "pigeon" }), "transport"),
    ] {
        let problem = server.client.post("/v1/sessions").json(&body).send().await.expect_problem("invalid_value");
        assert_eq!(problem.json()["field"], field);
    }
    let missing = json!({ "identifier": "a" });
    let problem = server.client.post("/v1/sessions").json(&missing).send().await.expect_problem("malformed");
    assert!(problem.text().contains("password"));
}

#[tokio::test]
async fn a_refresh_repeated_at_once_gives_the_same_successor() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let first = server.sign_in("ada@example.test").await;
    let refresh = async |token: &str| {
        let body = json!({ "refresh_token": token });
        server.client.post("/v1/sessions/refresh").json(&body).send().await
    };
    let one = refresh(&first.refresh).await.expect(200).json();
    let two = refresh(&first.refresh).await.expect(200).json();
    assert_eq!(one["refresh_token"], two["refresh_token"]);
    assert_ne!(one["refresh_token"], first.refresh);
    assert_eq!(one["session"]["id"], first.sid);
    server.client.get("/v1/me").bearer(one["access_token"].as_str().unwrap()).send().await.expect(200);

    // Once the successor was used, the first token can only come from a copy: the session ends, and only that session.
    let other = server.sign_in("ada@example.test").await;
    refresh(one["refresh_token"].as_str().unwrap()).await.expect(200);
    refresh(&first.refresh).await.expect_problem("refresh_reused");
    refresh(one["refresh_token"].as_str().unwrap()).await.expect_problem("session_ended");
    refresh(&other.refresh).await.expect(200);
    server.client.get("/v1/me").bearer(&first.access).send().await.expect_problem("token_revoked");
    server.client.get("/v1/me").bearer(&other.access).send().await.expect(200);
}

#[tokio::test]
async fn many_refreshes_of_one_token_at_once_are_all_answered_with_one_successor() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let first = server.sign_in("ada@example.test").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let call = server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": first.refresh }));
        calls.spawn(call.send());
    }
    let mut successors = std::collections::BTreeSet::new();
    while let Some(answer) = calls.join_next().await {
        successors.insert(answer.unwrap().expect(200).json()["refresh_token"].as_str().unwrap().to_owned());
    }
    assert_eq!(successors.len(), 1);
}

#[tokio::test]
async fn idle_and_absolute_expiry_end_a_session() {
    let mut options = Options::default();
    options.settings.rules.idle_ttl = 3_600_000;
    options.settings.rules.absolute_ttl = 10_000_000;
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let idle = server.sign_in("ada@example.test").await;
    let mut used = server.sign_in("ada@example.test").await.refresh;
    let refresh = async |token: &str| {
        let body = json!({ "refresh_token": token });
        server.client.post("/v1/sessions/refresh").json(&body).send().await
    };
    for _ in 0..3 {
        server.advance(3_000_000);
        used = refresh(&used).await.expect(200).json()["refresh_token"].as_str().unwrap().to_owned();
    }
    refresh(&idle.refresh).await.expect_problem("refresh_expired");
    server.advance(1_000_001);
    refresh(&used).await.expect_problem("refresh_expired");
}

#[tokio::test]
async fn tokens_that_are_none_are_refused_each_in_its_way() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let signed_in = server.sign_in("ada@example.test").await;
    let refresh = async |token: &str| {
        let body = json!({ "refresh_token": token });
        server.client.post("/v1/sessions/refresh").json(&body).send().await
    };
    let mut flipped = signed_in.refresh.clone().into_bytes();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let truncated = &signed_in.refresh[..signed_in.refresh.len() - 3];
    for token in
        ["", "pcr_", "garbage", truncated, &String::from_utf8(flipped).unwrap(), &"x".repeat(20_000), &signed_in.access]
    {
        refresh(token).await.expect_problem("refresh_invalid");
    }
    // None of these has harmed the real one.
    refresh(&signed_in.refresh).await.expect(200);
    server.client.post("/v1/sessions/refresh").send().await.expect_problem("refresh_invalid");
    server.client.post("/v1/sessions/refresh").json(&json!({})).send().await.expect_problem("malformed");
}

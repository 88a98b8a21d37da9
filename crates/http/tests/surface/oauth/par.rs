//! Requests that are pushed before the browser comes (RFC 9126).
use portcullis_testkit::application::{Application, REDIRECT, encode, request};
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, TestServer, parameter};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

async fn push(server: &TestServer, app: &Application, more: &[(&str, &str)]) -> Answer {
    let form = request(app, more);
    let call = server.client.post("/oauth2/par").form(&form);
    if app.secret.is_empty() { call.send().await } else { call.basic((&app.id, &app.secret)).send().await }
}

fn address(answer: Answer) -> String {
    let answer: Value = answer.expect(201).json();
    assert_eq!(answer["expires_in"], 90);
    answer["request_uri"].as_str().unwrap().to_owned()
}

async fn come(server: &TestServer, app: &Application, cookie: &str, uri: &str, more: &[(&str, &str)]) -> Answer {
    let query = encode(&[&[("client_id", app.id.as_str()), ("request_uri", uri)], more].concat());
    server
        .client
        .get(format!("/oauth2/authorize?{query}"))
        .header("cookie", format!("__Host-portcullis_session={cookie}"))
        .send()
        .await
}

#[tokio::test]
async fn a_pushed_request_gives_one_code() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    for kind in ["confidential", "public"] {
        let app = server
            .application(kind, json!({ "require_pushed_authorization_requests": true, "consent": "implied" }))
            .await;
        let cookie = server.page_sign_in(ADA).await;
        let uri = address(push(&server, &app, &[("scope", "openid read")]).await);
        assert!(uri.starts_with("urn:ietf:params:oauth:request_uri:"), "{uri}");
        // What else the browser brings counts for nothing (RFC 9126 §4).
        let evil = [("scope", "openid email"), ("redirect_uri", "https://evil.example"), ("state", "another")];
        let done = come(&server, &app, &cookie, &uri, &evil).await.expect(303);
        let place = done.header("location").to_owned();
        assert!(place.starts_with(REDIRECT), "{place}");
        assert_eq!(parameter(&place, "state").as_deref(), Some("a state"));
        let tokens = server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(200).json();
        assert_eq!(tokens["scope"], "openid read");
        // Used up.
        let again = come(&server, &app, &cookie, &uri, &[]).await.expect(400);
        assert!(again.text().contains("invalid_request_uri") && again.header("location").is_empty());
        // Without a push nothing goes (RFC 9126 §6).
        let bare = server.authorize(&app, &cookie, &[]).await.expect(303);
        assert_eq!(parameter(bare.header("location"), "error").as_deref(), Some("invalid_request"));
    }
}

#[tokio::test]
async fn only_one_of_many_browsers_gets_the_code() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({ "consent": "implied" })).await;
    let cookie = server.page_sign_in(ADA).await;
    let uri = address(push(&server, &app, &[]).await);
    let all = tokio::join!(
        come(&server, &app, &cookie, &uri, &[]),
        come(&server, &app, &cookie, &uri, &[]),
        come(&server, &app, &cookie, &uri, &[]),
    );
    let codes =
        [&all.0, &all.1, &all.2].iter().filter(|answer| parameter(answer.header("location"), "code").is_some()).count();
    assert_eq!(codes, 1);
    assert!([&all.0, &all.1, &all.2].iter().all(|answer| [303, 400].contains(&answer.status.as_u16())));
}

#[tokio::test]
async fn a_pushed_request_lives_as_long_as_somebody_signs_in() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    // Nobody came in time.
    let uri = address(push(&server, &app, &[]).await);
    server.advance(91_000);
    let late = come(&server, &app, "", &uri, &[]).await.expect(400);
    assert!(late.text().contains("has expired"));
    // Somebody came, and took some minutes at the sign-in page and at the question.
    let uri = address(push(&server, &app, &[]).await);
    server.advance(80_000);
    let place = come(&server, &app, "", &uri, &[]).await.expect(303).header("location").to_owned();
    let page = server.client.get(&*place).send().await.expect(200);
    assert!(!page.header("content-security-policy").contains("form-action"), "it leads on to the application");
    server.advance(300_000);
    let back = parameter(&place, "return_to").unwrap();
    let form = encode(&[("identifier", ADA), ("password", PASSWORD), ("return_to", &back)]);
    let signed_in = server.client.post("/sign-in").header("origin", &server.issuer).form(&form).send().await;
    let cookie = signed_in.expect(303).cookie("__Host-portcullis_session").unwrap();
    let asked = server.client.get(&*back).header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
    let page = asked.expect(200).text();
    server.advance(300_000);
    let done = server.decide(&page, &cookie, "allow").await.expect(303);
    assert!(parameter(done.header("location"), "code").is_some());
    // The mark is of this request only, and not for ever.
    let other = address(push(&server, &app, &[]).await);
    server.advance(91_000);
    let mark = parameter(&back, "portcullis_seen").unwrap();
    come(&server, &app, &cookie, &other, &[("portcullis_seen", &mark)]).await.expect(400);
    let slow = address(push(&server, &app, &[]).await);
    let place = come(&server, &app, "", &slow, &[]).await.expect(303).header("location").to_owned();
    server.advance(21 * 60_000);
    server.client.get(parameter(&place, "return_to").unwrap()).send().await.expect(400);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_at_the_push() {
    let server = TestServer::usual().await;
    let app = server.application("confidential", json!({})).await;
    for (more, error) in [
        (vec![("redirect_uri", "https://evil.example/cb")], "invalid_request"),
        (vec![("response_type", "token")], "unsupported_response_type"),
        (vec![("code_challenge", "")], "invalid_request"),
        (vec![("code_challenge_method", "plain")], "invalid_request"),
        (vec![("scope", "admin")], "invalid_scope"),
        (vec![("resource", "https://other.example")], "invalid_target"),
        (vec![("request_uri", "urn:ietf:params:oauth:request_uri:x")], "invalid_request"),
        (vec![("request", "eyJ")], "request_not_supported"),
        (vec![("dpop_jkt", "short")], "invalid_request"),
        (vec![("state", &"x".repeat(3000))], "invalid_request"),
        (vec![("state", "one"), ("state", "two")], "invalid_request"),
    ] {
        let answer = push(&server, &app, &more).await.expect(400).json();
        assert_eq!(answer["error"], error, "{more:?}");
    }
    // A client with a secret shows it.
    let named = server.client.post("/oauth2/par").form(&request(&app, &[])).send().await.expect(401);
    assert_eq!(named.json()["error"], "invalid_client");
    let metadata = server.client.get("/.well-known/oauth-authorization-server").send().await.expect(200).json();
    let endpoint = format!("{}/oauth2/par", server.issuer);
    assert_eq!(metadata["pushed_authorization_request_endpoint"], endpoint);
}

#[tokio::test]
async fn a_pushed_request_is_its_clients() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let admin = server.admin().await;
    let app = server.application("public", json!({ "consent": "implied" })).await;
    let other = server.application("public", json!({ "consent": "implied" })).await;
    let cookie = server.page_sign_in(ADA).await;
    let uri = address(push(&server, &app, &[]).await);
    for (who, what) in [(&other, uri.as_str()), (&app, "urn:ietf:params:oauth:request_uri:nothing")] {
        let refused = come(&server, who, &cookie, what, &[]).await.expect(400);
        assert!(refused.text().contains("invalid_request_uri") && refused.header("location").is_empty());
    }
    // A client that was switched off, also one that is on again.
    for disabled in [true, false] {
        let call = server.client.patch(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access);
        call.json(&json!({ "disabled": disabled })).send().await.expect(200);
        let refused = come(&server, &app, &cookie, &uri, &[]).await.expect(400);
        assert!(refused.header("location").is_empty());
    }
}

#[tokio::test]
async fn a_public_client_pushes_no_more_than_its_share() {
    let server = TestServer::behind_a_proxy(Options::default()).await;
    let public = server.application("public", json!({})).await;
    let confidential = server.application("confidential", json!({})).await;
    let mut pushed = 0;
    let told = loop {
        let answer = push(&server, &public, &[]).await;
        if answer.status != 201 || pushed == 120 {
            break answer.expect(429);
        }
        pushed += 1;
    };
    assert!(pushed >= 60, "{pushed}");
    assert_eq!((told.json()["error"].as_str(), told.header("retry-after").is_empty()), (Some("slow_down"), false));
    // Who proves who it is is not counted.
    for _ in 0..130 {
        push(&server, &confidential, &[]).await.expect(201);
    }
}
